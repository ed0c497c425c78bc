"""Tests of the thermal model: energy balance, relaxation to ambient temperature, effect of cooling."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.thermal import ThermalParameters, coolant_heat_w, step_thermal

PARAMETERS = ThermalParameters(240e3, 100e3, 400.0, 15.0, 75.0)


def run(core_c: float, shell_c: float, heat_w: float, ambient_c: float, cooling: float, seconds: int) -> list[float]:
    """Core, shell, and heat to the air and to the coolant (J) after `seconds`."""
    to_air_j = to_coolant_j = 0.0
    for _ in range(seconds):
        to_air_j += (shell_c - ambient_c) * PARAMETERS.shell_to_air_w_per_k
        to_coolant_j += coolant_heat_w(core_c, shell_c, cooling, PARAMETERS)
        core_c, shell_c = step_thermal(core_c, shell_c, heat_w, ambient_c, cooling, PARAMETERS, 1.0)
    return [core_c, shell_c, to_air_j, to_coolant_j]


@given(
    core=st.floats(-20.0, 60.0),
    shell=st.floats(-20.0, 60.0),
    heat=st.floats(0.0, 5000.0),
    ambient=st.floats(-20.0, 45.0),
    cooling=st.floats(0.0, 1.0),
)
@settings(max_examples=25, deadline=None)
def test_energy_is_conserved(core: float, shell: float, heat: float, ambient: float, cooling: float) -> None:
    core_after, shell_after, to_air_j, to_coolant_j = run(core, shell, heat, ambient, cooling, 600)
    stored_j = (core_after - core) * PARAMETERS.core_heat_capacity_j_per_k
    stored_j += (shell_after - shell) * PARAMETERS.shell_heat_capacity_j_per_k
    assert stored_j == pytest.approx(600 * heat - to_air_j - to_coolant_j, abs=1.0)


@pytest.mark.parametrize("start_c", [-10.0, 55.0])
def test_a_parked_pack_relaxes_to_ambient_temperature(start_c: float) -> None:
    core_c, shell_c, *_ = run(start_c, start_c, 0.0, 18.0, 0.0, 3 * 86_400)
    assert core_c == pytest.approx(18.0, abs=0.2)
    assert shell_c == pytest.approx(18.0, abs=0.2)


def test_a_heated_pack_is_hotter_inside_and_cooler_with_coolant() -> None:
    core_c, shell_c, *_ = run(25.0, 25.0, 2000.0, 25.0, 1.0, 3600)
    assert core_c > shell_c > 25.0
    assert run(25.0, 25.0, 2000.0, 25.0, 0.0, 3600)[0] > core_c + 1.0
