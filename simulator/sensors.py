"""Sensor model of the battery management system: noise, bias, drift and quantisation.

The simulation is exact; every published reading passes through `measure`.  Sizes that real cars show are from
`simulator.sensor_statistics`, the others (errors of gain and offset, drift) from data sheets:

- current: LEM CAB 300-C/SP3, a fluxgate for traction batteries, error of the sensitivity below 0.5 %;
- cells: Analog Devices LTC6813-1, total error at most 2.2 mV; LTC6803-2, drift 60 ppm for each root of 1,000 h;
- probes: Vishay NTCLE305E4, tolerance 0.5 K; NXP KTY85, at most 0.25 K over its life, with the root of time.

All are inside the limits of GB/T 38661-2020 for a battery management system (current 2 %, pack voltage 1 %, 2 K).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator import sensor_statistics
from simulator.sensor_faults import (
    NO_SENSOR_FAULT,
    SensorFault,
    draw_sensor_fault,
    faulty_cells_v,
    faulty_current_a,
    faulty_temperature_c,
)

FloatArray = NDArray[np.float64]

#: Columns of the true samples that `simulator.battery_physics.record` writes.
(
    TIME_S, VOLTAGE_V, CURRENT_A, CORE_C, SHELL_C, BMS_SOC, SOH, AMBIENT_C, CYCLES, IS_CHARGING,
    CELL_MIN_V, CELL_MAX_V, CELL_MEDIAN_V, ODOMETER_KM, SPEED_M_S, HAS_FAILED,
) = range(16)  # fmt: skip
#: Severity of the fault of a sensor, 0 to 1 (`simulator.sensor_faults`).
SENSOR_SEVERITY = 16
SAMPLE_SIZE = 17

#: Resolutions of both cars (and of GB/T 32960.3); a test compares them with the table.
VOLTAGE_STEP_V = 0.1
CURRENT_STEP_A = 0.1
CELL_STEP_V = 0.001
SOC_STEP_PERCENT = 1.0

CELL_SPREAD_WARNING_V = 0.15
HOT_WARNING_C = 50.0
HOT_ALARM_C = 58.0
FAULT_LEVEL = 3.0

#: Temperature probes of a pack; the cars transmit 19 and 15 that work.
PROBES = 16
SECONDS_PER_YEAR = 365.25 * 86400.0
SECONDS_PER_KILOHOUR = 3.6e6


class SensorParameters(NamedTuple):
    """Sensor errors of one battery: constant biases, slow drift with age, and white noise (standard deviations).

    `temperature_offset_c` is that of the hottest probe: in a pack of even temperature, the one that shows most.

    Drift begins at `in_service_s`, seconds since 1970; infinite: none.  `fault_kind` of `simulator.sensor_faults` and
    `fault_value` are what fails if a sensor does; the severity is in the samples.
    """

    current_gain: float
    current_offset_a: float
    voltage_gain: float
    temperature_offset_c: float
    temperature_step_c: float
    insulation_kohm: float
    coldest_offset_c: float
    cell_voltage_gain: float
    current_dead_band_a: float
    voltage_noise_v: float
    current_noise_a: float
    cell_voltage_noise_v: float
    temperature_noise_c: float
    in_service_s: float = float("inf")
    current_gain_per_year: float = 0.0
    current_offset_a_per_year: float = 0.0
    voltage_gain_per_root_kilohour: float = 0.0
    temperature_c_per_root_kilohour: float = 0.0
    fault_kind: int = NO_SENSOR_FAULT
    fault_value: float = 0.0


def draw_sensors(
    rng: np.random.Generator, temperature_step_c: float, in_service_s: float = float("inf")
) -> SensorParameters:
    """Draw one battery's sensor errors; limits of data sheets are taken as two standard deviations.

    Args:
        in_service_s: first day of the sensors, seconds since 1970; infinite: they do not drift.
    """
    sizes = sensor_statistics.span
    # Quantisation alone looks like this much noise, and less is not seen behind it.
    current_noise = (CURRENT_STEP_A / 12**0.5, sizes("current_noise_charge")[1])
    fault = draw_sensor_fault(rng)
    probes_k = 0.25 * rng.standard_normal(PROBES)  # NTCLE305E4: 0.5 K
    return SensorParameters(
        current_gain=1.0 + 0.0025 * rng.standard_normal(),  # CAB 300-C: 0.5 %
        current_offset_a=0.05 * rng.standard_normal(),  # CAB 300-C has none; half a step of the transmitted value
        voltage_gain=1.0 + 0.001 * rng.standard_normal(),  # the cars' packs and cells differ by 0.25 % at most
        temperature_offset_c=float(probes_k.max()),
        temperature_step_c=temperature_step_c,
        insulation_kohm=rng.uniform(2000.0, 6000.0),
        coldest_offset_c=float(probes_k.min()),
        cell_voltage_gain=1.0 + 0.0003 * rng.standard_normal(),  # LTC6813-1: 2.2 mV of 3.7 V
        current_dead_band_a=rng.uniform(*sizes("current_smallest_a")),
        # While charging: at rest one of the cars shows the open contactors' voltage, with noise of 0.5 V.
        voltage_noise_v=rng.uniform(0.5, 1.5) * sizes("voltage_noise_charge")[0],
        current_noise_a=rng.uniform(*current_noise),
        cell_voltage_noise_v=rng.uniform(*sizes("cell_voltage_max_noise_rest", "cell_voltage_max_noise_charge")),
        temperature_noise_c=rng.uniform(*sizes("temperature_noise_rest")),
        in_service_s=in_service_s,
        # No data sheet gives the current's drift: after 10 years as large as the errors when new.
        current_gain_per_year=0.00025 * rng.standard_normal(),
        current_offset_a_per_year=0.005 * rng.standard_normal(),
        voltage_gain_per_root_kilohour=60e-6 * rng.standard_normal(),  # LTC6803-2
        temperature_c_per_root_kilohour=0.015 * rng.standard_normal(),  # KTY85: 0.25 K after 8 years, 70,000 h
        fault_kind=fault.kind,
        fault_value=fault.value,
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
    severity = samples[:, SENSOR_SEVERITY]
    fault = SensorFault(sensors.fault_kind, sensors.fault_value)
    age_s = np.maximum(samples[:, TIME_S] - sensors.in_service_s, 0.0)
    years, root_khours = age_s / SECONDS_PER_YEAR, np.sqrt(age_s / SECONDS_PER_KILOHOUR)

    current_gain = sensors.current_gain + sensors.current_gain_per_year * years
    current_offset_a = sensors.current_offset_a + sensors.current_offset_a_per_year * years
    current = faulty_current_a(samples[:, CURRENT_A] * current_gain + current_offset_a, fault, severity)
    current = current + sensors.current_noise_a * noise[:, 0]
    current[np.abs(current) < sensors.current_dead_band_a] = 0.0

    voltage_drift = sensors.voltage_gain_per_root_kilohour * root_khours
    voltage = samples[:, VOLTAGE_V] * (sensors.voltage_gain + voltage_drift) + sensors.voltage_noise_v * noise[:, 1]
    cell_gain = sensors.cell_voltage_gain + voltage_drift
    cell_noise_v = sensors.cell_voltage_noise_v * noise[:, 4]
    cell_min, cell_max = faulty_cells_v(
        samples[:, CELL_MIN_V] * cell_gain + cell_noise_v,
        samples[:, CELL_MAX_V] * cell_gain + cell_noise_v,
        fault,
        severity,
    )
    cell_median = samples[:, CELL_MEDIAN_V] * cell_gain + cell_noise_v

    drift_c = sensors.temperature_c_per_root_kilohour * root_khours
    hot = faulty_temperature_c(samples[:, CORE_C] + sensors.temperature_offset_c + drift_c, fault, severity)
    hot = hot + sensors.temperature_noise_c * noise[:, 2]
    cold = samples[:, SHELL_C] + sensors.coldest_offset_c + drift_c + sensors.temperature_noise_c * noise[:, 3]
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
