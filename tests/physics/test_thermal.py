"""Tests of the thermal model: energy balance, relaxation to the surroundings, exact steps and cooling."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physics.parameters import available, stored, thermal_parameters
from physics.thermal import ThermalParameters, ThermalState, step_thermal, stored_j

CELL = ThermalParameters(40.0, 3.0, 0.5, 0.05, 0.8)
watts = st.floats(-1.0, 20.0)
degrees = st.floats(-30.0, 60.0)
shares = st.floats(0.0, 1.0)


@settings(max_examples=100, deadline=None)
@given(core_c=degrees, surface_c=degrees, heat_w=watts, ambient_c=degrees, share=shares, dt_s=st.floats(0.1, 3600.0))
def test_heat_generated_is_stored_or_lost(
    core_c: float, surface_c: float, heat_w: float, ambient_c: float, share: float, dt_s: float
) -> None:
    before = ThermalState(core_c, surface_c)
    after, air_j, coolant_j = step_thermal(before, CELL, heat_w, ambient_c, 18.0, share, dt_s)
    balance_j = heat_w * dt_s - (stored_j(after, CELL) - stored_j(before, CELL)) - air_j - coolant_j
    assert abs(balance_j) <= 1e-9 * (abs(heat_w) * dt_s + stored_j(ThermalState(100.0, 100.0), CELL))


@settings(max_examples=50, deadline=None)
@given(core_c=degrees, surface_c=degrees, heat_w=watts, ambient_c=degrees, parts=st.integers(2, 60))
def test_steps_are_exact(core_c: float, surface_c: float, heat_w: float, ambient_c: float, parts: int) -> None:
    once, *lost = step_thermal(ThermalState(core_c, surface_c), CELL, heat_w, ambient_c, 18.0, 0.5, 600.0)
    state, sums = ThermalState(core_c, surface_c), [0.0, 0.0]
    for _ in range(parts):
        state, air_j, coolant_j = step_thermal(state, CELL, heat_w, ambient_c, 18.0, 0.5, 600.0 / parts)
        sums = [sums[0] + air_j, sums[1] + coolant_j]
    assert state == pytest.approx(once, abs=1e-8)
    assert sums == pytest.approx(lost, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(core_c=degrees, surface_c=degrees, ambient_c=degrees)
def test_a_resting_cell_relaxes_to_ambient_and_stays_between(core_c: float, surface_c: float, ambient_c: float) -> None:
    state, low, high = (
        ThermalState(core_c, surface_c),
        min(core_c, surface_c, ambient_c),
        max(core_c, surface_c, ambient_c),
    )
    for dt_s in (1.0, 60.0, 900.0, 86400.0):
        state, _, _ = step_thermal(state, CELL, 0.0, ambient_c, 18.0, 0.0, dt_s)
        assert low - 1e-9 <= state.core_c <= high + 1e-9
        assert low - 1e-9 <= state.surface_c <= high + 1e-9
    assert state == pytest.approx((ambient_c, ambient_c), abs=1e-6)


def test_the_core_is_warmer_and_coolant_cools() -> None:
    start = ThermalState(25.0, 25.0)
    still, _, none_j = step_thermal(start, CELL, 5.0, 25.0, 18.0, 0.0, 3600.0)
    cooled, _, coolant_j = step_thermal(start, CELL, 5.0, 25.0, 18.0, 1.0, 3600.0)
    assert still.core_c > still.surface_c > 25.0
    assert cooled.core_c < still.core_c
    assert none_j == 0.0
    assert coolant_j > 0.0


@pytest.mark.parametrize("name", available())
def test_identified_cells_conduct_and_store_heat(name: str) -> None:
    parameters = thermal_parameters(stored(name))
    assert all(value > 0.0 for value in parameters[:4])
    # J/K for each Ah: between a small and a large cylindrical cell.
    assert 5.0 < (parameters.core_j_per_k + parameters.surface_j_per_k) / stored(name)["capacity_ah"] < 40.0
