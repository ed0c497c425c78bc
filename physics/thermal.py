"""Thermal model of a cell with two nodes, core and surface, cooled by air and by a coolant.

After Lin et al. 2014 (doi:10.1016/j.jpowsour.2014.01.097).  Solved in closed form for heat, ambient and coolant
that are constant during the step, so that a step of any length is stable and conserves energy.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from physics.compiled import compiled


class ThermalParameters(NamedTuple):
    """Heat capacities in J/K, thermal conductances in W/K; at least one way out has to conduct."""

    core_j_per_k: float
    surface_j_per_k: float
    core_to_surface_w_per_k: float
    surface_to_ambient_w_per_k: float
    surface_to_coolant_w_per_k: float


class ThermalState(NamedTuple):
    """Temperatures, degC."""

    core_c: float
    surface_c: float


@compiled
def stored_j(state: ThermalState, parameters: ThermalParameters) -> float:
    """Heat stored relative to 0 degC, J."""
    return state.core_c * parameters.core_j_per_k + state.surface_c * parameters.surface_j_per_k


@compiled
def step_thermal(
    state: ThermalState,
    parameters: ThermalParameters,
    heat_w: float,
    ambient_c: float,
    coolant_c: float,
    coolant_share: float,
    dt_s: float,
) -> tuple[ThermalState, float, float]:
    """Temperatures after `dt_s`, and the heat, J, that went to the air and to the coolant.

    `heat_w` is generated in the core; `coolant_share` is 0 while the pump is off, 1 while it runs.
    """
    inside = parameters.core_to_surface_w_per_k
    to_coolant = coolant_share * parameters.surface_to_coolant_w_per_k
    outside = parameters.surface_to_ambient_w_per_k + to_coolant
    around_c = (parameters.surface_to_ambient_w_per_k * ambient_c + to_coolant * coolant_c) / outside
    final_surface_c = around_c + heat_w / outside
    final_core_c = final_surface_c + heat_w / inside
    # The deviation x from the final temperatures obeys x' = M x, M = [[-a, a], [b, -b - c]].
    a = inside / parameters.core_j_per_k
    b = inside / parameters.surface_j_per_k
    c = outside / parameters.surface_j_per_k
    half, root = -0.5 * (a + b + c), math.sqrt(0.25 * (a + b + c) ** 2 - a * c)
    slow, fast = half + root, half - root
    slow_share, fast_share = math.exp(slow * dt_s), math.exp(fast * dt_s)
    unit = (slow * fast_share - fast * slow_share) / (slow - fast)
    linear = (slow_share - fast_share) / (slow - fast)
    core, surface = state.core_c - final_core_c, state.surface_c - final_surface_c
    core_after = unit * core + linear * a * (surface - core)
    surface_after = unit * surface + linear * (b * core - (b + c) * surface)
    # The time integral of x is the solution of M X = x(dt) - x(0).
    core_change, surface_change = core_after - core, surface_after - surface
    surface_k_s = dt_s * final_surface_c - (b * core_change + a * surface_change) / (a * c)
    to_air_j = parameters.surface_to_ambient_w_per_k * (surface_k_s - ambient_c * dt_s)
    to_coolant_j = to_coolant * (surface_k_s - coolant_c * dt_s)
    return ThermalState(final_core_c + core_after, final_surface_c + surface_after), to_air_j, to_coolant_j
