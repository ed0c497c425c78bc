"""Pack of cells in series and parallel: spread between cells, current for a demanded power, and limits by single cells.

A pack is simulated by some of its series groups, each standing for `groups` of them: all one by one, or a few weak
ones, the mean and the strongest.  Each simulated group has the state of one cell of `physics.cell` and its
temperatures; `parallel` cells share its current.  Cells are balanced when full.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physics.cell import (
    CellParameters,
    CellState,
    Source,
    Wear,
    differential_ohm,
    resistance_after_minutes_ohm,
    resting,
    source_of,
    step,
    voltage_at,
)
from physics.compiled import compiled
from physics.thermal import ThermalParameters, ThermalState, step_thermal

FloatArray = NDArray[np.float64]

#: Columns of the simulated groups: the fields of `CellState`, then those of `ThermalState`.
SOC, CORE_C, SURFACE_C = 0, 10, 11
GROUP_SIZE = 12
#: Iterations of Newton's method for a current; the voltage is nearly linear in it.
ITERATIONS = 3


class PackParameters(NamedTuple):
    """Parameters of a new pack of n simulated groups; arrays float64[n].

    `parallel` cells of the kind `cell` have the capacity of a series group, so it need not be whole.  `groups` sums to
    `cells_in_series`.  The factors are relative to `cell`; `coolant_offset_c` is how much warmer than at the inlet the
    coolant is at a group.
    """

    cells_in_series: float
    parallel: float
    nominal_capacity_ah: float
    cell: CellParameters
    thermal: ThermalParameters
    groups: FloatArray
    capacity_factor: FloatArray
    resistance_factor: FloatArray
    coolant_offset_c: FloatArray


class Condition(NamedTuple):
    """Ageing of a pack and effects of a defect.

    `capacity` and `resistance` float64[n] are relative to the new group.  The leakage current discharges group 0,
    whose charge is `weak_charge_offset` away from balance when the pack is full.
    """

    capacity: FloatArray
    resistance: FloatArray
    contact_resistance_ohm: float
    cooling_share: float
    weak_charge_offset: float
    leakage_a: float


@compiled
def cell_state(row: FloatArray) -> CellState:
    """Electrical state in a row of the groups."""
    return CellState(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9])


@compiled
def group_capacity_ah(pack: PackParameters, condition: Condition, group: int) -> float:
    """Present capacity, Ah, of a series group."""
    new_ah = pack.parallel * pack.cell.capacity_ah * pack.capacity_factor[group]
    return float(new_ah * condition.capacity[group])


@compiled
def weakest_capacity_ah(pack: PackParameters, condition: Condition) -> float:
    """Capacity of the pack, Ah: that of its weakest group."""
    weakest = group_capacity_ah(pack, condition, 0)
    for group in range(1, pack.groups.size):
        weakest = min(weakest, group_capacity_ah(pack, condition, group))
    return weakest


@compiled
def new_resistance_ohm(pack: PackParameters) -> float:
    """Resistance, ohm, of the new pack at half charge and 25 degC, after minutes."""
    return pack.cells_in_series * resistance_after_minutes_ohm(0.5, 25.0, pack.cell) / pack.parallel


@compiled
def set_at_rest(
    groups: FloatArray, pack: PackParameters, condition: Condition, soc: float, temperature_c: float
) -> None:
    """Set all groups to rest at the pack's state of charge `soc` (0..1 of the weakest group) and one temperature."""
    missing_ah = (1.0 - soc) * weakest_capacity_ah(pack, condition)
    for group in range(pack.groups.size):
        own = 1.0 - missing_ah / group_capacity_ah(pack, condition, group)
        if group == 0:
            own = max(own + condition.weak_charge_offset, 0.0)
        for column, value in enumerate(resting(own)):
            groups[group, column] = value
        groups[group, CORE_C] = temperature_c
        groups[group, SURFACE_C] = temperature_c


@compiled
def pack_soc(groups: FloatArray) -> float:
    """State of charge of the pack: of its emptiest group."""
    return float(groups[:, SOC].min())


@compiled
def room_ah(groups: FloatArray, pack: PackParameters, condition: Condition) -> float:
    """Charge, Ah, until the first group is full; 0 if one is."""
    room = group_capacity_ah(pack, condition, 0) * (1.0 - groups[0, SOC])
    for group in range(1, pack.groups.size):
        room = min(room, group_capacity_ah(pack, condition, group) * (1.0 - groups[group, SOC]))
    return float(max(room, 0.0))


@compiled
def mean_core_c(groups: FloatArray, pack: PackParameters) -> float:
    """Mean core temperature, degC."""
    return float((groups[:, CORE_C] * pack.groups).sum() / pack.cells_in_series)


@compiled
def wear_of(pack: PackParameters, condition: Condition, group: int) -> Wear:
    """Present capacity and resistance factor of a cell of `group`."""
    return Wear(
        pack.cell.capacity_ah * pack.capacity_factor[group] * condition.capacity[group],
        pack.resistance_factor[group] * condition.resistance[group],
    )


@compiled
def store_sources(sources: FloatArray, groups: FloatArray, pack: PackParameters, condition: Condition) -> None:
    """Write the present source of each group into `sources` float64[n, 4]."""
    for group in range(pack.groups.size):
        row = groups[group]
        source = source_of(cell_state(row), pack.cell, wear_of(pack, condition, group), row[CORE_C])
        for column, value in enumerate(source):
            sources[group, column] = value


@compiled
def source_in(row: FloatArray) -> Source:
    """Source in a row of `store_sources`."""
    return Source(row[0], row[1], row[2], row[3])


@compiled
def pack_voltage_v(sources: FloatArray, pack: PackParameters, condition: Condition, current_a: float) -> float:
    """Terminal voltage, V, of the pack while `current_a` flows."""
    voltage_v = -current_a * condition.contact_resistance_ohm
    for group in range(pack.groups.size):
        voltage_v += pack.groups[group] * voltage_at(source_in(sources[group]), current_a / pack.parallel)
    return float(voltage_v)


@compiled
def pack_ohm(sources: FloatArray, pack: PackParameters, condition: Condition, current_a: float) -> float:
    """-dV/dI, ohm, of the pack at `current_a`."""
    ohm = condition.contact_resistance_ohm
    for group in range(pack.groups.size):
        own = differential_ohm(source_in(sources[group]), current_a / pack.parallel)
        ohm += pack.groups[group] * own / pack.parallel
    return float(ohm)


@compiled
def current_for_power_a(sources: FloatArray, pack: PackParameters, condition: Condition, power_w: float) -> float:
    """Current, A, at which the terminals give `power_w` (negative: they take it); at most that of the largest power."""
    current_a = 0.0
    for iteration in range(ITERATIONS):
        voltage_v = pack_voltage_v(sources, pack, condition, current_a)
        ohm = pack_ohm(sources, pack, condition, current_a)
        # The tangent V = e - r I has the largest power e / 2 r.
        behind_v = voltage_v + ohm * current_a
        root = behind_v * behind_v - 4.0 * ohm * power_w
        found_a = (behind_v - np.sqrt(root)) / (2.0 * ohm) if root > 0.0 else behind_v / (2.0 * ohm)
        if iteration > 0 and abs(found_a - current_a) < 1e-3:
            return float(found_a)
        current_a = found_a
    return float(current_a)


@compiled
def limited_by_voltage_a(
    sources: FloatArray, pack: PackParameters, voltage_min_v: float, voltage_max_v: float, current_a: float
) -> float:
    """`current_a`, reduced until every group is between the two voltages; never of the other sign."""
    for group in range(pack.groups.size):
        source = source_in(sources[group])
        for _ in range(ITERATIONS):
            own_a = current_a / pack.parallel
            voltage_v = voltage_at(source, own_a)
            if current_a > 0.0 and voltage_v < voltage_min_v:
                excess_v = voltage_v - voltage_min_v
            elif current_a < 0.0 and voltage_v > voltage_max_v:
                excess_v = voltage_v - voltage_max_v
            else:
                break
            changed_a = (own_a + excess_v / differential_ohm(source, own_a)) * pack.parallel
            if changed_a * current_a <= 0.0:
                return 0.0
            current_a = changed_a
    return current_a


@compiled
def step_pack(
    groups: FloatArray,
    pack: PackParameters,
    condition: Condition,
    current_a: float,
    ambient_c: float,
    coolant_c: float,
    coolant_share: float,
    dt_s: float,
) -> float:
    """Advance `groups` in place by `dt_s` seconds of `current_a`; the heat, W, that the pack generated.

    The bus bars spread the heat of the contact resistance over the pack.
    """
    heat_w = 0.0
    for group in range(pack.groups.size):
        row = groups[group]
        leakage_a = condition.leakage_a if group == 0 else 0.0
        own_a = (current_a + leakage_a) / pack.parallel
        state, output = step(cell_state(row), pack.cell, wear_of(pack, condition, group), own_a, row[CORE_C], dt_s)
        # The energy of the leakage stays in the cell.
        own_w = output.heat_w + output.entropic_heat_w + leakage_a / pack.parallel * output.mean_voltage_v
        own_w += current_a * current_a * condition.contact_resistance_ohm / pack.parallel / pack.cells_in_series
        temperatures, _, _ = step_thermal(
            ThermalState(row[CORE_C], row[SURFACE_C]),
            pack.thermal,
            own_w,
            ambient_c,
            coolant_c + pack.coolant_offset_c[group],
            coolant_share * condition.cooling_share,
            dt_s,
        )
        for column, value in enumerate(state):
            row[column] = value
        row[CORE_C], row[SURFACE_C] = temperatures.core_c, temperatures.surface_c
        heat_w += own_w * pack.parallel * pack.groups[group]
    return heat_w


@compiled
def group_voltages_v(sources: FloatArray, pack: PackParameters, current_a: float) -> FloatArray:
    """Voltage of each simulated group, V, float64[n]."""
    voltages_v = np.empty(pack.groups.size)
    for group in range(pack.groups.size):
        voltages_v[group] = voltage_at(source_in(sources[group]), current_a / pack.parallel)
    return voltages_v
