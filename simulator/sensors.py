"""Sensor model of the battery management system: noise, bias and quantisation.

The simulation is exact; every published reading passes through `measure`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Columns of the true samples that `simulator.battery_physics.record` writes.
(
    TIME_S, VOLTAGE_V, CURRENT_A, CORE_C, SHELL_C, BMS_SOC, SOH, AMBIENT_C, CYCLES, IS_CHARGING,
    CELL_MIN_V, CELL_MAX_V, CELL_MEDIAN_V, ODOMETER_KM, SPEED_M_S, HAS_FAILED,
) = range(16)  # fmt: skip
SAMPLE_SIZE = 16

VOLTAGE_STEP_V = 0.1
CURRENT_STEP_A = 0.1
CELL_STEP_V = 0.001
SOC_STEP_PERCENT = 0.5

CELL_SPREAD_WARNING_V = 0.15
HOT_WARNING_C = 50.0
HOT_ALARM_C = 58.0
FAULT_LEVEL = 3.0


class SensorParameters(NamedTuple):
    """Sensor errors of one battery; biases are constant, noise is white."""

    current_gain: float
    current_offset_a: float
    voltage_gain: float
    temperature_offset_c: float
    temperature_step_c: float
    insulation_kohm: float


def draw_sensors(rng: np.random.Generator, temperature_step_c: float) -> SensorParameters:
    """Draw one battery's sensor errors, typical of cars: 0.3 % of current, 0.05 % of voltage, 0.4 K."""
    return SensorParameters(
        current_gain=1.0 + 0.003 * rng.standard_normal(),
        current_offset_a=0.05 * rng.standard_normal(),
        voltage_gain=1.0 + 0.0005 * rng.standard_normal(),
        temperature_offset_c=0.4 * rng.standard_normal(),
        temperature_step_c=temperature_step_c,
        insulation_kohm=rng.uniform(2000.0, 6000.0),
    )


def quantise(values: FloatArray, step: float) -> FloatArray:
    """Round `values` to multiples of `step` with at most 4 decimals; no negative zero."""
    return np.round(np.round(values / step) * step, 4) + 0.0


def measure(samples: FloatArray, sensors: SensorParameters, rng: np.random.Generator) -> dict[str, FloatArray]:
    """Measured reading columns of the contract (without `battery_id` and `time`) from true samples.

    Args:
        samples: float64[n, SAMPLE_SIZE].
        rng: of the battery's sensor noise; one call with n samples draws the same values as n calls with one.
    """
    noise = rng.standard_normal((len(samples), 7))
    current = samples[:, CURRENT_A] * sensors.current_gain + sensors.current_offset_a + 0.05 * noise[:, 0]
    voltage = samples[:, VOLTAGE_V] * sensors.voltage_gain + 0.04 * noise[:, 1]
    hot = samples[:, CORE_C] + sensors.temperature_offset_c + 0.05 * noise[:, 2]
    cold = samples[:, SHELL_C] + sensors.temperature_offset_c + 0.05 * noise[:, 3]
    cell_min = samples[:, CELL_MIN_V] * sensors.voltage_gain + 0.0007 * noise[:, 4]
    cell_max = samples[:, CELL_MAX_V] * sensors.voltage_gain + 0.0007 * noise[:, 4]
    cell_median = samples[:, CELL_MEDIAN_V] * sensors.voltage_gain + 0.0007 * noise[:, 4]
    insulation = sensors.insulation_kohm * (0.4 + 0.6 * samples[:, SOH]) * (1.0 + 0.03 * noise[:, 5])

    voltage = quantise(voltage, VOLTAGE_STEP_V)
    current = quantise(current, CURRENT_STEP_A)
    temperature = quantise(np.maximum(hot, cold), sensors.temperature_step_c)
    cell_min = quantise(cell_min, CELL_STEP_V)
    cell_max = quantise(cell_max, CELL_STEP_V)
    speed = quantise(np.maximum(samples[:, SPEED_M_S] * 3.6, 0.0), 0.1)
    return {
        "voltage": voltage,
        "current": current,
        "temperature": temperature,
        "soc": quantise(100.0 * samples[:, BMS_SOC], SOC_STEP_PERCENT),
        "soh": quantise(100.0 * samples[:, SOH], 0.001),
        "ambient_temperature": quantise(samples[:, AMBIENT_C] + 0.05 * noise[:, 6], 0.5),
        "charge_cycles": quantise(samples[:, CYCLES], 0.01),
        "power_consumption": quantise(voltage * current, 10.0),
        "is_charging": samples[:, IS_CHARGING].copy(),
        "temperature_min": np.minimum(quantise(cold, sensors.temperature_step_c), temperature),
        "cell_voltage_min": cell_min,
        "cell_voltage_max": cell_max,
        "cell_voltage_median": quantise(cell_median, CELL_STEP_V),
        "insulation_resistance": quantise(insulation, 10.0),
        "odometer_km": quantise(samples[:, ODOMETER_KM], 0.1),
        "speed_kmh": speed,
        "warning_level": warning_level(temperature, cell_max - cell_min, samples[:, HAS_FAILED] > 0.0),
    }


def warning_level(temperature_c: FloatArray, cell_spread_v: FloatArray, has_failed: NDArray[np.bool_]) -> FloatArray:
    """Warning level of the pack: 1 cell spread or warm, 2 hot, 3 fault."""
    level = ((cell_spread_v > CELL_SPREAD_WARNING_V) | (temperature_c > HOT_WARNING_C)).astype(np.float64)
    level[temperature_c > HOT_ALARM_C] = 2.0
    level[has_failed] = FAULT_LEVEL
    return level
