"""Filter of the cell model: its state of charge on cars with a biased current, its ranges, and when it is off."""

from __future__ import annotations

import numpy as np
import pytest
import simulated_cars as cars
from hypothesis import given, settings
from hypothesis import strategies as st

from features import cell_filter, state_update
from features import state as s
from features.battery_row import set_battery_from_row
from physics.cell import Wear, moved, open_circuit_voltage_v, resting, terminal_voltage_v
from physics.parameters import available, cell_parameters, stored
from telemetry.chemistries import PARAMETER_SETS
from telemetry.contract import SIGNALS
from telemetry.errors import TwinError

CELLS = {name: cell_parameters(stored(name)) for name in PARAMETER_SETS}
NEW, AGED = (1.0, 1.0), (0.8, 1.5)
BOUND = 0.02
EVERY_S = (0.5, 10.0, 60.0)
VARIANCES = [s.FILTER_VARIANCE + k for k in range(s.N_VARIANCES)]
ESTIMATES = [s.FILTER_SOC, s.FILTER_RESISTANCE, s.FILTER_CAPACITY]
SLOTS = np.arange(s.FILTER_TIME_S, s.FILTER_END)


def covariance(state: np.ndarray) -> np.ndarray:
    matrix = np.zeros((3, 3))
    matrix[np.triu_indices(3)] = state[VARIANCES]
    return matrix + np.triu(matrix, 1).T


def readings_of(time_s: np.ndarray, cell_v: np.ndarray, c_rate: np.ndarray, temperature_c: float = 25.0) -> np.ndarray:
    matrix = np.full((len(time_s), len(s.READING_INPUTS)), np.nan)
    matrix[:, 0] = cars.START_S + time_s
    matrix[:, 1] = cell_v * cars.CELLS_IN_SERIES
    matrix[:, 2] = c_rate * cars.NOMINAL_CAPACITY_AH
    matrix[:, 3] = temperature_c
    return matrix


def drives_lately(hours: np.ndarray) -> np.ndarray:
    hour = np.mod(hours, 24.0)
    drive_h = (1369 + 765) / 3600.0
    return ((hour > 7.0) & (hour < 7.0 + drive_h + 1 / 6)) | ((hour > 17.0) & (hour < 17.0 + 2 * drive_h + 1 / 6))


def judged(chemistry: str, day: cars.Day, every_s: float) -> np.ndarray:
    """When the state of charge is judged: after the first day; for flat LFP while the car rests after a full charge.

    A current that is sampled every minute says little in a drive, whose charge is judged from ten minutes after it.
    """
    rows = slice(None, None, round(every_s / cars.TIME_STEP_S))
    hours = np.arange(day.soc[rows].size) * every_s / 3600.0
    if chemistry != "LFP":
        return (hours >= 24.0) & ((every_s <= 10.0) | ~drives_lately(hours))
    is_resting = (day.c_rate[rows] == 0.0) & (np.mod(hours, 24.0) > 20.0)
    return is_resting & (day.soc[rows] > 0.98)


def counted(day: cars.Day, readings: np.ndarray) -> np.ndarray:
    """State of charge by pure coulomb counting from the true one, with the nominal capacity."""
    mean_a = 0.5 * (readings[1:, 2] + readings[:-1, 2])
    moved_ah = np.concatenate([[0.0], np.cumsum(mean_a * np.diff(readings[:, 0]))]) / 3600.0
    return np.asarray(day.soc[0] - moved_ah / cars.NOMINAL_CAPACITY_AH)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("wear", [NEW, AGED], ids=["new", "aged"])
@pytest.mark.parametrize("chemistry", PARAMETER_SETS)
def test_the_state_of_charge_is_corrected_despite_a_bias_of_the_current(
    chemistry: str, wear: tuple[float, float], sign: float
) -> None:
    """0.5 % + 0.1 A on 60 Ah; the filter knows neither the first state of charge nor the wear.

    Negative control: pure coulomb counting, which knows the first state of charge, misses the bound.
    """
    day = cars.car(chemistry, capacity=wear[0], resistance=wear[1])
    for every_s in EVERY_S:
        readings = cars.measured(day, every_s, gain=1.0 + 0.005 * sign, offset_a=0.1 * sign)
        truth = day.soc[:: round(every_s / cars.TIME_STEP_S)]
        at = judged(chemistry, day, every_s)
        assert at.sum() * every_s > 3600.0
        out = cars.followed(cars.new_states(chemistry, chemistry), readings, *ESTIMATES, s.FILTER_VARIANCE)
        assert np.abs(out[at, 0] - truth[at]).max() <= BOUND
        assert np.abs(out[:, 0] - truth)[-round(86_400 / every_s) :].max() <= (0.1 if chemistry == "LFP" else 0.035)
        outside = np.abs(out[:, 0] - truth) > 3.0 * np.sqrt(out[:, 3]) + 0.01
        assert outside.mean() < 0.05, "the filter knows its error"
        assert out[-1, 2] == pytest.approx(wear[0], abs=0.04 if chemistry == "LFP" else 0.03)
        assert np.abs(counted(day, readings)[at] - truth[at]).max() > BOUND


@pytest.mark.parametrize(("chemistry", "tolerance"), [("NMC", 0.2), ("NCA", 0.3), ("LFP", 0.2)])
def test_resistance_is_found_where_the_current_is_sampled_finely(chemistry: str, tolerance: float) -> None:
    for wear in (NEW, AGED):
        day = cars.car(chemistry, capacity=wear[0], resistance=wear[1])
        for every_s in (0.5, 10.0):
            states = cars.new_states(chemistry, chemistry)
            resistance = cars.followed(states, cars.measured(day, every_s), s.FILTER_RESISTANCE)[-1, 0]
            assert resistance == pytest.approx(wear[1], rel=tolerance)


def test_estimates_and_residual_are_signals_of_a_session() -> None:
    columns = [SIGNALS.index(name) for name in cell_filter.SIGNALS]
    day = cars.car("NMC", capacity=0.8, resistance=1.5)
    readings = cars.measured(day, 10.0)
    rows = np.zeros(len(readings), dtype=np.int64)

    def last_signals(parameters: str | None) -> np.ndarray:
        states = cars.new_states("NMC", parameters)
        state_update.update_from_readings(states, rows, readings)
        last = states[0, s.SIGNAL_LAST : s.SIGNAL_LAST + s.N_SIGNALS]
        return np.asarray(last[columns])

    capacity, resistance, mean_v, rms_v = last_signals("NMC")
    assert capacity == pytest.approx(0.8, abs=0.02)
    assert resistance == pytest.approx(1.5, rel=0.2)
    assert abs(mean_v) <= rms_v < 0.005
    assert np.isnan(last_signals(None)).all()
    # A cell of another kind leaves a residual.
    assert last_signals("LFP")[3] > 5.0 * rms_v


def test_a_residual_shows_a_wrong_sensor() -> None:
    """A voltage that is stuck while the car drives."""
    day = cars.car("NMC")
    readings = cars.measured(day, 10.0)
    stuck = readings.copy()
    drive = (np.mod(readings[:, 0], 86_400.0) > 7 * 3600.0) & (np.mod(readings[:, 0], 86_400.0) < 7.6 * 3600.0)
    stuck[drive, 1] = stuck[np.argmax(drive), 1]
    until = np.flatnonzero(drive)[-1] + 1
    squares = [
        cars.followed(cars.new_states("NMC", "NMC"), rows[:until], s.FILTER_RESIDUAL_V2)[-1, 0]
        for rows in (readings, stuck)
    ]
    assert squares[1] > 4.0 * squares[0]


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(PARAMETER_SETS), soc=st.floats(0.02, 0.98), temperature_c=st.floats(0.0, 45.0))
def test_the_state_of_charge_of_a_resting_cell_becomes_that_of_its_voltage(
    name: str, soc: float, temperature_c: float
) -> None:
    cell, states, time_s = CELLS[name], cars.new_states(name, name), np.arange(0.0, 7200.0, 60.0)
    voltage_v = open_circuit_voltage_v(soc, cell)
    cars.followed(states, readings_of(time_s, np.full(120, voltage_v), np.zeros(120), temperature_c))
    found = states[0, s.FILTER_SOC]
    if name == "LFP":
        # The plateau says little: what remains is within the filter's own uncertainty.
        assert found == pytest.approx(soc, abs=2.5 * np.sqrt(states[0, s.FILTER_VARIANCE]) + 0.01)
        assert open_circuit_voltage_v(found, cell) == pytest.approx(voltage_v, abs=0.03)
    else:
        assert found == pytest.approx(soc, abs=0.02)


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(["NMC", "NCA"]), wrong=st.floats(0.0, 100.0), soc=st.floats(0.2, 0.8))
def test_a_wrong_first_state_of_charge_is_forgotten(name: str, wrong: float, soc: float) -> None:
    """Not so on the plateau of LFP, where only a full charge corrects it."""
    cell, states = CELLS[name], cars.new_states(name, name)
    time_s = np.arange(0.0, 4 * 3600.0, 30.0)
    readings = readings_of(time_s, np.full(480, open_circuit_voltage_v(soc, cell)), np.zeros(480))
    readings[0, 4] = wrong
    cars.followed(states, readings)
    assert states[0, s.FILTER_SOC] == pytest.approx(soc, abs=0.02)


def wild(count: int) -> st.SearchStrategy[list[tuple[float, float, float, float, float]]]:
    return st.lists(
        st.tuples(
            st.one_of(st.floats(0.1, 300.0), st.floats(300.0, 1e8)),
            st.one_of(st.floats(0.0, 1000.0), st.floats(200.0, 420.0), st.just(np.nan)),
            st.one_of(st.floats(-2000.0, 2000.0), st.floats(-100.0, 100.0), st.just(np.nan)),
            st.one_of(st.floats(-50.0, 150.0), st.just(np.nan)),
            st.one_of(st.floats(0.0, 100.0), st.just(np.nan)),
        ),
        min_size=1,
        max_size=count,
    )


def wild_matrix(rows: list[tuple[float, float, float, float, float]]) -> np.ndarray:
    values = np.array(rows)
    matrix = np.full((len(rows), len(s.READING_INPUTS)), np.nan)
    matrix[:, 0] = cars.START_S + np.cumsum(values[:, 0])
    matrix[:, 1:5] = values[:, 1:]
    return matrix


def assert_in_range(state: np.ndarray) -> None:
    if np.isnan(state[s.FILTER_TIME_S]):
        return
    assert np.isfinite(np.delete(state[SLOTS], s.FILTER_REPORTED_SOC - s.FILTER_TIME_S)).all()
    assert s.FILTER_SOC_MIN <= state[s.FILTER_SOC] <= s.FILTER_SOC_MAX
    assert s.FILTER_RESISTANCE_MIN <= state[s.FILTER_RESISTANCE] <= s.FILTER_RESISTANCE_MAX
    assert s.FILTER_CAPACITY_MIN <= state[s.FILTER_CAPACITY] <= s.FILTER_CAPACITY_MAX
    assert (np.diag(covariance(state)) >= 0.0).all()
    s.decode(s.encode(state, "EV-1"), "EV-1")


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(PARAMETER_SETS), rows=wild(60))
def test_no_sequence_of_readings_drives_the_filter_out_of_its_range(
    name: str, rows: list[tuple[float, float, float, float, float]]
) -> None:
    states, readings = cars.new_states(name, name), wild_matrix(rows)
    for i in range(len(readings)):
        cars.followed(states, readings[i : i + 1])
        assert_in_range(states[0])


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(PARAMETER_SETS), rows=wild(40), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_chunks_give_the_same_bits(
    name: str, rows: list[tuple[float, float, float, float, float]], cuts: list[int]
) -> None:
    readings = wild_matrix(rows)
    whole, parts = cars.new_states(name, name), cars.new_states(name, name)
    state_update.update_from_readings(whole, np.zeros(len(readings), dtype=np.int64), readings)
    for part in np.split(readings, sorted(cuts)):
        parts[0] = s.decode(s.encode(parts[0], "EV-1"), "EV-1")
        state_update.update_from_readings(parts, np.zeros(len(part), dtype=np.int64), part)
    assert np.array_equal(whole, parts, equal_nan=True)


def test_any_filter_within_the_bounds_of_a_stored_state_can_be_updated() -> None:
    """A state comes back from outside with a forged checksum: no error, and it ends in range."""
    rng = np.random.default_rng(3)
    readings = cars.measured(cars.car("NMC"), 60.0)[400:600]
    base = cars.new_states("NMC", "NMC")
    cars.followed(base, readings[:50])
    for _ in range(300):
        states = base.copy()
        slots = rng.choice(SLOTS[2:], size=rng.integers(1, 12), replace=False)
        states[0, slots] = np.clip(rng.normal(0.0, 1e7, len(slots)), s._MINIMUM[slots], s._MAXIMUM[slots])
        states[0] = s.decode(s.encode(states[0], "EV-1"), "EV-1")
        cars.followed(states, readings[50:])
        assert_in_range(states[0])


@pytest.mark.parametrize("chemistry", PARAMETER_SETS)
def test_the_covariance_stays_positive_definite(chemistry: str) -> None:
    """So that the guard against impossible correlations never acts on a state of our own."""
    out = cars.followed(cars.new_states(chemistry, chemistry), cars.measured(cars.car(chemistry), 60.0), *VARIANCES)
    for row in out[::20]:
        matrix = np.zeros((3, 3))
        matrix[np.triu_indices(3)] = row
        deviation = np.sqrt(np.diag(matrix))
        correlation = (matrix + np.triu(matrix, 1).T) / np.outer(deviation, deviation)
        assert np.linalg.eigvalsh(correlation).min() > 0.0


@pytest.mark.parametrize("chemistry", ["NMC", "NCA"])
def test_after_an_unseen_drive_the_resting_voltage_gives_the_charge(chemistry: str) -> None:
    """Nothing is reported for ten hours, in which half of the charge was used."""
    cell, states = CELLS[chemistry], cars.new_states(chemistry, chemistry)
    time_s = np.concatenate([np.arange(0.0, 3600.0, 30.0), 36_000.0 + np.arange(0.0, 3600.0, 30.0)])
    soc = np.where(time_s < 7200.0, 0.9, 0.4)
    voltage_v = np.array([open_circuit_voltage_v(float(z), cell) for z in soc])
    out = cars.followed(states, readings_of(time_s, voltage_v, np.zeros(240)), s.FILTER_SOC)
    assert out[119, 0] == pytest.approx(0.9, abs=0.02)
    assert out[-1, 0] == pytest.approx(0.4, abs=0.02)


def test_across_a_gap_the_reported_charge_counts_where_the_voltage_is_flat() -> None:
    cell, found = CELLS["LFP"], {}
    time_s = np.concatenate([np.arange(0.0, 3600.0, 30.0), 36_000.0 + np.arange(0.0, 600.0, 30.0)])
    soc = np.where(time_s < 7200.0, 0.62, 0.45)
    voltage_v = np.array([open_circuit_voltage_v(float(z), cell) for z in soc])
    for is_reported in (True, False):
        states = cars.new_states("LFP", "LFP")
        readings = readings_of(time_s, voltage_v, np.zeros(140))
        if is_reported:
            readings[:, 4] = 100.0 * soc
        out = cars.followed(states, readings, s.FILTER_SOC, s.FILTER_VARIANCE)
        found[is_reported] = np.abs(out[-1, 0] - 0.45), np.sqrt(out[-1, 1])
    assert found[True][0] < 0.05
    assert found[True][1] < found[False][1], "without it the filter knows less"


def test_the_filter_is_off_where_the_parameters_are_unknown() -> None:
    readings = cars.measured(cars.car("NMC"), 60.0)
    without = cars.new_states("NMC")
    cars.followed(without, readings)
    untouched = s.new_states(1)[0]
    assert np.array_equal(without[0, SLOTS], untouched[SLOTS], equal_nan=True)
    incomplete = s.new_states(1)
    s.set_battery(incomplete[0], cell_parameters="NMC")
    cars.followed(incomplete, readings)
    assert np.isnan(incomplete[0, s.FILTER_SOC]), "capacity and cells are unknown"


def test_cell_parameters_come_from_the_table_of_batteries() -> None:
    state = s.new_states(1)[0]
    assert set_battery_from_row(state, {"battery_id": "EV-1", "cell_parameters": "lfp"}) == []
    assert s.properties(state)["cell_parameters"] == "LFP"
    assert set_battery_from_row(state, {"battery_id": "EV-1", "cell_parameters": "LG M50"}) == ["cell_parameters"]
    assert s.properties(state)["cell_parameters"] == "LFP"
    with pytest.raises(TwinError, match="give one of NMC, NCA, LFP"):
        s.set_battery(state, cell_parameters="LG M50")


def test_every_parameter_set_exists() -> None:
    assert sorted(PARAMETER_SETS) == available()


@pytest.mark.parametrize("index", range(len(PARAMETER_SETS)))
def test_the_fall_of_the_voltage_in_a_minute_is_that_of_the_cell(index: int) -> None:
    cell = CELLS[PARAMETER_SETS[index]]._replace(hysteresis_v=0.0)
    wear, current_a = Wear(cell.capacity_ah, 1.0), cell.capacity_ah
    before_v = terminal_voltage_v(resting(0.5), cell, wear, current_a, 25.0)
    after = moved(resting(0.5), cell, wear, current_a, 25.0, cell_filter.FALL_S)
    after_v = terminal_voltage_v(after, cell, wear, current_a, 25.0)
    by_charge_v = open_circuit_voltage_v(0.5, cell) - open_circuit_voltage_v(after.soc, cell)
    assert before_v - after_v - by_charge_v == pytest.approx(cell_filter.FALL_V[index], rel=0.3)
