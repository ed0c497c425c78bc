"""One cell with its heat: electrical and thermal step together, for one step of a live twin or a whole profile."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physics.cell import CellOutput, CellParameters, CellState, Wear, step, terminal_voltage_v
from physics.compiled import compiled
from physics.thermal import ThermalParameters, ThermalState, step_thermal

FloatArray = NDArray[np.float64]


class HeatedCell(NamedTuple):
    """Electrical and thermal state."""

    cell: CellState
    thermal: ThermalState


class Surroundings(NamedTuple):
    """Temperatures of air and coolant, degC, and whether the coolant's pump runs (0 to 1)."""

    ambient_c: float
    coolant_c: float
    coolant_share: float


@compiled
def step_heated(
    state: HeatedCell,
    cell: CellParameters,
    thermal: ThermalParameters,
    wear: Wear,
    current_a: float,
    surroundings: Surroundings,
    dt_s: float,
) -> tuple[HeatedCell, CellOutput]:
    """State and output after `dt_s` seconds of `current_a`; the cell is at the temperature of its core."""
    after, output = step(state.cell, cell, wear, current_a, state.thermal.core_c, dt_s)
    temperatures, _, _ = step_thermal(
        state.thermal,
        thermal,
        output.heat_w + output.entropic_heat_w,
        surroundings.ambient_c,
        surroundings.coolant_c,
        surroundings.coolant_share,
        dt_s,
    )
    return HeatedCell(after, temperatures), output


@compiled
def run_profile(
    state: HeatedCell,
    cell: CellParameters,
    thermal: ThermalParameters,
    wear: Wear,
    current_a: FloatArray,
    dt_s: float,
    surroundings: Surroundings,
    is_isothermal: bool,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Voltage, core and surface temperature, float64[n] each, at n samples of a current that is linear between them."""
    n = current_a.size
    voltage_v, core_c, surface_c = np.empty(n), np.empty(n), np.empty(n)
    for k in range(n):
        if k > 0:
            mean_a = 0.5 * (current_a[k - 1] + current_a[k])
            after, _ = step_heated(state, cell, thermal, wear, mean_a, surroundings, dt_s)
            state = HeatedCell(after.cell, state.thermal) if is_isothermal else after
        core_c[k], surface_c[k] = state.thermal.core_c, state.thermal.surface_c
        voltage_v[k] = terminal_voltage_v(state.cell, cell, wear, current_a[k], state.thermal.core_c)
    return voltage_v, core_c, surface_c
