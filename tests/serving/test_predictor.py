"""The pure core: what it predicts, what it withholds and which releases it refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import TwinError
from features import fold, state
from features.targets import TARGET_NAMES, TARGETS
from serving.decode import Limits, decode_request
from serving.messages import SURFACES, BatteryPrediction, battery_prediction
from serving.predictor import NOT_PROMOTED, BatteryAnswer, BatteryInput, Predictor
from training.onnx_runtime import OnnxForest
from training.release import LoadedRelease

LIMITS = Limits(batteries=100, rows=10_000, body_bytes=10_000_000)
Battery = Callable[..., dict[str, Any]]


def decoded(*batteries: dict[str, Any]) -> list[BatteryInput]:
    return decode_request(orjson.dumps({"batteries": batteries}), LIMITS).batteries


def answer(predictor: Predictor, *batteries: dict[str, Any]) -> list[BatteryAnswer]:
    return predictor.predict(decoded(*batteries))


def test_every_target_has_a_surface() -> None:
    assert SURFACES.keys() == TARGETS.keys()


def test_predictions_are_those_of_the_forests_on_the_folds_features(
    predictor: Predictor, release: LoadedRelease, battery: Battery
) -> None:
    (got,) = answer(predictor, battery(readings=range(0, 600, 10), cycles=range(1, 15)))
    (given_,) = decoded(battery(readings=range(0, 600, 10), cycles=range(1, 15)))
    states = given_.state[None].copy()
    fold.fold_cycles(states, np.zeros(14, dtype=np.int64), given_.cycles)
    fold.fold_readings(states, np.zeros(60, dtype=np.int64), given_.readings)
    vectors = {"reading": fold.reading_features(states[0]), "cycle": fold.cycle_features(states[0])}
    names = {"reading": fold.READING_FEATURES, "cycle": fold.CYCLE_FEATURES}
    for name, target in TARGETS.items():
        features = dict(zip(names[target.cadence], vectors[target.cadence], strict=True))
        model = release.models[name]
        row = np.array([[features[column] for column in model.fit["feature_names"]]], dtype=np.float32)
        expected = OnnxForest(model.path).predict(row)[0]
        expected += features[target.offset] if target.offset else 0.0
        assert got.predictions[name].value == expected
        assert got.predictions[name].model == f"battery-{name}/1"


def test_withholds_what_has_too_little_history(predictor: Predictor, battery: Battery) -> None:
    silent, young, old = answer(
        predictor,
        battery("silent", readings=()),
        battery("young", readings=(0,), cycles=range(1, 10)),
        battery("old", readings=(), cycles=range(1, 11)),
    )
    assert {name: p.withheld for name, p in silent.predictions.items()} == {
        "soh": "fewer than 1 cycle seen",
        "temperature": "no reading yet",
        "rul": "fewer than 10 cycles seen",
        "failure": "fewer than 10 cycles seen",
    }
    assert {name for name, p in young.predictions.items() if p.withheld} == {"rul", "failure"}
    assert {name for name, p in old.predictions.items() if p.withheld} == {"temperature"}
    for one in (silent, young, old):
        assert all((p.value is None) == (p.withheld is not None) for p in one.predictions.values())


def test_batch_answers_as_one_by_one(predictor: Predictor, battery: Battery) -> None:
    batteries = [battery(f"B{i}", readings=range(i), cycles=range(1, 2 * i)) for i in range(8)]
    together = answer(predictor, *batteries)
    alone = [one for entry in batteries for one in answer(predictor, entry)]
    for left, right in zip(together, alone, strict=True):
        assert left.predictions == right.predictions
        np.testing.assert_array_equal(left.state, right.state)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 60), max_size=6), by_cycle=st.booleans())
def test_any_split_of_history_gives_the_same_bits(
    predictor: Predictor, battery: Battery, cuts: list[int], by_cycle: bool
) -> None:
    history = [range(1, 61), ()] if by_cycle else [(), range(0, 2400, 40)]
    (whole,) = answer(predictor, battery(cycles=history[0], readings=history[1]))
    text: str | None = None
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 60], strict=True):
        entry = battery(cycles=history[0][start:end], readings=history[1][start:end], state=text)
        (part,) = answer(predictor, entry)
        text = state.encode(part.state)
    assert text == state.encode(whole.state)
    assert part.predictions == whole.predictions


def test_stale_rows_change_nothing_and_are_counted(predictor: Predictor, battery: Battery) -> None:
    (first,) = answer(predictor, battery(readings=range(5), cycles=range(1, 4)))
    again = battery(readings=[4, 2, 4], cycles=[3], state=state.encode(first.state))
    (second,) = answer(predictor, again)
    assert (second.stale_readings, second.stale_cycles) == (3, 1)
    np.testing.assert_array_equal(second.state, first.state)
    (duplicates,) = answer(predictor, battery(readings=[0, 1, 1, 0, 2]))
    assert duplicates.stale_readings == 2


def test_does_not_change_its_input(predictor: Predictor, battery: Battery) -> None:
    inputs = decoded(battery(cycles=range(1, 5)))
    before = inputs[0].state.copy()
    predictor.predict(inputs)
    np.testing.assert_array_equal(inputs[0].state, before)


def test_target_outside_the_release_is_withheld(release: LoadedRelease, battery: Battery) -> None:
    without = {name: model for name, model in release.models.items() if name != "rul"}
    (got,) = answer(Predictor(dataclasses.replace(release, models=without)), battery(cycles=range(1, 20)))
    assert got.predictions["rul"].withheld == NOT_PROMOTED
    assert got.predictions["failure"].value is not None


def test_refuses_a_release_of_another_fold(release: LoadedRelease) -> None:
    other = dataclasses.replace(release, release=dataclasses.replace(release.release, fold_version=99))
    with pytest.raises(TwinError, match=r"battery-twin/1 was made by version 99 of the fold.*dvc repro"):
        Predictor(other)


def test_refuses_a_model_with_unknown_features(release: LoadedRelease) -> None:
    soh = release.models["soh"]
    strange = dataclasses.replace(soh, fit={**soh.fit, "feature_names": ["colour"]})
    with pytest.raises(TwinError, match=r"battery-soh/1 asks for features.*colour"):
        Predictor(dataclasses.replace(release, models={"soh": strange}))


def test_answer_has_the_form_of_the_contract(predictor: Predictor, battery: Battery) -> None:
    (got,) = answer(predictor, battery(readings=[0, 0.25], cycles=range(1, 15)))
    entry = battery_prediction(got, predictor.label, predictor.horizons, unknown_fields=1)
    BatteryPrediction.model_validate_json(json.dumps(entry))
    assert entry["time"] == "2026-01-01T00:00:00.250000Z"
    assert entry["temperature"]["due"] == "2026-01-01T00:05:00.250000Z"
    assert entry["release"] == "battery-twin/1"
    assert entry["soh"]["value"] == got.predictions["soh"].value * 100
    assert entry["soh"]["unit"] == "%"
    assert entry["rul"]["unit"] == "equivalent full cycles"
    assert entry["failure_probability"]["horizon_cycles"] == 100
    assert entry["notes"] == ["1 field not in the contract ignored"]


def test_remaining_life_is_never_negative(predictor: Predictor, battery: Battery) -> None:
    (got,) = answer(predictor, battery(cycles=range(1, 15)))
    predictions = {**got.predictions, "rul": dataclasses.replace(got.predictions["rul"], value=-3.0)}
    below = dataclasses.replace(got, predictions=predictions)
    assert battery_prediction(below, "r", {})["rul"]["value"] == 0.0


def test_all_targets_are_answered(predictor: Predictor, battery: Battery) -> None:
    (got,) = answer(predictor, battery())
    assert set(got.predictions) == set(TARGET_NAMES)
