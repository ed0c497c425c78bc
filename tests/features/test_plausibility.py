"""Implausible readings: they are counted by kind and do not spoil the state; plausible ones are never flagged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest_features import drive

from features import plausibility, state_update, step
from features import state as s

PACK: dict[str, Any] = {"nominal_capacity_ah": 100.0, "cells_in_series": 96, "chemistry": "NMC"}
#: A day with a drive, a rest and a charge, and the drive of the next day.
TIMES_S = np.concatenate([np.arange(0, 10_800, 20.0), np.arange(86_400, 90_000, 20.0)])


def updated(readings: pd.DataFrame, **pack: Any) -> tuple[np.ndarray, state_update.ReadingUpdates]:
    """The state after `readings` of one battery."""
    states = s.new_states(1)
    s.set_battery(states[0], **(PACK | pack))
    rows = np.zeros(len(readings), dtype=np.int64)
    return states[0], state_update.update_from_readings(states, rows, state_update.readings_matrix(readings))


def counts(state: np.ndarray) -> dict[str, int]:
    """How many readings of each kind were counted, without zeros."""
    found = dict(zip(plausibility.KIND_NAMES, s.implausible_counts(state[None])[0].tolist(), strict=True))
    return {name: count for name, count in found.items() if count}


def changed(readings: pd.DataFrame, at: Any, **values: float) -> pd.DataFrame:
    copy = readings.copy()
    for name, value in values.items():
        copy.loc[at, name] = value
    return copy


def health(state: np.ndarray) -> np.ndarray:
    return state_update.cycle_features(state)


@pytest.mark.parametrize("seed", range(3))
def test_plausible_readings_are_never_flagged(seed: int) -> None:
    counted = drive(TIMES_S, seed).assign(charge_cycles=np.floor(300 + TIMES_S / 7e4))
    for readings in (drive(TIMES_S, seed), counted):
        state, _ = updated(readings)
        assert counts(state) == {}
        assert state[s.IMPLAUSIBLE] == 0


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("cell_voltage", {"voltage": 0.0}),
        ("cell_voltage", {"voltage": 3.7}),
        ("cell_voltage", {"voltage": 720.0}),
        ("current", {"current": 4_900.0}),
        ("current", {"current": -2_500.0}),
        ("cycle_count", {"charge_cycles": 65_535.0}),
        ("cycle_count", {"charge_cycles": 0.0}),
    ],
)
def test_one_implausible_value_leaves_the_state_as_if_it_had_not_been_sent(kind: str, wrong: dict[str, float]) -> None:
    readings = drive(TIMES_S).assign(charge_cycles=112.0)
    state, updates = updated(changed(readings, 100, **wrong))
    expected, without = updated(readings if kind == "cycle_count" else readings.drop(index=100))
    assert counts(state) == {kind: 1}
    assert state[s.IMPLAUSIBLE] == 0, "the newest reading is plausible"
    np.testing.assert_allclose(health(state), health(expected), rtol=1e-2, atol=1e-3)
    assert len(updates.closed) == len(without.closed) > 0
    # Only the throughput of one interval may differ.
    assert state[s.CYCLES] == pytest.approx(expected[s.CYCLES], abs=0.01)


@pytest.mark.parametrize("first", [65_535.0, 0.0])
def test_a_wrong_first_count_is_corrected_by_the_following_ones(first: float) -> None:
    readings = drive(TIMES_S).assign(charge_cycles=112.0)
    state, _ = updated(changed(readings, 0, charge_cycles=first))
    assert state[s.CYCLES] == 112.0
    assert counts(state)["cycle_count"] >= 1


def test_a_jump_is_believed_once_many_readings_confirm_it() -> None:
    readings = drive(TIMES_S).assign(charge_cycles=112.0)
    state, _ = updated(changed(readings, slice(100, None), charge_cycles=180.0))
    assert state[s.CYCLES] == 180.0
    assert counts(state) == {"cycle_count": 15}, "300 s of readings every 20 s"
    # After a week without telemetry the pack may have moved as much.
    later = readings.assign(charge_cycles=np.where(TIMES_S < 86_400, 112.0, 140.0))
    assert counts(updated(later)[0]) == {}


def test_a_lasting_fall_is_reported_as_a_reset_and_the_age_goes_on() -> None:
    readings = drive(TIMES_S).assign(charge_cycles=900.0)
    state, _ = updated(changed(readings, slice(100, None), charge_cycles=3.0))
    found = counts(state)
    assert found["cycle_count"] == 15
    assert found["reset"] == len(readings) - 100 - 15
    assert int(state[s.IMPLAUSIBLE]) >> plausibility.RESET & 1
    assert 900.2 < state[s.CYCLES] < 902.0, "counted from the throughput"


def test_wrong_unit_for_good_gives_no_health_and_says_so() -> None:
    readings = drive(TIMES_S)
    for wrong in ({"voltage": readings["voltage"] / 96}, {"current": readings["current"] * 1000}):
        state, updates = updated(readings.assign(**wrong))
        assert not len(updates.closed)
        assert np.isnan(health(state)[1:]).all()
        assert int(state[s.IMPLAUSIBLE]) & plausibility.WITHHOLD_BY_CYCLE
        assert int(state[s.IMPLAUSIBLE]) & plausibility.WITHHOLD_BY_READING


def test_reversed_current_gives_no_session_and_says_so() -> None:
    readings = drive(TIMES_S)
    state, updates = updated(readings.assign(current=-readings["current"]))
    assert not len(updates.closed) or np.isnan(updates.closed[:, step.CLOSED_SIGNALS :]).all()
    assert int(state[s.IMPLAUSIBLE]) >> plausibility.RESISTANCE & 1
    assert int(state[s.IMPLAUSIBLE]) & plausibility.WITHHOLD_BY_CYCLE
    assert not int(state[s.IMPLAUSIBLE]) & plausibility.WITHHOLD_BY_READING
    right, _ = updated(readings)
    assert right[s.RESISTANCE_IS_NEGATIVE] == 0.0


def test_more_than_the_capacity_in_one_session_is_noticed() -> None:
    state, _ = updated(drive(TIMES_S[TIMES_S < 3_600]), nominal_capacity_ah=20.0)
    assert int(state[s.IMPLAUSIBLE]) >> plausibility.THROUGHPUT & 1
    assert int(state[s.IMPLAUSIBLE]) & plausibility.WITHHOLD_BY_CYCLE


def test_state_recovers_when_the_unit_is_corrected() -> None:
    readings = drive(TIMES_S)
    wrong = changed(readings, slice(None, 199), voltage=3.7)
    state, _ = updated(wrong)
    expected, _ = updated(readings.iloc[200:])
    assert state[s.IMPLAUSIBLE] == 0
    np.testing.assert_array_equal(health(state)[1:], health(expected)[1:])


def test_pack_with_an_unknown_number_of_cells_has_no_cell_voltage() -> None:
    state, updates = updated(drive(TIMES_S), cells_in_series=None)
    assert np.isnan(state[s.CELL_VOLTAGE_V])
    assert counts(state) == {"cell_voltage": len(TIMES_S)}
    assert not int(state[s.IMPLAUSIBLE]) & (plausibility.WITHHOLD_BY_CYCLE | plausibility.WITHHOLD_BY_READING)
    assert len(updates.closed) > 0, "its current is known"
    cells = drive(TIMES_S)
    cell, _ = updated(cells.assign(voltage=cells["voltage"] / 96), cells_in_series=None)
    one, _ = updated(cells.assign(voltage=cells["voltage"] / 96), cells_in_series=1)
    np.testing.assert_array_equal(health(cell), health(one))


def test_nominal_voltage_gives_the_number_of_cells() -> None:
    (state,) = s.new_states(1)
    s.set_battery(state, nominal_voltage=350.0, chemistry="NMC")
    assert state[s.CELLS_IN_SERIES] == 96
    s.set_battery(state, nominal_voltage=350.0, cells_in_series=100)
    assert state[s.CELLS_IN_SERIES] == 100


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ({}, step.DUPLICATE),
        ({"voltage": 355.0}, step.CONFLICT),
        ({"current": 1.0}, step.CONFLICT),
        ({"temperature": 30.0}, step.CONFLICT),
        ({"time_s": -20.0}, step.OLDER),
    ],
)
def test_outcome_says_why_a_reading_is_not_applied(values: dict[str, float], outcome: int) -> None:
    states = s.new_states(1)
    s.set_battery(states[0], **PACK)
    matrix = state_update.readings_matrix(drive(TIMES_S[:10]))
    state_update.update_from_readings(states, np.zeros(10, dtype=np.int64), matrix)
    again, before = matrix[-1].copy(), states[0].copy()
    for name, value in values.items():
        again[s.READING_INPUTS.index(name if name != "time" else "time_s")] = value + (
            again[0] if name == "time" else 0
        )
    assert step.step_reading(states[0], again, np.empty(step.CLOSED_SIZE)) == outcome
    np.testing.assert_array_equal(states[0], before)


def test_continued_age_is_offset() -> None:
    """As after a reset of the battery management system."""
    readings = drive(TIMES_S).assign(charge_cycles=900.0)
    states = s.new_states(1)
    s.set_battery(states[0], **PACK)
    matrix = state_update.readings_matrix(readings)
    state_update.update_from_readings(states, np.zeros(100, dtype=np.int64), matrix[:100])
    states[0][s.AGE_CONTINUES] = 1.0
    matrix[100:, s.READING_INPUTS.index("charge_cycles")] = np.floor(3 + (matrix[100:, 0] - matrix[100, 0]) / 40_000)
    state_update.update_from_readings(states, np.zeros(len(matrix) - 100, dtype=np.int64), matrix[100:])
    assert states[0][s.CYCLES] == 902.0
    assert counts(states[0]) == {}
