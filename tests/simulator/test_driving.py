"""Tests of driving and climate model: consumption, feasible speed traces, seeding, seasons."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.climate import ClimateParameters, ambient_c
from simulator.designs import CAR_MODELS, USAGES, CarModel
from simulator.driving import BRAKE_M_S2, STANDING, drive_power_w, step_drive


def trace(model: CarModel, seconds: int, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Speed (m/s) and power (W) over all usages; each trip ends with 100 s of arriving."""
    rng = np.random.default_rng(seed)
    speeds, powers = [], []
    for usage in USAGES:
        drive = STANDING
        for second in range(seconds):
            drive = step_drive(drive, usage.driver, second >= seconds - 100, 1.0, rng)
            speeds.append(drive.speed_m_s)
            powers.append(drive_power_w(drive, model.vehicle, 20.0))
    return np.array(speeds), np.array(powers)


@pytest.mark.parametrize("model", CAR_MODELS, ids=lambda model: model.name)
def test_consumption_matches_the_car_model(model: CarModel) -> None:
    speed, power = trace(model, 3600)
    wh_per_km = power.sum() / 3600.0 / (speed.sum() / 1000.0)
    assert wh_per_km == pytest.approx(model.consumption_wh_per_km, rel=0.35)
    assert (power < 0.0).any()  # recuperation
    assert power.min() >= -model.vehicle.recuperation_w


def test_speed_traces_are_feasible_and_end_at_standstill() -> None:
    speed, _ = trace(CAR_MODELS[0], 3600)
    runs = speed.reshape(len(USAGES), -1)
    change = np.diff(runs, axis=1)
    assert speed.min() >= 0.0
    assert speed.max() < 40.0
    assert change.min() >= -BRAKE_M_S2 - 1e-9
    assert change.max() <= 2.0
    assert (runs[:, -1] == 0.0).all()
    assert ((runs == 0.0).mean(axis=1) < 0.5).all()


def test_speed_traces_are_reproducible_by_seed() -> None:
    np.testing.assert_array_equal(trace(CAR_MODELS[0], 300)[0], trace(CAR_MODELS[0], 300)[0])
    assert not np.array_equal(trace(CAR_MODELS[0], 300)[0], trace(CAR_MODELS[0], 300, seed=3)[0])


def test_summer_is_warmer_than_winter_and_afternoon_than_night() -> None:
    climate = ClimateParameters(12.0, 9.0, 4.0, 4.0, np.zeros(4))
    day_s = 86_400.0
    years = np.arange(0, 10 * 365)
    january = np.mean([ambient_c(d * day_s + 12 * 3600, climate) for d in years if d % 365 < 31])
    july = np.mean([ambient_c(d * day_s + 12 * 3600, climate) for d in years if 181 <= d % 365 < 212])
    assert july - january > 12.0
    assert ambient_c(15 * 3600.0, climate) > ambient_c(3 * 3600.0, climate)
