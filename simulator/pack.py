"""Pack model: cells in series with heat generation, limits of current, and cell voltages; advanced by `step`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physics.compiled import compiled
from simulator.cell import (
    CellParameters,
    current_for_power,
    open_circuit_voltage,
    polarisation_after,
    resistance_factor,
)
from simulator.thermal import ThermalParameters, step_thermal

#: Relative growth of the spread between cells for each unit of lost capacity (Baumhoefer et al. 2014,
#: doi:10.1016/j.jpowsour.2013.08.108: ageing of initially equal cells diverges).
SPREAD_GROWTH = 5.0


class PackParameters(NamedTuple):
    """Parameters of a new pack.  The three `cell_` arrays are deviations of each series group, with mean 0."""

    cells_in_series: float
    nominal_capacity_ah: float
    cell: CellParameters
    thermal: ThermalParameters
    cell_charge_offset: NDArray[np.float64]
    cell_capacity_deviation: NDArray[np.float64]
    cell_resistance_deviation: NDArray[np.float64]


class PackState(NamedTuple):
    """Fast state of a pack.  `polarisation_v` is that of one cell."""

    soc: float
    polarisation_v: float
    core_c: float
    shell_c: float


class Condition(NamedTuple):
    """Wear of the pack and effects of a defect."""

    capacity_ah: float
    resistance_growth: float  # 0 when new
    capacity_loss: float  # 0 when new
    contact_resistance_ohm: float
    cooling_share: float
    weak_cell_charge_offset: float  # of cell 0: negative where an internal short drains it


class StepOutput(NamedTuple):
    """Pack terminal voltage at the end of a step, and heat generated in it."""

    voltage_v: float
    heat_w: float


@compiled
def resistances_ohm(state: PackState, pack: PackParameters, condition: Condition) -> tuple[float, float]:
    """Series and polarisation resistance, ohm, of one cell at its temperature, charge and wear."""
    factor = resistance_factor(state.soc, state.core_c, pack.cell.activation_temperature_k)
    factor *= 1.0 + condition.resistance_growth
    return pack.cell.series_resistance_ohm * factor, pack.cell.polarisation_resistance_ohm * factor


@compiled
def source(state: PackState, pack: PackParameters, condition: Condition) -> tuple[float, float]:
    """Equivalent source of the pack: voltage behind the series resistance, V, and that resistance, ohm."""
    series_ohm, _ = resistances_ohm(state, pack, condition)
    behind_v = open_circuit_voltage(state.soc, pack.cell.ocv_v) - state.polarisation_v
    return pack.cells_in_series * behind_v, pack.cells_in_series * series_ohm + condition.contact_resistance_ohm


@compiled
def drive_current_a(state: PackState, pack: PackParameters, condition: Condition, power_w: float) -> float:
    """Current, A, for `power_w` (negative: recuperation), limited to keep every cell within its voltage limits."""
    source_v, resistance_ohm = source(state, pack, condition)
    highest_a = (source_v - pack.cells_in_series * pack.cell.voltage_min_v) / resistance_ohm
    lowest_a = (source_v - pack.cells_in_series * pack.cell.voltage_max_v) / resistance_ohm
    current_a = current_for_power(power_w, source_v, resistance_ohm)
    return min(max(current_a, min(lowest_a, 0.0)), max(highest_a, 0.0))


@compiled
def charge_current_a(
    state: PackState, pack: PackParameters, condition: Condition, power_w: float, limit_a: float
) -> float:
    """Charging current, A (<= 0): constant power or current until the voltage limit, then constant voltage."""
    source_v, resistance_ohm = source(state, pack, condition)
    by_power_a = current_for_power(-power_w, source_v, resistance_ohm)
    by_voltage_a = (source_v - pack.cells_in_series * pack.cell.voltage_max_v) / resistance_ohm
    return min(max(by_power_a, by_voltage_a, -limit_a), 0.0)


@compiled
def step(
    state: PackState,
    pack: PackParameters,
    condition: Condition,
    current_a: float,
    ambient_c: float,
    is_awake: bool,
    dt_s: float,
) -> tuple[PackState, StepOutput]:
    """State and output after `dt_s` seconds of constant current: exact for the RC pair, explicit for the rest."""
    series_ohm, polarisation_ohm = resistances_ohm(state, pack, condition)
    share = 1.0 - math.exp(-dt_s / pack.cell.polarisation_time_s)
    polarisation_v = polarisation_after(state.polarisation_v, current_a, polarisation_ohm, share)
    mean_polarisation_v = 0.5 * (state.polarisation_v + polarisation_v)

    soc = state.soc - current_a * dt_s / (3600.0 * condition.capacity_ah)
    loss_per_cell_w = current_a * current_a * series_ohm + mean_polarisation_v * mean_polarisation_v / polarisation_ohm
    heat_w = pack.cells_in_series * loss_per_cell_w + current_a * current_a * condition.contact_resistance_ohm
    cooling_share = condition.cooling_share if is_awake else 0.0
    core_c, shell_c = step_thermal(state.core_c, state.shell_c, heat_w, ambient_c, cooling_share, pack.thermal, dt_s)

    cell_v = open_circuit_voltage(soc, pack.cell.ocv_v) - current_a * series_ohm - polarisation_v
    voltage_v = pack.cells_in_series * cell_v - current_a * condition.contact_resistance_ohm
    return PackState(soc, polarisation_v, core_c, shell_c), StepOutput(voltage_v, heat_w)


@compiled
def cell_voltages_v(
    state: PackState, pack: PackParameters, condition: Condition, current_a: float
) -> NDArray[np.float64]:
    """Voltage of each series group, V.  Cells are balanced when full, so a small cell is empty before the others."""
    series_ohm, _ = resistances_ohm(state, pack, condition)
    spread = 1.0 + SPREAD_GROWTH * condition.capacity_loss
    voltages_v = np.empty(pack.cell_charge_offset.size)
    for cell in range(voltages_v.size):
        capacity = 1.0 + spread * pack.cell_capacity_deviation[cell]
        resistance = 1.0 + spread * pack.cell_resistance_deviation[cell]
        soc = 1.0 - (1.0 - state.soc) / capacity + spread * pack.cell_charge_offset[cell]
        if cell == 0:
            soc += condition.weak_cell_charge_offset
        drop_v = resistance * (current_a * series_ohm + state.polarisation_v)
        voltages_v[cell] = open_circuit_voltage(soc, pack.cell.ocv_v) - drop_v
    return voltages_v
