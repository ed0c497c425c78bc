"""State updates and predictions are bitwise the same one by one and in batches; conversion of predictions to rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import state as s
from features import state_update
from serving.feature_snapshots import (
    FeatureSnapshots,
    concatenate,
    snapshots_of,
    update_each,
    update_each_with_sessions,
    update_states,
)
from serving.predictor import NOT_PROMOTED, Predictor
from serving.request_decoding import RequestLimits, decode_request
from serving.request_scoring import score_request
from serving.response import BatteryPrediction, response_entries, to_json
from serving.scorer import Scorer, score
from telemetry.contract import SIGNALS, names
from telemetry.stores.postgres import PREDICTION_FIELDS
from tests.features.conftest_features import drive
from training.release import LoadedRelease

N_BATTERIES = 3
Battery = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def history() -> list[np.ndarray]:
    """Readings of each battery: two drives with charging, a gap in between, and some missing values."""
    time_s = np.concatenate([np.arange(0, 9_000, 30.0), np.arange(90_000, 99_000, 30.0)])
    matrices = [state_update.readings_matrix(drive(time_s, seed)) for seed in range(N_BATTERIES)]
    rng = np.random.default_rng(0)
    for matrix in matrices:
        optional = matrix[:, 4:]
        optional[rng.random(optional.shape) < 0.1] = np.nan
    return matrices


def fresh() -> np.ndarray:
    states = s.new_states(N_BATTERIES)
    for state in states[1:]:  # the capacity of the first battery is unknown
        s.set_battery(state, nominal_capacity_ah=100.0, cells_in_series=96, chemistry="NMC")
    return states


def interleaved(history: list[np.ndarray], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Battery rows and readings in a random order of batteries, with some duplicates."""
    rng = np.random.default_rng(seed)
    turns = rng.permutation(np.repeat(np.arange(N_BATTERIES), [len(matrix) for matrix in history]))
    following = [iter(matrix) for matrix in history]
    rows = np.stack([next(following[battery]) for battery in turns])
    again = np.sort(rng.integers(0, len(turns), 50))
    return np.insert(turns, again, turns[again // 2]), np.insert(rows, again, rows[again // 2], axis=0)


def assert_same(left: FeatureSnapshots, right: FeatureSnapshots) -> None:
    for field in dataclasses.fields(FeatureSnapshots):
        a, b = getattr(left, field.name), getattr(right, field.name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=field.name)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, 1850), max_size=4))
def test_batch_update_equals_updates_one_by_one(history: list[np.ndarray], seed: int, cuts: list[int]) -> None:
    battery, rows = interleaved(history, seed)
    one_by_one, applied = fresh(), []
    snapshots = []
    for i in range(len(rows)):
        applied.append(state_update.update_from_readings(one_by_one, battery[i : i + 1], rows[i : i + 1]).applied)
        snapshots.append(snapshots_of(one_by_one[battery[i : i + 1]]))
    states = fresh()
    parts = [update_each(states, battery[part], rows[part]) for part in np.split(np.arange(len(rows)), sorted(cuts))]
    assert_same(concatenate([part for part, _ in parts]), concatenate(snapshots))
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), np.concatenate(applied))
    np.testing.assert_array_equal(states, one_by_one)
    assert sum(not part.all() for _, part in parts) > 0
    without_snapshots = fresh()
    advanced, closed = update_states(without_snapshots, battery, rows)
    np.testing.assert_array_equal(advanced > 0, np.concatenate(applied))
    np.testing.assert_array_equal(without_snapshots, one_by_one)
    offline = state_update.update_from_readings(fresh(), battery, rows)
    np.testing.assert_array_equal(closed, offline.closed)
    np.testing.assert_array_equal(update_each_with_sessions(fresh(), battery, rows)[2], offline.closed)
    assert len(closed) >= N_BATTERIES - 1, "the capacity of the first battery is unknown"


def test_snapshots_have_the_features_of_the_state(history: list[np.ndarray]) -> None:
    states = fresh()
    before = snapshots_of(states)
    assert not before.has_reading.any()
    assert np.isnan(before.time_s).all()
    state_update.update_from_readings(states, *interleaved(history, 0))
    snapshots = snapshots_of(states)
    for i, state in enumerate(states):
        np.testing.assert_array_equal(snapshots.reading_features[i], state_update.reading_features(state))
        np.testing.assert_array_equal(snapshots.cycle_features[i], state_update.cycle_features(state))
        view = s.view(state)
        assert (snapshots.time_s[i], snapshots.cycles[i], snapshots.cycles_seen[i]) == (
            view.time_s,
            view.cycles,
            view.cycles_seen,
        )
    assert snapshots.has_reading.all()
    assert snapshots.nominal_capacity_known.tolist() == [False, True, True]


def test_closed_session_changes_the_snapshot_of_the_closing_reading(history: list[np.ndarray]) -> None:
    battery, rows = interleaved(history, 1)
    by_reading = state_update.update_from_readings(fresh(), battery, rows)
    closed = by_reading.closed_table()["reading"].to_numpy()
    snapshots, _ = update_each(fresh(), battery, rows)
    assert len(closed) > N_BATTERIES
    np.testing.assert_array_equal(snapshots.cycle_features[closed], by_reading.closed_features)
    for own in (np.flatnonzero(battery == k) for k in range(N_BATTERIES)):
        seen = np.diff(snapshots.cycles_seen[own], prepend=0)
        np.testing.assert_array_equal(own[seen > 0], np.intersect1d(own, closed))


def snapshots_with_cycles(history: list[np.ndarray]) -> tuple[FeatureSnapshots, np.ndarray]:
    """Snapshots of batteries with and without enough cycles for every target, and their battery rows."""
    states = fresh()
    rng = np.random.default_rng(1)
    cycles = np.column_stack([np.arange(1.0, 31.0), rng.normal(3.0, 1.0, (30, len(SIGNALS)))])
    state_update.update_from_cycles(states, np.repeat([1, 2], [30, 5]), np.concatenate([cycles, cycles[:5]]))
    battery, rows = interleaved(history, 2)
    snapshots, _ = update_each(states, battery[:400], rows[:400])
    return snapshots, battery[:400]


def test_prediction_is_independent_of_other_snapshots_in_the_call(
    predictor: Predictor, history: list[np.ndarray]
) -> None:
    snapshots, _ = snapshots_with_cycles(history)
    together = predictor.predict_snapshots(snapshots)
    for i in range(len(snapshots)):
        one = FeatureSnapshots(
            **{f.name: getattr(snapshots, f.name)[i : i + 1] for f in dataclasses.fields(FeatureSnapshots)}
        )
        for target, alone in predictor.predict_snapshots(one).items():
            np.testing.assert_array_equal(alone.values, together[target].values[i : i + 1])
            assert (alone.model, alone.withheld) == (together[target].model, together[target].withheld[i : i + 1])
    given_ = {target: sum(reason is None for reason in values.withheld) for target, values in together.items()}
    assert given_["temperature"] == 400
    assert 0 < given_["rul"] < given_["soh"] < 400


def test_rows_and_messages_equal_the_response_entries(predictor: Predictor, battery: Battery) -> None:
    entries = [battery(f"B{i}", readings=range(i), cycles=range(1, 5 * i)) for i in range(5)]
    request = decode_request(orjson.dumps({"batteries": entries}), RequestLimits(9, 999, 10**6)).scoring_request
    (result,) = score_request(request, predictor)
    ids, snapshots = request.battery_ids, result.snapshots
    now = datetime(2026, 2, 1, tzinfo=UTC)
    scores = Scorer(predictor).score(ids, snapshots, now)
    rows = scores.rows
    response = response_entries(request, result, predictor, [[]] * len(ids))
    fields = {"soh": "soh", "temperature": "temperature", "rul": "rul", "failure_probability": "failure"}
    expected = {
        (entry["battery_id"], entry["time"], target, entry[field]["value"], entry[field]["model"])
        for entry in response
        for field, target in fields.items()
        if entry["time"] is not None and entry[field]["value"] is not None
    }
    assert len(rows) == len(expected) > 10
    assert expected == {
        (row["battery_id"], row["time"], row["target"], row["value"],
         f"{row['model_name']}/{row['model_version']}")
        for row in rows
    }  # fmt: skip
    ages = dict(zip(ids, snapshots.cycles, strict=True))
    for row in rows:
        assert row.keys() <= set(names(PREDICTION_FIELDS))
        assert (row["role"], row["predicted_at"], row["cycle_index"]) == ("champion", now, ages[row["battery_id"]])
        ahead = timedelta(seconds=300) if row["target"] == "temperature" else None
        assert row["due"] == (None if ahead is None else row["time"] + ahead)
    for message, entry in zip(scores.entries, response, strict=True):
        assert message | {"state": entry["state"]} == entry
        assert entry["cycle_index"] == ages[entry["battery_id"]]
        BatteryPrediction.model_validate_json(to_json(entry))


def test_target_missing_from_the_release_has_no_row(release: LoadedRelease, history: list[np.ndarray]) -> None:
    without = {name: model for name, model in release.models.items() if name != "rul"}
    predictor = Predictor(dataclasses.replace(release, models=without))
    snapshots, battery = snapshots_with_cycles(history)
    predicted = predictor.predict_snapshots(snapshots)
    assert set(predicted["rul"].withheld) == {NOT_PROMOTED}
    rows = score(predictor, [f"B{k}" for k in battery], snapshots, "challenger", datetime.now(UTC)).rows
    assert {row["target"] for row in rows} == {"soh", "temperature", "failure"}
    assert {row["role"] for row in rows} == {"challenger"}
