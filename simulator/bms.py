"""Battery management system: limits of current, control of the cooling, and the displayed state of charge.

The state of charge is counted from the measured current over the nominal capacity and corrected from the open-circuit
voltage at rest, as in a car that does not know its present capacity.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physics.cell import OCP_POINTS, OCP_SOC_FIRST, OCP_SOC_STEP, CellParameters
from physics.compiled import compiled
from physics.pack import PackParameters, limited_by_voltage_a

FloatArray = NDArray[np.float64]

#: Table of the open-circuit voltage over state of charge 0 to 1, by which charge is corrected at rest.
OCV_POINTS = 1001
#: A charge is slower below this temperature (Waldmann et al. 2014, doi:10.1016/j.jpowsour.2014.03.112: plating), and
#: any current above the other one.
COLD_C, COLDEST_C = 20.0, -10.0
HOT_C, HOTTEST_C = 50.0, 60.0
SMALLEST_SHARE = 0.1
#: The current that drives is reduced below this state of charge, to nothing at 0.
LOW_SOC = 0.05
#: The coolant flows from this temperature on, fully from the second.
COOLING_STARTS_C, COOLING_FULL_C = 28.0, 34.0
COOLANT_C = 20.0
REST_BEFORE_CORRECTION_S = 120.0
CORRECTION_TIME_S = 900.0
#: Slope of the open-circuit voltage (V per unit of state of charge) at which the correction has weight 0.5.
HALF_WEIGHT_SLOPE_V = 0.3


class ChargeCounter(NamedTuple):
    """Errors of the current sensor that counts charge, and the open-circuit voltage that corrects it.

    `ocv_v` float64[OCV_POINTS].
    """

    current_gain: float
    current_offset_a: float
    ocv_v: FloatArray


def ocv_table(cell: CellParameters) -> FloatArray:
    """Open-circuit voltage of `cell`, V, at evenly spaced states of charge from 0 to 1, made increasing."""
    grid = OCP_SOC_FIRST + OCP_SOC_STEP * np.arange(OCP_POINTS)
    values = np.interp(np.linspace(0.0, 1.0, OCV_POINTS), grid, cell.ocp_positive_v - cell.ocp_negative_v)
    table: FloatArray = np.maximum.accumulate(values) + 1e-9 * np.arange(OCV_POINTS)
    return table


@compiled
def charge_share(temperature_c: float) -> float:
    """Share of the charging current that is allowed at a temperature."""
    cold = min(max((temperature_c - COLDEST_C) / (COLD_C - COLDEST_C), SMALLEST_SHARE), 1.0)
    return min(cold, hot_share(temperature_c))


@compiled
def hot_share(temperature_c: float) -> float:
    """Share of the current that is allowed in the heat."""
    return min(max((HOTTEST_C - temperature_c) / (HOTTEST_C - HOT_C), SMALLEST_SHARE), 1.0)


@compiled
def coolant_share(core_c: float) -> float:
    """Share of the coolant's full flow at a core temperature, 0 to 1."""
    return min(max((core_c - COOLING_STARTS_C) / (COOLING_FULL_C - COOLING_STARTS_C), 0.0), 1.0)


@compiled
def drive_limited_a(
    sources: FloatArray, pack: PackParameters, soc: float, temperature_c: float, most_c_rate: float, demanded_a: float
) -> float:
    """Demanded current, A, within the limits: C-rate by charge and temperature, and the voltage of each cell."""
    most_a = most_c_rate * pack.nominal_capacity_ah
    drive_a = most_a * hot_share(temperature_c) * min(max(soc / LOW_SOC, 0.0), 1.0)
    current_a = min(max(demanded_a, -most_a * charge_share(temperature_c)), drive_a)
    return limited_by_voltage_a(sources, pack, pack.cell.voltage_min_v, pack.cell.voltage_max_v, current_a)


@compiled
def charge_limited_a(
    sources: FloatArray, pack: PackParameters, temperature_c: float, most_c_rate: float, demanded_a: float
) -> float:
    """Demanded charging current, A (<= 0), within the limits: C-rate by temperature, then the voltage of each cell."""
    limit_a = most_c_rate * charge_share(temperature_c) * pack.nominal_capacity_ah
    current_a = min(max(demanded_a, -limit_a), 0.0)
    return limited_by_voltage_a(sources, pack, pack.cell.voltage_min_v, pack.cell.voltage_max_v, current_a)


@compiled
def count_charge(
    bms_soc: float, current_a: float, nominal_capacity_ah: float, counter: ChargeCounter, dt_s: float
) -> float:
    """Coulomb counting: state of charge from measured current over *nominal* capacity, which ignores wear."""
    measured_a = current_a * counter.current_gain + counter.current_offset_a
    return min(max(bms_soc - measured_a * dt_s / (3600.0 * nominal_capacity_ah), 0.0), 1.0)


@compiled
def ocv_at(soc: float, ocv_v: FloatArray) -> float:
    """Open-circuit voltage, V, at `soc` between 0 and 1."""
    position = min(max(soc, 0.0), 1.0) * (OCV_POINTS - 1)
    lower = min(int(position), OCV_POINTS - 2)
    return float(ocv_v[lower] + (position - lower) * (ocv_v[lower + 1] - ocv_v[lower]))


@compiled
def soc_at_rest(voltage_v: float, ocv_v: FloatArray) -> float:
    """State of charge, 0 to 1, of a cell that rests at `voltage_v`."""
    upper = min(max(int(np.searchsorted(ocv_v, voltage_v)), 1), OCV_POINTS - 1)
    share = (voltage_v - ocv_v[upper - 1]) / (ocv_v[upper] - ocv_v[upper - 1])
    return float((upper - 1 + min(max(share, 0.0), 1.0)) / (OCV_POINTS - 1))


@compiled
def correct_at_rest(bms_soc: float, cell_voltage_v: float, ocv_v: FloatArray, dt_s: float) -> float:
    """Correct the counted charge towards that of the resting voltage, weighted by the slope of the voltage curve."""
    by_voltage = soc_at_rest(cell_voltage_v, ocv_v)
    delta = 10.0 / (OCV_POINTS - 1)
    low, high = max(by_voltage - delta, 0.0), min(by_voltage + delta, 1.0)
    slope = (ocv_at(high, ocv_v) - ocv_at(low, ocv_v)) / (high - low)
    weight = slope * slope / (slope * slope + HALF_WEIGHT_SLOPE_V * HALF_WEIGHT_SLOPE_V)
    return bms_soc + (by_voltage - bms_soc) * weight * min(dt_s / CORRECTION_TIME_S, 1.0)
