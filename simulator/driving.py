"""Driving: speed and battery power of a car over regulatory driving cycles, second by second.

The cycles of a car follow one another in one table (`simulator.vehicle_power`, from FASTSim); a drive begins and ends
where the car stands.  The table holds for an average driver at 22 degC without air conditioning.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physics.compiled import compiled
from simulator.vehicle_power import Drive

FloatArray = NDArray[np.float64]

#: Cycle of town and of motorway driving, as in the tables.
TOWN, HIGHWAY = "udds", "hwfet"
CABIN_C = 21.0
#: A car whose battery is empty is braked to a stop.
EMPTY_BRAKE_M_S2 = 1.5


class CycleTable(NamedTuple):
    """Speed, m/s, and power from the battery, W, in steps of a second: the town cycle, then the highway cycle.

    `stops` int64[k]: rows of the town cycle in which the car has set off; `highway_row` is the first one of the highway
    cycle, which begins and ends standing.
    """

    speed_m_s: FloatArray
    power_w: FloatArray
    stops: NDArray[np.int64]
    highway_row: int


class VehicleParameters(NamedTuple):
    """Car: its cycles, constant auxiliaries that they contain, and climate control for each K from 21 degC."""

    cycles: CycleTable
    auxiliary_w: float
    cabin_w_per_k: float


class DriverParameters(NamedTuple):
    """Driver: share of the distance on highways, and factors on traction and on recuperation."""

    highway_share: float
    traction_factor: float
    recuperation_factor: float


class DriveState(NamedTuple):
    """Row of the cycle table (seconds, not whole) and speed; a row below 0: the car stands."""

    row: float
    speed_m_s: float


STANDING = DriveState(-1.0, 0.0)


def cycle_table(town: Drive, highway: Drive) -> CycleTable:
    """The cycles of one car, one after the other."""
    standing = town.speed_m_s < 0.01
    # A stop of a second is passed: `step_drive` needs two rows to see that the car has stood.
    sets_off = np.flatnonzero(standing[:-2] & standing[1:-1] & ~standing[2:]) + 2
    return CycleTable(
        np.concatenate([town.speed_m_s, highway.speed_m_s]),
        np.concatenate([town.power_w, highway.power_w]),
        sets_off.astype(np.int64),
        len(town.speed_m_s),
    )


@compiled
def set_off(table: CycleTable, driver: DriverParameters, dt_s: float, rng: np.random.Generator) -> DriveState:
    """A car that sets off within `dt_s`: at any stop of the town cycle, or on the highway.

    The highway cycle is longer than the way between two stops in town, so it is drawn with the share of distance over
    its length.
    """
    town_km = table.speed_m_s[: table.highway_row].sum() / 1000.0 / table.stops.size
    highway_km = table.speed_m_s[table.highway_row :].sum() / 1000.0
    town_weight = (1.0 - driver.highway_share) / town_km
    highway_weight = driver.highway_share / highway_km
    if rng.random() * (town_weight + highway_weight) < highway_weight:
        return DriveState(float(table.highway_row), 0.0)
    return DriveState(table.stops[int(rng.random() * table.stops.size)] - dt_s, 0.0)


@compiled
def step_drive(
    drive: DriveState,
    vehicle: VehicleParameters,
    driver: DriverParameters,
    is_arriving: bool,
    is_empty: bool,
    dt_s: float,
    rng: np.random.Generator,
) -> DriveState:
    """The drive after `dt_s`: along the cycle, and at each stop on to another part of it.

    Args:
        is_arriving: the car stays at the next stop.
        is_empty: it is braked to a stop at once.
    """
    table = vehicle.cycles
    if drive.row < 0.0:
        return STANDING if is_arriving or is_empty else set_off(table, driver, dt_s, rng)
    if is_empty:
        speed = max(drive.speed_m_s - EMPTY_BRAKE_M_S2 * dt_s, 0.0)
        return DriveState(drive.row, speed) if speed > 0.0 else STANDING
    row = drive.row + dt_s
    end = table.highway_row if drive.row < table.highway_row else table.speed_m_s.size
    if row >= end:
        return STANDING
    speed = table.speed_m_s[int(row)]
    # In town a car that has stood for its time sets off from another stop.
    has_stood = drive.speed_m_s < 0.01 and drive.row != table.highway_row
    if speed < 0.01 and (is_arriving or (has_stood and _sets_off(table, row))):
        return STANDING
    return DriveState(row, speed)


@compiled
def _sets_off(table: CycleTable, row: float) -> bool:
    """Whether the car sets off in the next row."""
    following = int(row) + 1
    return following < table.speed_m_s.size and bool(table.speed_m_s[following] >= 0.01)


@compiled
def auxiliary_power_w(vehicle: VehicleParameters, ambient_c: float) -> float:
    """Power of lights, computers and climate control, W."""
    return vehicle.auxiliary_w + vehicle.cabin_w_per_k * abs(ambient_c - CABIN_C)


@compiled
def drive_power_w(drive: DriveState, vehicle: VehicleParameters, driver: DriverParameters, ambient_c: float) -> float:
    """Power demanded from the pack, W; negative where recuperation exceeds consumption."""
    auxiliary_w = auxiliary_power_w(vehicle, ambient_c)
    if drive.row < 0.0:
        return auxiliary_w
    traction_w = vehicle.cycles.power_w[int(drive.row)] - vehicle.auxiliary_w
    factor = driver.traction_factor if traction_w > 0.0 else driver.recuperation_factor
    return float(auxiliary_w + traction_w * factor)
