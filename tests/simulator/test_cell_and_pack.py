"""Tests of cell and pack model: conservation of charge and energy, voltage response, and limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cell import current_for_power, ocv_table, open_circuit_voltage, soc_at_rest
from simulator.designs import CAR_MODELS, draw_pack
from simulator.pack import (
    Condition,
    PackParameters,
    PackState,
    cell_voltages_v,
    charge_current_a,
    drive_current_a,
    source,
    step,
)
from telemetry.chemistries import CHEMISTRIES

PACK = draw_pack(CAR_MODELS[0], np.random.default_rng(1))
NEW = Condition(PACK.nominal_capacity_ah, 0.0, 0.0, 0.0, 1.0, 0.0)
REST = PackState(0.6, 0.0, 25.0, 25.0)


def voltage(
    current_a: float, pack: PackParameters = PACK, condition: Condition = NEW, state: PackState = REST
) -> float:
    """Terminal voltage of a pack after a second at `current_a`."""
    return step(state, pack, condition, current_a, 25.0, True, 1.0)[1].voltage_v


@pytest.mark.parametrize("name", CHEMISTRIES)
@given(soc=st.floats(0.001, 0.999))
@settings(max_examples=50, deadline=None)
def test_charge_and_open_circuit_voltage_are_inverse(name: str, soc: float) -> None:
    table = ocv_table(CHEMISTRIES[name])
    assert (np.diff(table) > 0).all()
    assert soc_at_rest(open_circuit_voltage(soc, table), table) == pytest.approx(soc, abs=1e-6)


@given(current_a=st.floats(1.0, 300.0), soc=st.floats(0.1, 0.9))
@settings(max_examples=50, deadline=None)
def test_voltage_sags_under_discharge_and_rises_under_charge(current_a: float, soc: float) -> None:
    state = REST._replace(soc=soc)
    assert voltage(current_a, state=state) < voltage(0.0, state=state) < voltage(-current_a, state=state)


def test_worn_or_badly_connected_packs_sag_more() -> None:
    healthy = voltage(100.0)
    assert voltage(100.0, condition=NEW._replace(resistance_growth=0.5)) < healthy
    # Contact resistance adds exactly R * I.
    assert healthy - voltage(100.0, condition=NEW._replace(contact_resistance_ohm=0.02)) == pytest.approx(2.0)


def test_charge_and_energy_are_conserved() -> None:
    rng = np.random.default_rng(3)
    state, charge_as, chemical_j, terminal_j, heat_j = REST, 0.0, 0.0, 0.0, 0.0
    stored_j = 0.0
    for current_a in np.repeat(rng.uniform(-150.0, 200.0, 60), 20):
        ocv = PACK.cells_in_series * open_circuit_voltage(state.soc, PACK.cell.ocv_v)
        before = state.polarisation_v
        state, output = step(state, PACK, NEW, float(current_a), 25.0, True, 1.0)
        charge_as += current_a
        chemical_j += ocv * current_a
        terminal_j += output.voltage_v * current_a
        heat_j += output.heat_w
        # the RC pair's capacitor, whose resistance drifts slightly with temperature
        capacitance = PACK.cell.polarisation_time_s / PACK.cell.polarisation_resistance_ohm
        stored_j += 0.5 * PACK.cells_in_series * capacitance * (state.polarisation_v**2 - before**2)
    assert (REST.soc - state.soc) * 3600.0 * NEW.capacity_ah == pytest.approx(charge_as)
    assert heat_j > 0.0
    assert chemical_j - terminal_j == pytest.approx(heat_j + stored_j, rel=0.05)


@given(power_w=st.floats(-60_000.0, 60_000.0))
@settings(max_examples=50, deadline=None)
def test_demanded_power_is_delivered(power_w: float) -> None:
    source_v, resistance_ohm = source(REST, PACK, NEW)
    current_a = drive_current_a(REST, PACK, NEW, power_w)
    assert current_a * (source_v - current_a * resistance_ohm) == pytest.approx(power_w, abs=1e-3)


def test_current_is_limited_to_that_of_the_maximum_power() -> None:
    assert current_for_power(1e9, 400.0, 0.1) == pytest.approx(400.0 / 0.2)


@given(soc=st.floats(0.0, 1.0), power_w=st.floats(-300_000.0, 300_000.0))
@settings(max_examples=50, deadline=None)
def test_driving_keeps_cells_within_their_limits(soc: float, power_w: float) -> None:
    state = REST._replace(soc=soc)
    current_a = drive_current_a(state, PACK, NEW, power_w)
    source_v, resistance_ohm = source(state, PACK, NEW)
    cell_v = (source_v - current_a * resistance_ohm) / PACK.cells_in_series
    assert PACK.cell.voltage_min_v - 1e-6 <= cell_v <= PACK.cell.voltage_max_v + 1e-6


def test_charging_is_constant_current_then_constant_voltage() -> None:
    state = REST._replace(soc=0.3)
    currents, voltages = [], []
    while not voltages or (currents[-1] < -PACK.nominal_capacity_ah / 25.0 and state.soc < 1.0):
        current_a = charge_current_a(state, PACK, NEW, 50_000.0, 100.0)
        state, output = step(state, PACK, NEW, current_a, 25.0, True, 1.0)
        currents.append(current_a)
        voltages.append(output.voltage_v / PACK.cells_in_series)
    assert currents[0] == pytest.approx(-100.0)
    assert max(voltages) <= PACK.cell.voltage_max_v + 1e-3
    tail = np.array(voltages) > PACK.cell.voltage_max_v - 1e-3
    assert tail.any()
    assert currents[-1] > 0.5 * currents[0]
    assert (np.diff(np.array(currents)[tail]) > -1e-6).all()  # current decreases at the voltage limit
    assert 0.9 < state.soc < 1.001


def test_cell_voltages_add_up_and_an_internal_short_lowers_one_cell() -> None:
    cells = cell_voltages_v(REST, PACK, NEW, 50.0)
    state, output = step(REST, PACK, NEW, 50.0, 25.0, True, 1e-6)
    assert cells.sum() == pytest.approx(output.voltage_v, rel=2e-4)
    shorted = cell_voltages_v(REST, PACK, NEW._replace(weak_cell_charge_offset=-0.1), 50.0)
    assert shorted[0] < cells.min() - 0.02
    np.testing.assert_array_equal(shorted[1:], cells[1:])
    worn = cell_voltages_v(REST, PACK, NEW._replace(capacity_loss=0.2), 50.0)
    assert np.ptp(worn) > np.ptp(cells)
    assert state.soc < REST.soc
