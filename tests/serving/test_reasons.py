"""Reasons: on request the signals that contribute most, the right ones for known drivers, and none without them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import orjson
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.pipeline import Pipeline

from features.state import new_states
from features.state_update import CYCLE_FEATURES, update_from_cycles
from features.targets import TARGETS, signal_of
from serving.predictor import Predictor
from serving.reasons import MAX_REASONS, Reason, strongest
from serving.request_decoding import RequestLimits, decode_request
from serving.request_scoring import score_request
from serving.response import BatteryPrediction, PredictResponse, response_entries, to_json
from simulator.faults import IMBALANCE, effects
from telemetry.contract import SIGNALS
from tests.training.test_negative_control import table_of
from training.forests import ForestParams, fit, inputs, predict
from training.onnx_export import to_onnx
from training.release import LoadedRelease
from training.tree_paths import SAMPLES, TreePaths

NAMES = ("cycles", "a__last", "b__last", "a__mean_5", "c__last", "d__last", "d__mean_5")
PARAMS = ForestParams(n_estimators=30, max_depth=8, max_features=0.5, min_samples_leaf=3)
FAILURE = TARGETS["failure"]
Battery = Callable[..., dict[str, Any]]


def rows_of(n: int) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float64, (n, len(NAMES)), elements=st.sampled_from([-3.0, -1.0, -0.25, 0.0, 0.0, 0.5, 2.0]))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(contributions=rows_of(4), data=st.data())
def test_strongest_signals(contributions: np.ndarray, data: st.DataObject) -> None:
    features = data.draw(rows_of(4))
    features[0, 1] = np.nan
    together = strongest(contributions, features, NAMES)
    for i, reasons in enumerate(together):
        total = {
            signal: sum(contributions[i, k] for k, name in enumerate(NAMES) if signal_of(name) == signal)
            for signal in dict.fromkeys(map(signal_of, NAMES))
        }
        sizes = [abs(reason.contribution) for reason in reasons]
        assert sizes == sorted(map(abs, total.values()), reverse=True)[: len(sizes)]
        assert len(sizes) == min(MAX_REASONS, sum(value != 0.0 for value in total.values()))
        assert len({reason.signal for reason in reasons}) == len(reasons)
        for reason in reasons:
            column = NAMES.index(reason.feature)
            assert signal_of(reason.feature) == reason.signal
            assert reason.contribution == total[reason.signal] != 0.0
            assert contributions[i, column] * reason.contribution > 0.0
            assert reason.value == (None if np.isnan(features[i, column]) else features[i, column])
        assert strongest(contributions[i : i + 1], features[i : i + 1], NAMES) == [reasons]


def reasons_of(model: Pipeline, name: str, table: pd.DataFrame) -> list[list[Reason]]:
    paths = TreePaths.read(to_onnx(model, len(TARGETS[name].feature_names)))
    assert paths is not None
    x = inputs(table, TARGETS[name])
    return strongest(paths.contributions(x.astype(np.float32)), x, TARGETS[name].feature_names)


def share_named_first(reasons: list[list[Reason]], signal: str) -> float:
    return float(np.mean([bool(own) and own[0].signal == signal for own in reasons]))


@pytest.mark.parametrize("name", ["rul", "failure"])
def test_the_driver_is_named_and_its_replacement_moves_the_prediction(name: str) -> None:
    target = TARGETS[name]
    driver = target.feature_names[1]
    table, unseen = (table_of(target, signal=3.0, seed=seed) for seed in (0, 1))
    model = fit(table, target, PARAMS, seed=1)
    reasons = reasons_of(model, name, unseen)
    # The label is 1 above 0.5 of three times the driver: with a value near it, other features may count as much.
    far = (unseen[driver].fillna(0.0) - 0.17).abs().to_numpy() > 0.5
    first = [own[0] for own, is_far in zip(reasons, far, strict=True) if is_far]
    named = [reason.feature == driver for reason in first]
    assert np.mean(named) > 0.95
    replaced = unseen.assign(**{driver: table[driver].median()})
    change = (predict(model, unseen, target) - predict(model, replaced, target))[far]
    agrees = np.sign(change) == np.sign([reason.contribution for reason in first])
    assert agrees[named].mean() > 0.95


@pytest.mark.parametrize("name", ["rul", "failure"])
def test_without_signal_no_feature_is_named_again_and_again(name: str) -> None:
    """Negative control: the label is noise."""
    target = TARGETS[name]
    table, unseen = (table_of(target, signal=0.0, seed=seed) for seed in (0, 1))
    reasons = reasons_of(fit(table, target, PARAMS, seed=1), name, unseen)
    signals = {signal_of(feature) for feature in target.feature_names}
    assert max(share_named_first(reasons, signal) for signal in signals) < 0.2


def fleet_with_imbalance(batteries: int, seed: int, *, cause: str = "cell_voltage_spread_v") -> pd.DataFrame:
    """Features by cycle of batteries of which half get the simulator's imbalance, and whether it ends in a fault soon.

    Args:
        cause: signal that shows the charge of the weak group as a voltage (1 V for the whole charge).
    """
    rng = np.random.default_rng(seed)
    frames = []
    for number in range(batteries):
        count, onset = 120, 40 + 5 * (number % 8)
        cycles = 1.0 + np.arange(count, dtype=float)
        severity = np.clip((cycles - onset) / 60.0, 0.0, 1.0) if number % 2 else np.zeros(count)
        signals = 3.0 + 0.3 * rng.normal(size=len(SIGNALS)) + 0.05 * rng.normal(size=(count, len(SIGNALS)))
        weak = [-effects(IMBALANCE, float(level)).weak_charge_offset for level in severity]
        signals[:, SIGNALS.index(cause)] = 0.01 + np.array(weak) + 0.004 * rng.normal(size=count)
        rows = np.zeros(count, dtype=np.int64)
        updated = update_from_cycles(new_states(1), rows, np.column_stack([cycles, signals]))
        assert updated.applied.all()
        frame = pd.DataFrame(updated.features, columns=list(CYCLE_FEATURES))
        frame[FAILURE.label] = (severity > 0.4).astype(float)
        frames.append(frame.assign(battery_id=f"B{number:02d}", severity=severity)[10:])
    return pd.concat(frames, ignore_index=True)


@pytest.mark.parametrize("cause", ["cell_voltage_spread_v", "temperature_rise_c"])
def test_a_simulated_fault_is_explained_by_the_signal_that_shows_it(cause: str) -> None:
    """The same fault in another signal, as a negative control, is explained by the other one."""
    model = fit(fleet_with_imbalance(16, 1, cause=cause), FAILURE, PARAMS, seed=1)
    unseen = fleet_with_imbalance(8, 2, cause=cause)
    reasons = reasons_of(model, "failure", unseen)
    faulty = (unseen["severity"] > 0.5).to_numpy()
    of_faulty = [own for own, is_faulty in zip(reasons, faulty, strict=True) if is_faulty]
    of_others = [own for own, is_faulty in zip(reasons, faulty, strict=True) if not is_faulty]
    assert share_named_first(of_faulty, cause) > 0.95
    assert all(own[0].contribution > 0.0 for own in of_faulty)
    raised = [
        own[0].contribution > 0.0 for own, p in zip(of_others, unseen["severity"][~faulty], strict=True) if p == 0
    ]
    assert np.mean(raised) < 0.05


LIMITS = RequestLimits(batteries=100, rows=10_000, body_bytes=10_000_000)


def entries(predictor: Predictor, *batteries: dict[str, Any], **fields: object) -> list[dict[str, Any]]:
    request = decode_request(orjson.dumps({"batteries": batteries, **fields}), LIMITS).scoring_request
    return [
        json.loads(to_json(entry))
        for result in score_request(request, predictor)
        for entry in response_entries(request, result, predictor, [[] for _ in batteries])
    ]


def without_reasons(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: item for key, item in value.items() if key != "reasons"} if isinstance(value, dict) else value
        for name, value in entry.items()
    }


@pytest.mark.parametrize("fields", [{}, {"every_reading": True}])
def test_reasons_are_added_on_request_and_nothing_else_changes(
    predictor: Predictor, release: LoadedRelease, battery: Battery, fields: dict[str, object]
) -> None:
    sent = [battery("A", readings=range(0, 90, 30), cycles=range(1, 15)), battery("new")]
    plain, explained = entries(predictor, *sent, **fields), entries(predictor, *sent, reasons=True, **fields)
    assert [without_reasons(entry) for entry in explained] == plain
    assert all("reasons" not in entry[target.shown.field] for entry in plain for target in TARGETS.values())
    for entry in explained:
        BatteryPrediction.model_validate_json(json.dumps(entry))
        for name, target in TARGETS.items():
            prediction = entry[target.shown.field]
            is_given = target.explained and prediction["value"] is not None
            assert ("reasons" in prediction) == is_given
            assert is_given == (name in ("rul", "failure") and entry["battery_id"] == "A")
            for reason in prediction.get("reasons", ()):
                assert reason["feature"] in release.models[name].fit["feature_names"]
                assert reason["contribution"] != 0.0
    (first, *_) = explained
    assert 1 <= len(first["rul"]["reasons"]) <= MAX_REASONS


def test_values_are_those_of_the_state_and_null_where_missing(predictor: Predictor, battery: Battery) -> None:
    sent = battery("A", cycles=range(1, 15))
    for row in sent["cycles"]:
        del row[SIGNALS[0]]
    (entry,) = entries(predictor, sent, reasons=True)
    request = decode_request(orjson.dumps({"batteries": [sent]}), LIMITS).scoring_request
    (result,) = score_request(request, predictor)
    of_state = dict(zip(CYCLE_FEATURES, result.snapshots.cycle_features[0].tolist(), strict=True))
    named = [*entry["rul"]["reasons"], *entry["failure_probability"]["reasons"]]
    for reason in named:
        value = of_state[reason["feature"]]
        assert reason["value"] == (None if np.isnan(value) else value)
    assert any(reason["value"] is None for reason in named)
    assert any(reason["value"] is not None for reason in named)


def test_a_model_without_the_rows_of_its_nodes_is_noted(
    release: LoadedRelease, battery: Battery, tmp_path: Path
) -> None:
    """As registered before there were reasons."""
    old = onnx.load(release.models["rul"].path)
    for attribute in (one for node in old.graph.node for one in node.attribute if one.name == SAMPLES):
        attribute.floats[:] = [1.0] * len(attribute.floats)
    onnx.save(old, tmp_path / "model.onnx")
    models = {**release.models, "rul": dataclasses.replace(release.models["rul"], path=tmp_path / "model.onnx")}
    predictor = Predictor(dataclasses.replace(release, models=models))
    sent = [battery("A", cycles=range(1, 15)), battery("new")]
    explained, withheld = entries(predictor, *sent, reasons=True)
    assert "reasons" not in explained["rul"]
    assert explained["failure_probability"]["reasons"]
    assert explained["notes"] == ["battery-rul/1 was trained before there were reasons: register a newer model"]
    assert withheld["notes"] == []
    plain = entries(predictor, *sent)
    assert plain[0]["notes"] == []


def test_reasons_over_http(service: httpx.Client, battery: Battery) -> None:
    sent = {"batteries": [battery(cycles=range(1, 15))]}
    response = service.post("/predict", json=sent | {"reasons": True})
    PredictResponse.model_validate_json(response.content)
    (entry,) = response.json()["predictions"]
    assert set(entry["rul"]["reasons"][0]) == {"signal", "feature", "value", "contribution"}
    assert [without_reasons(entry)] == service.post("/predict", json=sent).json()["predictions"]
    assert service.post("/predict", json=sent | {"reasons": None}).json()["predictions"] == [without_reasons(entry)]
    refused = service.post("/predict", json=sent | {"reasons": "yes"})
    assert refused.status_code == 422
    assert refused.json()["field"] == "reasons"
    schemas = service.get("/openapi.json").json()["components"]["schemas"]
    assert "reasons" in schemas["RulPrediction"]["properties"]
    assert "reasons" in schemas["FailurePrediction"]["properties"]
    assert "reasons" not in schemas["SohPrediction"]["properties"]
