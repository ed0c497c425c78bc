"""Driving model: a random speed trace of micro-trips, and the power that a vehicle needs to follow it.

The road-load equation is that of Guzzella and Sciarretta, Vehicle Propulsion Systems, 3rd ed. 2013, ch. 2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from physics.compiled import compiled

AIR_DENSITY_KG_M3 = 1.2
GRAVITY_M_S2 = 9.81
CABIN_C = 21.0
SPEED_RESPONSE_S = 2.5  # time constant with which a driver approaches the target speed
BRAKE_M_S2 = 1.8
GRADE_CORRELATION_S = 60.0


class VehicleParameters(NamedTuple):
    """Road-load parameters; `cabin_w_per_k` is the climate control's power for each K of difference to 21 degC."""

    mass_kg: float
    drag_area_m2: float
    rolling_resistance: float
    driveline_efficiency: float
    recuperation_w: float
    auxiliary_w: float
    cabin_w_per_k: float


class DriverParameters(NamedTuple):
    """Driver and roads: shares of town and country (the rest is motorway), acceleration limit, spread of the grade."""

    town_share: float
    country_share: float
    acceleration_m_s2: float
    grade_std: float


class DriveState(NamedTuple):
    """Speed, target speed (`wanted_m_s`), time that it is held once reached, grade of the road, and acceleration."""

    speed_m_s: float
    wanted_m_s: float
    hold_s: float
    grade: float
    acceleration_m_s2: float


STANDING = DriveState(0.0, 0.0, 0.0, 0.0, 0.0)


@compiled
def next_target_speed(driver: DriverParameters, was_moving: bool, rng: np.random.Generator) -> tuple[float, float]:
    """Draw the next target speed, m/s, and how long it is held, s: a stop, or town, country or motorway driving."""
    road = rng.random()
    if road < driver.town_share:
        if was_moving and rng.random() < 0.6:
            return 0.0, 5.0 + 35.0 * rng.random()
        return 6.0 + 9.0 * rng.random(), 10.0 + 40.0 * rng.random()
    if road < driver.town_share + driver.country_share:
        if was_moving and rng.random() < 0.2:
            return 0.0, 5.0 + 20.0 * rng.random()
        return 16.0 + 10.0 * rng.random(), 30.0 + 90.0 * rng.random()
    return 27.0 + 8.0 * rng.random(), 120.0 + 240.0 * rng.random()


@compiled
def step_drive(
    drive: DriveState, driver: DriverParameters, is_arriving: bool, dt_s: float, rng: np.random.Generator
) -> DriveState:
    """Advance the speed trace by `dt_s`; `is_arriving` brings the car to a stop."""
    wanted_m_s, hold_s = drive.wanted_m_s, drive.hold_s
    if is_arriving:
        wanted_m_s, hold_s = 0.0, 1.0
    elif hold_s <= 0.0:
        wanted_m_s, hold_s = next_target_speed(driver, drive.wanted_m_s > 0.0, rng)
    if abs(drive.speed_m_s - wanted_m_s) < 0.5:
        hold_s -= dt_s

    fade = 1.0 / (1.0 + (drive.speed_m_s / 20.0) ** 2)  # at high speed traction power, not grip, limits acceleration
    target = (wanted_m_s - drive.speed_m_s) / SPEED_RESPONSE_S
    acceleration = min(max(target, -BRAKE_M_S2), driver.acceleration_m_s2 * fade)
    speed_m_s = max(drive.speed_m_s + acceleration * dt_s, 0.0)
    if wanted_m_s == 0.0 and speed_m_s < 0.3:
        speed_m_s = 0.0
    share = dt_s / GRADE_CORRELATION_S
    grade_noise = driver.grade_std * math.sqrt(2.0 * share) * rng.standard_normal()
    return DriveState(
        speed_m_s, wanted_m_s, hold_s, drive.grade * (1.0 - share) + grade_noise, (speed_m_s - drive.speed_m_s) / dt_s
    )


@compiled
def auxiliary_power_w(vehicle: VehicleParameters, ambient_c: float) -> float:
    """Power of lights, computers and climate control, W."""
    return vehicle.auxiliary_w + vehicle.cabin_w_per_k * abs(ambient_c - CABIN_C)


@compiled
def drive_power_w(drive: DriveState, vehicle: VehicleParameters, ambient_c: float) -> float:
    """Power demanded from the pack, W; negative where recuperation exceeds consumption."""
    speed = drive.speed_m_s
    inertia_n = 1.05 * vehicle.mass_kg * drive.acceleration_m_s2
    air_n = 0.5 * AIR_DENSITY_KG_M3 * vehicle.drag_area_m2 * speed * speed
    road_n = vehicle.mass_kg * GRAVITY_M_S2 * (vehicle.rolling_resistance + drive.grade)
    wheel_w = (inertia_n + air_n + road_n) * speed
    if wheel_w >= 0.0:
        traction_w = wheel_w / vehicle.driveline_efficiency
    else:
        traction_w = max(wheel_w * vehicle.driveline_efficiency, -vehicle.recuperation_w)
    return traction_w + auxiliary_power_w(vehicle, ambient_c)
