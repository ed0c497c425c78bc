"""Tests of the cell model: physical ranges, rest, warming, conservation, exact discretisation, wear and hysteresis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physics.cell import (
    LEAD,
    OCP_POINTS,
    OCP_SOC_FIRST,
    OCP_SOC_STEP,
    CellParameters,
    CellState,
    Wear,
    from_ocp_table,
    ocv_integral_v,
    open_circuit_voltage_v,
    resting,
    step,
    terminal_voltage_v,
)
from physics.parameters import available, cell_parameters, stored
from validation.conservation import balance

CHEMISTRIES = available()
CELLS: dict[str, CellParameters] = {name: cell_parameters(stored(name)) for name in CHEMISTRIES}
chemistries = st.sampled_from(CHEMISTRIES)
temperatures = st.floats(-20.0, 55.0)


def new(cell: CellParameters) -> Wear:
    return Wear(cell.capacity_ah, 1.0)


def moved(state: CellState, cell: CellParameters, rate: float, dt_s: float, temperature_c: float = 25.0) -> CellState:
    """State after `dt_s` at a C-rate."""
    return step(state, cell, new(cell), rate * cell.capacity_ah, temperature_c, dt_s)[0]


@pytest.mark.parametrize("name", CHEMISTRIES)
def test_charge_energy_and_heat_are_conserved(name: str) -> None:
    errors = balance(name)
    assert set(errors) == {"charge", "energy", "heat"}
    assert max(errors.values()) < 1e-9, errors


@settings(max_examples=60, deadline=None)
@given(
    name=chemistries,
    soc=st.floats(0.2, 0.8),
    temperature_c=temperatures,
    rates=st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=40),
    dt_s=st.floats(0.5, 30.0),
)
def test_no_state_leaves_its_physical_range(
    name: str, soc: float, temperature_c: float, rates: list[float], dt_s: float
) -> None:
    cell, state = CELLS[name], resting(soc)
    for rate in rates:
        state, output = step(state, cell, new(cell), rate * cell.capacity_ah, temperature_c, dt_s)
        assert 0.0 <= state.soc <= 1.0
        assert -1.0 <= state.hysteresis <= 1.0
        # A filtered current is a mean of the currents so far.
        assert all(abs(current_a) <= cell.capacity_ah * (1.0 + 1e-12) for current_a in state[2:4])
        assert all(abs(lead) <= LEAD * cell.time_s[:, 2:].max() / 3600.0 for lead in state[4:])
        assert 0.0 < output.voltage_v < 6.0


@settings(max_examples=60, deadline=None)
@given(name=chemistries, soc=st.floats(0.2, 0.8), rate=st.floats(0.05, 2.0), temperature_c=temperatures)
def test_discharging_lowers_the_voltage_and_warms(name: str, soc: float, rate: float, temperature_c: float) -> None:
    cell = CELLS[name]
    for sign in (1.0, -1.0):
        start = resting(soc)._replace(hysteresis=-sign)
        _, output = step(start, cell, new(cell), sign * rate * cell.capacity_ah, temperature_c, 10.0)
        assert sign * (open_circuit_voltage_v(soc, cell) - output.mean_voltage_v) > 0.0
        assert output.heat_w > 0.0


@settings(max_examples=40, deadline=None)
@given(name=chemistries, soc=st.floats(0.3, 0.7), rate=st.floats(-1.0, 1.0), temperature_c=st.floats(0.0, 50.0))
def test_a_resting_cell_relaxes_to_its_open_circuit_voltage(
    name: str, soc: float, rate: float, temperature_c: float
) -> None:
    cell = cell_parameters(stored(name), hysteresis=False)
    loaded = moved(resting(soc), cell, rate, 600.0, temperature_c)
    rested = moved(loaded, cell, 0.0, 7 * 86400.0, temperature_c)
    assert rested.soc == loaded.soc
    voltage_v = terminal_voltage_v(rested, cell, new(cell), 0.0, temperature_c)
    assert voltage_v == pytest.approx(open_circuit_voltage_v(rested.soc, cell), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(name=chemistries, rate=st.floats(-1.0, 1.0), parts=st.integers(2, 50))
def test_steps_of_a_constant_current_are_exact(name: str, rate: float, parts: int) -> None:
    """Many short steps end in the state of one long one, since the discretisation is exact."""
    cell, start = CELLS[name], moved(resting(0.5), CELLS[name], 0.7, 300.0)
    once, state = moved(start, cell, rate, 240.0), start
    for _ in range(parts):
        state = moved(state, cell, rate, 240.0 / parts)
    assert state == pytest.approx(once, abs=1e-10)


def test_an_euler_step_would_not_be_exact() -> None:
    """Negative control of the test above."""
    cell = CELLS["NMC"]
    time_s, current_a = float(cell.time_s[13, 0]), cell.capacity_ah
    exact = moved(resting(0.5), cell, 1.0, time_s).branch_1_a
    assert exact == pytest.approx(current_a * (1.0 - math.exp(-1.0)), rel=0.01)
    assert exact != pytest.approx(current_a, rel=0.1)


@pytest.mark.parametrize("name", CHEMISTRIES)
def test_wear_and_cold_raise_the_voltage_drop(name: str) -> None:
    cell, state = CELLS[name], resting(0.5)
    current_a = cell.capacity_ah

    def drop_v(wear: Wear, temperature_c: float) -> float:
        after, _ = step(state, cell, wear, current_a, temperature_c, 10.0)
        return open_circuit_voltage_v(0.5, cell) - terminal_voltage_v(after, cell, wear, current_a, temperature_c)

    healthy_v = drop_v(new(cell), 25.0)
    assert drop_v(Wear(cell.capacity_ah, 1.5), 25.0) > 1.2 * healthy_v
    assert drop_v(new(cell), 0.0) > healthy_v
    assert drop_v(new(cell), -30.0) >= drop_v(new(cell), 0.0)


def test_only_lfp_has_hysteresis() -> None:
    for name, cell in CELLS.items():
        gap_v = []
        for sign in (1.0, -1.0):
            state = moved(resting(0.5 + sign * 0.2), cell, sign * 0.5, 0.2 * 3600.0 / 0.5)
            rested = moved(state, cell, 0.0, 7 * 86400.0)
            assert rested.soc == pytest.approx(0.5)
            gap_v.append(terminal_voltage_v(rested, cell, new(cell), 0.0, 25.0))
        expected_v = 0.020 if name == "LFP" else 0.0
        assert gap_v[1] - gap_v[0] == pytest.approx(expected_v, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(name=chemistries, first=st.floats(-0.1, 1.1), second=st.floats(-0.1, 1.1))
def test_the_integral_of_the_open_circuit_voltage_is_exact(name: str, first: float, second: float) -> None:
    cell = CELLS[name]
    grid = OCP_SOC_FIRST + OCP_SOC_STEP * np.arange(OCP_POINTS)
    low, high = min(first, second), max(first, second)
    knots = np.concatenate([[low], grid[(grid > low) & (grid < high)], [high]])
    values = [open_circuit_voltage_v(float(soc), cell) for soc in knots]
    expected = float(np.trapezoid(values, knots)) * (1.0 if second >= first else -1.0)
    assert ocv_integral_v(second, cell) - ocv_integral_v(first, cell) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", CHEMISTRIES)
def test_parameters_are_physical_and_have_a_source(name: str) -> None:
    content: dict[str, Any] = stored(name)
    cell = CELLS[name]
    assert "doi:" in content["citation"]
    assert "PyBaMM" in content["reference"]
    assert content["thermal_source"]
    ocv = [open_circuit_voltage_v(soc, cell) for soc in np.linspace(0.0, 1.0, 201)]
    assert (np.diff(ocv) > 0.0).all()
    assert ocv[0] == pytest.approx(cell.voltage_min_v, abs=0.02)
    assert ocv[-1] == pytest.approx(cell.voltage_max_v, abs=0.02)
    assert from_ocp_table(0.5, cell.ocp_positive_v) > from_ocp_table(0.5, cell.ocp_negative_v)
    for table in (cell.resistance_ohm, cell.series, cell.time_s):
        assert np.isfinite(table).all()
        assert (table > 0.0).all()
