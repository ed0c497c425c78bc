"""Faults of sensors: what a faulty one measures instead of the true value, by a severity from 0 (none) to 1.

A fault grows with its severity and depends on nothing but the present value, so that readings can be measured in any
portions.  The sizes at severity 1 exceed what GB/T 38661-2020 allows for a battery management system (current 2 % of
full scale, temperature 2 K, cell voltage 10 mV): 10 A of 350 A, 15 K and 200 mV.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

SENSOR_FAULT_NAMES: tuple[str, ...] = ("current_offset", "temperature_drift", "temperature_stuck", "cell_voltage_tap")
CURRENT_OFFSET, TEMPERATURE_DRIFT, TEMPERATURE_STUCK, CELL_VOLTAGE_TAP = range(4)
NO_SENSOR_FAULT = -1

CURRENT_OFFSET_A = 10.0
TEMPERATURE_DRIFT_K = 15.0
CELL_VOLTAGE_OFFSET_V = 0.2
#: What a probe that has come off the cells measures: the temperature of the housing.
STUCK_C = (15.0, 35.0)


class SensorFault(NamedTuple):
    """A fault that a battery may get: its kind, and the error of the sensor (or its value, if stuck) at severity 1."""

    kind: int
    value: float


def draw_sensor_fault(rng: np.random.Generator) -> SensorFault:
    """Draw which sensor of a battery will fail if one does, and how."""
    kind = int(rng.integers(len(SENSOR_FAULT_NAMES)))
    sign = 1.0 if rng.random() < 0.5 else -1.0
    stuck_c = float(rng.uniform(*STUCK_C))
    sizes = (sign * CURRENT_OFFSET_A, sign * TEMPERATURE_DRIFT_K, stuck_c, sign * CELL_VOLTAGE_OFFSET_V)
    return SensorFault(kind, sizes[kind])


def faulty_current_a(current_a: FloatArray, fault: SensorFault, severity: FloatArray) -> FloatArray:
    """Current, A, with an offset that grows with the severity."""
    return current_a + severity * fault.value if fault.kind == CURRENT_OFFSET else current_a


def faulty_temperature_c(temperature_c: FloatArray, fault: SensorFault, severity: FloatArray) -> FloatArray:
    """Temperature of the hottest probe, degC: one that drifts, or that comes off until it shows a constant value."""
    if fault.kind == TEMPERATURE_DRIFT:
        return temperature_c + severity * fault.value
    if fault.kind == TEMPERATURE_STUCK:
        return (1.0 - severity) * temperature_c + severity * fault.value
    return temperature_c


def faulty_cells_v(
    lowest_v: FloatArray, highest_v: FloatArray, fault: SensorFault, severity: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest cell voltage, V, where the tap of a cell has an offset that grows with the severity."""
    if fault.kind != CELL_VOLTAGE_TAP:
        return lowest_v, highest_v
    offset_v = severity * fault.value
    return np.maximum(lowest_v + np.minimum(offset_v, 0.0), 0.0), highest_v + np.maximum(offset_v, 0.0)
