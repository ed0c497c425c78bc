"""Thermal model of a pack with two lumped nodes, cell cores and housing.

After Lin et al. 2014 (doi:10.1016/j.jpowsour.2014.01.097).

Joule and polarisation losses (Bernardi et al. 1985, doi:10.1149/1.2113792, without the entropic term) heat the cores;
heat flows from the cores to the housing, from there to the air, and to a chilled coolant while the car is awake.
"""

from __future__ import annotations

from typing import NamedTuple

from physics.compiled import compiled

COOLING_STARTS_C = 28.0
COOLING_FULL_C = 34.0
COOLANT_C = 20.0


class ThermalParameters(NamedTuple):
    """Heat capacities in J/K, thermal conductances in W/K."""

    core_heat_capacity_j_per_k: float
    shell_heat_capacity_j_per_k: float
    core_to_shell_w_per_k: float
    shell_to_air_w_per_k: float
    shell_to_coolant_w_per_k: float


@compiled
def coolant_heat_w(core_c: float, shell_c: float, cooling_share: float, parameters: ThermalParameters) -> float:
    """Heat flow into the coolant, W; `cooling_share` is 0 for a failed pump, 1 for a working one."""
    demand = min(max((core_c - COOLING_STARTS_C) / (COOLING_FULL_C - COOLING_STARTS_C), 0.0), 1.0)
    return cooling_share * demand * parameters.shell_to_coolant_w_per_k * max(shell_c - COOLANT_C, 0.0)


@compiled
def step_thermal(
    core_c: float,
    shell_c: float,
    heat_w: float,
    ambient_c: float,
    cooling_share: float,
    parameters: ThermalParameters,
    dt_s: float,
) -> tuple[float, float]:
    """Core and housing temperature after `dt_s`; explicit Euler, which conserves energy up to rounding."""
    inward_w = (core_c - shell_c) * parameters.core_to_shell_w_per_k
    to_air_w = (shell_c - ambient_c) * parameters.shell_to_air_w_per_k
    to_coolant_w = coolant_heat_w(core_c, shell_c, cooling_share, parameters)
    return (
        core_c + (heat_w - inward_w) * dt_s / parameters.core_heat_capacity_j_per_k,
        shell_c + (inward_w - to_air_w - to_coolant_w) * dt_s / parameters.shell_heat_capacity_j_per_k,
    )
