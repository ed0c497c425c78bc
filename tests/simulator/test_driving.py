"""Tests of driving and climate: consumption near the tables, feasible speeds, mixture, seeding, seasons."""

from __future__ import annotations

import numpy as np
import pytest

from physics.compiled import compiled_entry
from simulator.climate import ClimateParameters, ambient_c
from simulator.designs import CAR_MODELS, CarModel, consumption_of, cycles_of
from simulator.driving import EMPTY_BRAKE_M_S2, STANDING, DriverParameters, VehicleParameters, drive_power_w, step_drive
from simulator.vehicle_power import drives, vehicles

DRIVER = DriverParameters(highway_share=0.4, traction_factor=1.0, recuperation_factor=1.0)
MODELS = pytest.mark.parametrize("model", CAR_MODELS, ids=lambda model: model.name)


def vehicle_of(model: CarModel) -> VehicleParameters:
    return VehicleParameters(cycles_of(model.vehicle), vehicles()[model.vehicle].auxiliary_w, 60.0)


@compiled_entry
def run(
    vehicle: VehicleParameters,
    driver: DriverParameters,
    seconds: float,
    dt_s: float,
    rng: np.random.Generator,
    speed_m_s: np.ndarray,
    power_w: np.ndarray,
) -> int:
    """Fill both arrays until the car has arrived after `seconds`; the number of steps."""
    drive, time_s, step = STANDING, 0.0, 0
    while time_s < seconds or drive.row >= 0.0:
        drive = step_drive(drive, vehicle, driver, time_s >= seconds, False, dt_s, rng)
        speed_m_s[step], power_w[step] = drive.speed_m_s, drive_power_w(drive, vehicle, driver, 21.0)
        time_s, step = time_s + dt_s, step + 1
    return step


def trace(
    model: CarModel, seconds: int, driver: DriverParameters = DRIVER, *, seed: int = 2, dt_s: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Speed (m/s) and power (W) of a drive at 21 degC, which arrives after `seconds`."""
    speed, power = np.empty(int((seconds + 2000) / dt_s)), np.empty(int((seconds + 2000) / dt_s))
    steps = run(vehicle_of(model), driver, float(seconds), dt_s, np.random.default_rng(seed), speed, power)
    return speed[:steps], power[:steps]


@MODELS
def test_consumption_is_that_of_the_tables(model: CarModel) -> None:
    """Of a mixture, between that of town and that of highway driving."""
    table = drives()
    bounds = sorted(table[model.vehicle, cycle].consumption_wh_km for cycle in ("udds", "hwfet"))
    speed, power = trace(model, 1_000_000)
    wh_per_km = power.sum() / 3600.0 / (speed.sum() / 1000.0)
    assert bounds[0] * 0.97 < wh_per_km < bounds[1] * 1.03
    mean = consumption_of(vehicle_of(model), DRIVER)
    assert mean.out_wh_per_km - mean.back_wh_per_km == pytest.approx(wh_per_km, rel=0.02)
    assert mean.rms_w == pytest.approx(np.sqrt(np.mean(power**2)), rel=0.1)


@MODELS
def test_the_share_of_highways_is_that_of_the_distance(model: CarModel) -> None:
    speeds = {share: trace(model, 1_000_000, DRIVER._replace(highway_share=share))[0] for share in (0.0, 0.5, 1.0)}
    fast = {share: speed[speed > 27.0 / 1.2].sum() / speed.sum() for share, speed in speeds.items()}
    assert fast[0.0] < 0.2 < fast[0.5] < fast[1.0]
    assert fast[0.5] == pytest.approx(0.5 * (fast[0.0] + fast[1.0]), abs=0.08)


@pytest.mark.parametrize("dt_s", [0.5, 1.0])
def test_a_drive_is_feasible_and_ends_at_standstill(dt_s: float) -> None:
    speed, power = trace(CAR_MODELS[0], 3600, dt_s=dt_s)
    change = np.diff(speed)
    assert 0.0 <= speed.min() <= speed.max() < 30.0
    assert -1.5 <= change.min() <= change.max() <= 1.5
    assert speed[-1] == 0.0
    assert (speed == 0.0).mean() < 0.3
    assert (power < 0.0).any()
    assert len(speed) * dt_s < 3600 + 800


def test_an_empty_car_is_braked_to_a_stop() -> None:
    model, rng = CAR_MODELS[0], np.random.default_rng(1)
    vehicle, drive = vehicle_of(model), STANDING
    while drive.speed_m_s < 15.0:
        drive = step_drive(drive, vehicle, DRIVER, False, False, 1.0, rng)
    speeds = [drive.speed_m_s]
    while drive.row >= 0.0:
        drive = step_drive(drive, vehicle, DRIVER, False, True, 1.0, rng)
        speeds.append(drive.speed_m_s)
    assert speeds[-1] == 0.0
    assert np.diff(speeds).min() >= -EMPTY_BRAKE_M_S2 - 1e-9
    assert step_drive(drive, vehicle, DRIVER, False, True, 1.0, rng) == STANDING


def test_hurried_drivers_and_cold_weather_need_more() -> None:
    model = CAR_MODELS[0]
    usual = consumption_of(vehicle_of(model), DRIVER)
    hurried = consumption_of(vehicle_of(model), DRIVER._replace(traction_factor=1.2, recuperation_factor=0.6))
    assert hurried.out_wh_per_km > 1.1 * usual.out_wh_per_km
    assert hurried.back_wh_per_km < 0.7 * usual.back_wh_per_km
    vehicle = vehicle_of(model)
    frost_w, mild_w = (drive_power_w(STANDING, vehicle, DRIVER, air_c) for air_c in (-9.0, 21.0))
    assert frost_w - mild_w == pytest.approx(60.0 * 30.0)


def test_drives_are_reproducible_by_seed() -> None:
    np.testing.assert_array_equal(trace(CAR_MODELS[0], 900)[0], trace(CAR_MODELS[0], 900)[0])
    assert not np.array_equal(trace(CAR_MODELS[0], 300)[0], trace(CAR_MODELS[0], 300, seed=3)[0])


def test_summer_is_warmer_than_winter_and_afternoon_than_night() -> None:
    climate = ClimateParameters(12.0, 9.0, 4.0, 4.0, np.zeros(4))
    day_s = 86_400.0
    years = np.arange(0, 10 * 365)
    january = np.mean([ambient_c(d * day_s + 12 * 3600, climate) for d in years if d % 365 < 31])
    july = np.mean([ambient_c(d * day_s + 12 * 3600, climate) for d in years if 181 <= d % 365 < 212])
    assert july - january > 12.0
    assert ambient_c(15 * 3600.0, climate) > ambient_c(3 * 3600.0, climate)
