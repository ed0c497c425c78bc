"""Tests of the sensor model: sizes from the real cars, drift, faults, and the same noise in any portions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simulator import sensors as s
from simulator.sensor_faults import (
    CELL_VOLTAGE_TAP,
    CURRENT_OFFSET,
    SENSOR_FAULT_NAMES,
    TEMPERATURE_DRIFT,
    TEMPERATURE_STUCK,
    SensorFault,
    draw_sensor_fault,
    faulty_temperature_c,
)
from simulator.sensor_statistics import span, values
from simulator.sensors import SensorParameters, draw_sensors, measure
from telemetry.contract import READING_FIELDS

YEAR_S = s.SECONDS_PER_YEAR


def true_samples(count: int, seed: int = 5, severity: float | None = None) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    samples = np.zeros((count, s.SAMPLE_SIZE))
    samples[:, s.TIME_S] = 1.6e9 + 30.0 * np.arange(count)
    samples[:, s.VOLTAGE_V] = rng.uniform(300.0, 400.0, count)
    samples[:, s.CURRENT_A] = rng.uniform(-200.0, 300.0, count)
    samples[:, s.CORE_C] = rng.uniform(-20.0, 60.0, count)
    samples[:, s.SHELL_C] = samples[:, s.CORE_C] - 3.0
    samples[:, s.BMS_SOC] = rng.uniform(0.0, 1.0, count)
    samples[:, s.SOH] = 0.9
    samples[:, s.CELL_MIN_V], samples[:, s.CELL_MAX_V], samples[:, s.CELL_MEDIAN_V] = 3.6, 3.62, 3.61
    if severity is not None:
        samples[:, s.SENSOR_SEVERITY] = severity
    return samples


def exact(**changes: float) -> SensorParameters:
    """Sensors without any error but quantisation."""
    return SensorParameters(1.0, 0.0, 1.0, 0.0, 0.5, 4000.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)._replace(**changes)


def drawn(seed: int, in_service_s: float = float("inf")) -> SensorParameters:
    return draw_sensors(np.random.default_rng(seed), 0.5, in_service_s)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), age=st.floats(0.0, 25.0), severity=st.floats(0.0, 1.0))
def test_measured_values_stay_in_the_contract(seed: int, age: float, severity: float) -> None:
    measured = measure(
        true_samples(20, severity=severity), drawn(seed, 1.6e9 - age * YEAR_S), np.random.default_rng(seed)
    )
    for field in READING_FIELDS:
        if field.name in measured:
            assert np.isfinite(measured[field.name]).all(), field.name
            assert all(field.allows(value) for value in measured[field.name]), field.name
    assert (measured["temperature_min"] <= measured["temperature"]).all()
    assert (measured["cell_voltage_min"] <= measured["cell_voltage_max"]).all()


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 40), max_size=5), severity=st.none() | st.floats(0.0, 1.0))
def test_portions_give_the_same_readings(cuts: list[int], severity: float | None) -> None:
    samples, sensors = true_samples(40, severity=severity), drawn(3, 1.4e9)
    at_once, rng = measure(samples, sensors, np.random.default_rng(8)), np.random.default_rng(8)
    parts = [measure(samples[a:b], sensors, rng) for a, b in pairwise([0, *sorted(cuts), 40])]
    for name, expected in at_once.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), expected, err_msg=name)


def test_errors_have_the_sizes_of_the_cars() -> None:
    many = [drawn(seed) for seed in range(400)]
    for field, statistics in {
        "current_dead_band_a": ["current_smallest_a"],
        "cell_voltage_noise_v": ["cell_voltage_max_noise_rest", "cell_voltage_max_noise_charge"],
        "temperature_noise_c": ["temperature_noise_rest"],
    }.items():
        low, high = span(*statistics)
        sizes = [getattr(one, field) for one in many]
        assert low <= min(sizes) < max(sizes) <= high
        assert max(sizes) - min(sizes) > 0.9 * (high - low)
    for step, statistic in (
        (s.VOLTAGE_STEP_V, "voltage_step"),
        (s.CURRENT_STEP_A, "current_step"),
        (s.CELL_STEP_V, "cell_voltage_max_step"),
        (s.SOC_STEP_PERCENT, "soc_step"),
    ):
        assert set(values(statistic)) == {step}
    spread_k = [one.temperature_offset_c - one.coldest_offset_c for one in many]
    assert np.mean(spread_k) == pytest.approx(0.25 * 3.53, rel=0.05)  # mean range of 16 normal values
    assert np.std([one.current_gain for one in many]) == pytest.approx(0.0025, rel=0.15)
    assert abs(np.mean([one.current_offset_a for one in many])) < 0.01


def test_an_unknown_statistic_is_refused() -> None:
    with pytest.raises(KeyError):
        values("colour")
    with pytest.raises(ValueError, match=r"python -m validation\.real_cars"):
        values()


def test_small_currents_are_not_seen() -> None:
    samples = true_samples(4)
    samples[:, s.CURRENT_A] = (0.3, -0.3, 0.6, -0.6)
    current = measure(samples, exact(current_dead_band_a=0.5), np.random.default_rng(1))["current"]
    assert current.tolist() == [0.0, 0.0, 0.6, -0.6]
    assert not np.signbit(current[:2]).any()


def test_sensors_drift_with_their_age() -> None:
    sensors = exact(
        in_service_s=1.6e9,
        current_gain_per_year=0.01,
        current_offset_a_per_year=0.5,
        voltage_gain_per_root_kilohour=1e-4,
        temperature_c_per_root_kilohour=0.1,
    )
    samples = np.repeat(true_samples(1), 3, axis=0)
    samples[:, s.CURRENT_A], samples[:, s.VOLTAGE_V] = 100.0, 400.0
    samples[:, s.CORE_C], samples[:, s.SHELL_C] = 20.0, 15.0
    samples[:, s.TIME_S] = 1.6e9 + np.array([-1.0, 0.0, 10.0]) * YEAR_S
    measured = measure(samples, sensors, np.random.default_rng(1))
    assert measured["current"].tolist() == [100.0, 100.0, 115.0]
    root_khours = np.sqrt(10.0 * 8.766)
    assert measured["voltage"][2] - 400.0 == pytest.approx(400.0 * 1e-4 * root_khours, abs=0.05)
    assert measured["temperature"].tolist() == [20.0, 20.0, 21.0]
    without = measure(samples, sensors._replace(in_service_s=float("inf")), np.random.default_rng(1))
    assert without["current"].tolist() == [100.0] * 3


@pytest.mark.parametrize("kind", range(len(SENSOR_FAULT_NAMES)))
def test_a_fault_grows_with_its_severity(kind: int) -> None:
    fault = next(one for seed in range(100) if (one := draw_sensor_fault(np.random.default_rng(seed))).kind == kind)
    sensors = exact(fault_kind=fault.kind, fault_value=fault.value)
    samples = true_samples(50)
    samples[:, s.CORE_C] = 45.0
    healthy = measure(samples, sensors, np.random.default_rng(2))
    errors = []
    for severity in (0.0, 0.5, 1.0):
        given_samples = samples.copy()
        given_samples[:, s.SENSOR_SEVERITY] = severity
        measured = measure(given_samples, sensors, np.random.default_rng(2))
        # The current of a sample is unchanged by a fault of the temperature, and so on.
        changed = {name for name in measured if not np.array_equal(measured[name], healthy[name])}
        expected = {
            CURRENT_OFFSET: {"current", "power_consumption"},
            TEMPERATURE_DRIFT: {"temperature", "temperature_min", "warning_level"},
            TEMPERATURE_STUCK: {"temperature", "temperature_min", "warning_level"},
            CELL_VOLTAGE_TAP: {"cell_voltage_min", "cell_voltage_max", "warning_level"},
        }[kind]
        assert changed <= expected
        assert bool(changed) == (severity > 0.0)
        errors.append(sum(float(np.abs(measured[name] - healthy[name]).sum()) for name in expected))
    assert errors[0] < errors[1] < errors[2]


def test_a_probe_that_is_stuck_does_not_follow_the_temperature() -> None:
    stuck = SensorFault(TEMPERATURE_STUCK, 21.0)
    true_c = np.array([-10.0, 20.0, 60.0])
    assert faulty_temperature_c(true_c, stuck, np.ones(3)).tolist() == [21.0] * 3
    assert faulty_temperature_c(true_c, stuck, np.zeros(3)).tolist() == true_c.tolist()
