"""Predictions of a request: values, withheld targets, entry for each reading, rejected releases."""

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

import serving.request_scoring
from features import state, state_update
from features.targets import TARGET_NAMES, TARGETS
from serving.predictor import NOT_PROMOTED, Predictor
from serving.request_decoding import RequestLimits, decode_request
from serving.request_scoring import ScoringRequest, score_request
from serving.response import BatteryPrediction, response_entries, to_json
from telemetry.errors import TwinError
from tests.training.small_models import INTERVAL
from training.onnx_runtime import OnnxForest
from training.release import LoadedRelease

LIMITS = RequestLimits(batteries=100, rows=10_000, body_bytes=10_000_000)
Battery = Callable[..., dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class TargetPrediction:
    """Prediction of one target; `value` is None if withheld, with the reason in `withheld`."""

    value: float | None
    model: str | None
    withheld: str | None


@dataclasses.dataclass(frozen=True)
class EntryResult:
    """Result of one response entry; `state` is None if the battery's state is not final."""

    state: Any
    predictions: dict[str, TargetPrediction]
    stale_readings: int
    stale_cycles: int


def decoded(*batteries: dict[str, Any], **fields: object) -> ScoringRequest:
    return decode_request(orjson.dumps({"batteries": batteries, **fields}), LIMITS).scoring_request


def score_entries(predictor: Predictor, *batteries: dict[str, Any], **fields: object) -> list[EntryResult]:
    request = decoded(*batteries, **fields)
    return [
        EntryResult(
            request.states[result.battery_row[i]].copy() if result.is_last[i] else None,
            {
                target: TargetPrediction(
                    None if values.withheld[i] else float(values.values[i]), values.model, values.withheld[i]
                )
                for target, values in result.predicted.items()
            },
            result.stale_readings[i] + result.duplicates[i] + result.conflicts[i],
            result.stale_cycles[i],
        )
        for result in score_request(request, predictor)
        for i in range(len(result.snapshots))
    ]


def entries(predictor: Predictor, *batteries: dict[str, Any], **fields: object) -> list[dict[str, Any]]:
    request = decoded(*batteries, **fields)
    notes = [["an ignored field"] for _ in batteries]
    return [
        json.loads(to_json(entry))
        for result in score_request(request, predictor)
        for entry in response_entries(request, result, predictor, notes)
    ]


def test_predictions_equal_the_forests_on_the_state_features(
    predictor: Predictor, release: LoadedRelease, battery: Battery
) -> None:
    (one,) = score_entries(predictor, battery(readings=range(0, 600, 10), cycles=range(1, 15)))
    request = decoded(battery(readings=range(0, 600, 10), cycles=range(1, 15)))
    states = request.states.copy()
    state_update.update_from_cycles(states, np.zeros(14, dtype=np.int64), request.cycles)
    state_update.update_from_readings(states, np.zeros(60, dtype=np.int64), request.readings)
    vectors = {"reading": state_update.reading_features(states[0]), "cycle": state_update.cycle_features(states[0])}
    names = {"reading": state_update.READING_FEATURES, "cycle": state_update.CYCLE_FEATURES}
    for name, target in TARGETS.items():
        features = dict(zip(names[target.cadence], vectors[target.cadence], strict=True))
        model = release.models[name]
        row = np.array([[features[column] for column in model.fit["feature_names"]]], dtype=np.float32)
        expected = OnnxForest(model.path).predict(row)[0]
        expected += features[target.offset] if target.offset else 0.0
        assert one.predictions[name].value == expected
        assert one.predictions[name].model == f"battery-{name}/1"


def test_intervals_are_multiples_of_the_spread_around_the_prediction(
    predictor: Predictor, release: LoadedRelease, battery: Battery
) -> None:
    given = battery(readings=range(0, 600, 10), cycles=range(1, 15))
    (entry,) = entries(predictor, given)
    BatteryPrediction.model_validate(entry)
    request = decoded(given)
    (result,) = score_request(request, predictor)
    for name, target in TARGETS.items():
        shown, values = entry[target.shown.field], result.predicted[name]
        if target.kind == "classification":
            assert values.interval is None
            assert not {"interval", "coverage"} & set(shown)
            continue
        assert values.interval is not None
        lower, upper = values.interval
        features = state_update.reading_features if target.cadence == "reading" else state_update.cycle_features
        names = state_update.READING_FEATURES if target.cadence == "reading" else state_update.CYCLE_FEATURES
        columns = [names.index(column) for column in release.models[name].fit["feature_names"]]
        row = features(request.states[0])[columns].astype(np.float32)
        spread = OnnxForest(release.models[name].path).run(row[None, :]).spread
        assert spread is not None
        half = INTERVAL["factor"] * (spread + INTERVAL["floor"])
        np.testing.assert_array_equal((lower, upper), (values.values - half, values.values + half))
        assert shown["coverage"] == 0.9
        assert shown["interval"] == [*target.to_shown(lower).tolist(), *target.to_shown(upper).tolist()]
        assert shown["interval"][0] <= shown["value"] <= shown["interval"][1]
    assert entry["rul"]["interval"][0] >= 0.0


def test_withheld_predictions_have_no_interval(predictor: Predictor, battery: Battery) -> None:
    (entry,) = entries(predictor, battery(readings=(0,), cycles=range(1, 5)))
    assert entry["rul"]["value"] is None
    assert "interval" not in entry["rul"]
    assert "interval" in entry["soh"]


def test_models_without_calibration_or_spread_predict_without_interval(
    release: LoadedRelease, battery: Battery
) -> None:
    """Models of fewer batteries, and models that an earlier version registered."""
    models = {
        name: dataclasses.replace(model, fit={**model.fit, "interval": {"reason": "too few batteries"}})
        for name, model in release.models.items()
    }
    predictor = Predictor(dataclasses.replace(release, models=models))
    (entry,) = entries(predictor, battery(readings=(0,), cycles=range(1, 15)))
    assert all("interval" not in entry[target.shown.field] for target in TARGETS.values())
    assert all(entry[target.shown.field]["value"] is not None for target in TARGETS.values())


def with_domain(release: LoadedRelease, target: str, **changes: Any) -> Predictor:
    """The release whose model of `target` has seen any value of its features between -1e6 and 1e6."""
    model = release.models[target]
    n = len(model.fit["feature_names"])
    domain = {
        "minimum": [-1e6] * n,
        "maximum": [1e6] * n,
        "never_missing": [False] * n,
        "weight": [1.0 / n] * n,
        "threshold": 0.02,
        "chemistries": ["NMC"],
        "nominal_capacity_ah": [150.0, 150.0],
        **changes,
    }
    changed = dataclasses.replace(model, fit={**model.fit, "domain": domain})
    return Predictor(dataclasses.replace(release, models={**release.models, target: changed}))


def test_battery_like_those_in_training_is_in_domain(release: LoadedRelease, battery: Battery) -> None:
    (entry,) = entries(with_domain(release, "soh"), battery(readings=(0,), cycles=range(1, 15)))
    assert not {"out_of_domain", "withheld"} & set(entry["soh"])


def test_value_of_a_battery_out_of_domain_has_the_difference_and_no_interval(
    release: LoadedRelease, battery: Battery
) -> None:
    names = release.models["soh"].fit["feature_names"]
    limits = [1e6] * len(names)
    limits[names.index("cycles")] = 1.0
    given = battery(readings=(0,), cycles=range(1, 15))
    (plain,), (entry,) = (
        entries(predictor, given)
        for predictor in (with_domain(release, "soh"), with_domain(release, "soh", maximum=limits))
    )
    BatteryPrediction.model_validate(entry)
    assert entry["soh"]["value"] == plain["soh"]["value"]
    assert entry["soh"]["out_of_domain"].startswith("outside of the training data: cycles is 14 (")
    assert not {"interval", "coverage"} & set(entry["soh"])
    assert {name: entry[name] for name in ("temperature", "rul", "failure_probability")} == {
        name: plain[name] for name in ("temperature", "rul", "failure_probability")
    }


def test_prediction_far_out_of_domain_is_withheld(release: LoadedRelease, battery: Battery) -> None:
    n = len(release.models["soh"].fit["feature_names"])
    predictor = with_domain(release, "soh", maximum=[-1e5] * n, never_missing=[True] * n)
    (entry,) = entries(predictor, battery(readings=(0,), cycles=range(1, 15)))
    BatteryPrediction.model_validate(entry)
    assert entry["soh"]["value"] is None
    assert entry["soh"]["withheld"].startswith("outside of the training data: ")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chemistries": ["LFP"]}, "the model was trained on LFP cells, this battery is NMC"),
        ({"nominal_capacity_ah": [1.1, 2.0]}, "the model was trained on nominal capacities of 1.1 Ah to 2 Ah"),
    ],
)
def test_predictions_for_another_kind_of_battery_are_withheld(
    release: LoadedRelease, battery: Battery, changes: dict[str, Any], reason: str
) -> None:
    (entry,) = entries(with_domain(release, "rul", **changes), battery(readings=(0,), cycles=range(1, 15)))
    assert entry["rul"]["value"] is None
    assert entry["rul"]["withheld"].startswith(reason.replace(" Ah to", " to"))
    assert entry["soh"]["value"] is not None


def test_predictions_are_withheld_without_enough_history(predictor: Predictor, battery: Battery) -> None:
    without_readings, few_cycles, many_cycles = score_entries(
        predictor,
        battery("A", readings=()),
        battery("B", readings=(0,), cycles=range(1, 10)),
        battery("C", readings=(), cycles=range(1, 11)),
    )
    assert {name: p.withheld for name, p in without_readings.predictions.items()} == {
        "soh": "fewer than 1 cycle seen",
        "temperature": "no reading yet",
        "rul": "fewer than 10 cycles seen",
        "failure": "fewer than 10 cycles seen",
    }
    assert {name for name, p in few_cycles.predictions.items() if p.withheld} == {"rul", "failure"}
    assert {name for name, p in many_cycles.predictions.items() if p.withheld} == {"temperature"}
    for one in (without_readings, few_cycles, many_cycles):
        assert all((p.value is None) == (p.withheld is not None) for p in one.predictions.values())


def test_batch_request_equals_single_requests(predictor: Predictor, battery: Battery) -> None:
    batteries = [battery(f"B{i}", readings=range(i), cycles=range(1, 2 * i)) for i in range(8)]
    together = score_entries(predictor, *batteries)
    alone = [one for entry in batteries for one in score_entries(predictor, entry)]
    for left, right in zip(together, alone, strict=True):
        assert left.predictions == right.predictions
        np.testing.assert_array_equal(left.state, right.state)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 60), max_size=6), by_cycle=st.booleans())
def test_any_split_of_the_history_gives_the_same_state(
    predictor: Predictor, battery: Battery, cuts: list[int], by_cycle: bool
) -> None:
    history = [range(1, 61), ()] if by_cycle else [(), range(0, 2400, 40)]
    (whole,) = score_entries(predictor, battery(cycles=history[0], readings=history[1]))
    text: str | None = None
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 60], strict=True):
        entry = battery(cycles=history[0][start:end], readings=history[1][start:end], state=text)
        (part,) = score_entries(predictor, entry)
        text = state.encode(part.state, "EV-7")
    assert text == state.encode(whole.state, "EV-7")
    assert part.predictions == whole.predictions


def test_stale_rows_are_counted_and_not_applied(predictor: Predictor, battery: Battery) -> None:
    (first,) = score_entries(predictor, battery(readings=range(5), cycles=range(1, 4)))
    again = battery(readings=[4, 2, 4], cycles=[3], state=state.encode(first.state, "EV-7"))
    (second,) = score_entries(predictor, again)
    assert (second.stale_readings, second.stale_cycles) == (3, 1)
    np.testing.assert_array_equal(second.state, first.state)
    (duplicates,) = score_entries(predictor, battery(readings=[0, 1, 1, 0, 2]))
    assert duplicates.stale_readings == 2


def test_target_missing_from_the_release_is_withheld(release: LoadedRelease, battery: Battery) -> None:
    without = {name: model for name, model in release.models.items() if name != "rul"}
    (one,) = score_entries(Predictor(dataclasses.replace(release, models=without)), battery(cycles=range(1, 20)))
    assert one.predictions["rul"].withheld == NOT_PROMOTED
    assert one.predictions["failure"].value is not None


def test_release_of_another_state_version_is_rejected(release: LoadedRelease) -> None:
    other = dataclasses.replace(release, release=dataclasses.replace(release.release, state_version=99))
    with pytest.raises(TwinError, match=r"battery-twin/1 was registered for state version 99.*dvc repro"):
        Predictor(other)


def test_model_with_unknown_features_is_rejected(release: LoadedRelease) -> None:
    soh = release.models["soh"]
    strange = dataclasses.replace(soh, fit={**soh.fit, "feature_names": ["colour"]})
    with pytest.raises(TwinError, match=r"battery-soh/1 needs features.*colour"):
        Predictor(dataclasses.replace(release, models={"soh": strange}))


def test_response_entry_conforms_to_the_contract(predictor: Predictor, battery: Battery) -> None:
    sent = battery(readings=[0, 0.25], cycles=range(1, 15))
    (one,) = score_entries(predictor, sent)
    (entry,) = entries(predictor, sent)
    BatteryPrediction.model_validate_json(json.dumps(entry))
    assert entry["time"] == "2026-01-01T00:00:00.250000Z"
    assert entry["temperature"]["due"] == "2026-01-01T00:05:00.250000Z"
    assert entry["cycle_index"] == pytest.approx(14.0)
    assert entry["release"] == "battery-twin/1"
    assert entry["soh"]["value"] == one.predictions["soh"].value * 100
    assert entry["soh"]["unit"] == "%"
    assert entry["rul"]["unit"] == "equivalent full cycles"
    assert entry["failure_probability"]["horizon_cycles"] == 100
    assert entry["notes"] == ["an ignored field"]


def test_time_is_null_before_the_first_reading(predictor: Predictor, battery: Battery) -> None:
    (entry,) = entries(predictor, battery(readings=(), battery=None))
    BatteryPrediction.model_validate_json(json.dumps(entry))
    assert entry["time"] is None
    assert "due" not in entry["temperature"]
    assert entry["temperature"]["withheld"] == "no reading yet"


def test_rul_is_never_negative() -> None:
    assert TARGETS["rul"].to_shown(np.array([-3.0, 4.0, np.nan])).tolist()[:2] == [0.0, 4.0]


def test_all_targets_are_predicted(predictor: Predictor, battery: Battery) -> None:
    (one,) = score_entries(predictor, battery())
    assert set(one.predictions) == set(TARGET_NAMES)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_reading_equals_one_request_for_each_reading(
    predictor: Predictor, battery: Battery, data: st.DataObject
) -> None:
    """With late and duplicate readings, in chunks of any size."""
    seconds = st.lists(st.integers(0, 40).map(lambda tick: 30.0 * tick), max_size=20)
    sent = [
        battery(f"B{i}", readings=data.draw(seconds), cycles=range(1, data.draw(st.integers(1, 13))))
        for i in range(data.draw(st.integers(1, 4)))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving.request_scoring, "_CHUNK_ROWS", data.draw(st.integers(1, 30)))
        together = score_entries(predictor, *sent, every_reading=True)
    expected = []
    for entry in sent:
        text: str | None = None
        cycles = entry["cycles"]
        for reading in entry["readings"] or [None]:
            part = entry | {"readings": [reading] if reading else [], "cycles": cycles, "state": text}
            (one,) = score_entries(predictor, part)
            cycles, text = [], state.encode(one.state, entry["battery_id"])
            expected.append(one)
    assert len(together) == len(expected)
    for left, right in zip(together, expected, strict=True):
        assert left.predictions == right.predictions
        assert left.stale_readings == right.stale_readings
        if left.state is not None:
            np.testing.assert_array_equal(left.state, right.state)
    assert sum(one.state is not None for one in together) == len(sent)


def test_every_reading_has_an_entry_and_the_last_has_the_state(predictor: Predictor, battery: Battery) -> None:
    sent = [
        battery("A", readings=[0, 10, 5, 20], cycles=[3, 2]),
        battery("B", readings=()),
        battery("C", readings=[7]),
    ]
    responses = entries(predictor, *sent, every_reading=True)
    seconds = [0, 10, 10, 20, None, 7]
    assert [entry["battery_id"] for entry in responses] == ["A"] * 4 + ["B", "C"]
    assert [entry["time"] for entry in responses] == [
        None if second is None else f"2026-01-01T00:00:{second:02d}Z" for second in seconds
    ]
    assert ["state" in entry for entry in responses] == [False, False, False, True, True, True]
    unknown, stale = "an ignored field", "1 reading older than the state was left out"
    assert [entry["notes"] for entry in responses] == [
        [], [], [stale], [unknown, "1 cycle older than the state was left out"], [unknown], [unknown]
    ]  # fmt: skip
    default = entries(predictor, *sent)
    assert [entry["state"] for entry in default] == [responses[i]["state"] for i in (3, 4, 5)]
    assert [entry["soh"] for entry in default] == [responses[i]["soh"] for i in (3, 4, 5)]
