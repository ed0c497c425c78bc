"""Compiled simulation of one car battery in use, with ageing and faults: `record` by seconds, `advance_days` by days.

`record` simulates the full physics and writes samples; the live simulator calls it for one sample, the fleet for a
whole activity.  `advance_days` applies ageing and hazard of average use only.  Both advance the same `BatteryState`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from physics.compiled import compiled, compiled_entry, sources_checksum
from simulator import sensors as s
from simulator.ageing import AgeingParameters, Stress, Wear, age, capacity_loss
from simulator.climate import SECONDS_PER_DAY, ClimateParameters, ambient_c, daily_mean_c
from simulator.driving import DriverParameters, DriveState, VehicleParameters, drive_power_w, step_drive
from simulator.faults import FaultPlan, HazardParameters, effects, has_failed, hazard_step, severity
from simulator.pack import (
    Condition,
    PackParameters,
    PackState,
    cell_voltages_v,
    charge_current_a,
    drive_current_a,
    step,
)

DRIVE, REST, CHARGE = range(3)
STEP_S = 1.0  # longest integration step
ARRIVAL_S = 25.0
EMPTY_SOC = 0.06
FULL_C_RATE = 1.0 / 25.0  # a charge ends when its current has fallen to this, or the pack is full
CHARGE_C_RATE = 1.5
NO_FAULT = -1


class UsageParameters(NamedTuple):
    """Average use of a battery, for days without a recording."""

    cycles_per_day: float
    km_per_cycle: float
    stress: Stress  # its temperature is ignored: the temperature is that of the climate plus `warming_c`
    warming_c: float


class Design(NamedTuple):
    """Constant properties of one battery and of its car, driver and climate."""

    pack: PackParameters
    new_capacity_ah: float
    ageing: AgeingParameters
    hazard: HazardParameters
    fault: FaultPlan
    vehicle: VehicleParameters
    driver: DriverParameters
    usage: UsageParameters
    climate: ClimateParameters
    sensors: s.SensorParameters


class Activity(NamedTuple):
    """Current activity of the car and its longest remaining duration; the last two fields are for charging."""

    kind: int
    remaining_s: float
    charger_w: float
    target_soc: float


class Overrides(NamedTuple):
    """Injected changes: ambient temperature, factor on wear (1 = natural), and a fault of a kind at a severity."""

    ambient_offset_c: float
    wear_speed: float
    fault_kind: int
    fault_severity: float


class BatteryState(NamedTuple):
    """Variable state of a battery.  `time_s` is event time in seconds since 1970.

    The field names are part of the stored format of `simulator.saved_state`.
    """

    time_s: float
    pack: PackState
    drive: DriveState
    activity: Activity
    wear: Wear
    cumulative_hazard: float
    discharged_ah: float
    odometer_km: float
    bms_soc: float
    resting_s: float


NO_OVERRIDES = Overrides(0.0, 1.0, NO_FAULT, 0.0)
PARKED = Activity(REST, 0.0, 0.0, 1.0)


@compiled
def cycles(state: BatteryState, design: Design) -> float:
    """Equivalent full cycles: discharged charge over nominal capacity."""
    return state.discharged_ah / design.pack.nominal_capacity_ah


@compiled
def health(wear: Wear, design: Design) -> float:
    """State of health: present capacity over nominal capacity."""
    return design.new_capacity_ah * (1.0 - capacity_loss(wear)) / design.pack.nominal_capacity_ah


@compiled
def is_faulty(state: BatteryState, design: Design, overrides: Overrides) -> bool:
    """True once the planned fault has happened, or one was injected at full severity."""
    injected = overrides.fault_kind != NO_FAULT and overrides.fault_severity >= 1.0
    return injected or has_failed(state.cumulative_hazard, design.fault)


@compiled
def condition_of(state: BatteryState, design: Design, overrides: Overrides) -> Condition:
    """Condition of the pack: wear, and effects of its own or an injected defect."""
    kind, share = design.fault.kind, severity(state.cumulative_hazard, design.fault)
    if overrides.fault_kind != NO_FAULT:
        kind, share = overrides.fault_kind, overrides.fault_severity
    defect = effects(kind, share)
    new_resistance_ohm = design.pack.cells_in_series * design.pack.cell.series_resistance_ohm
    loss = capacity_loss(state.wear)
    return Condition(
        design.new_capacity_ah * (1.0 - loss),
        state.wear.resistance_growth,
        loss,
        defect.contact_resistance_share * new_resistance_ohm,
        defect.cooling_share,
        defect.weak_cell_charge_offset,
    )


@compiled
def wear_and_hazard(
    state: BatteryState, design: Design, overrides: Overrides, stress: Stress, dt_s: float, dn_cycles: float
) -> tuple[Wear, float]:
    """Wear and cumulative hazard after `dt_s` and `dn_cycles` at `stress`."""
    days = dt_s / SECONDS_PER_DAY
    wear = age(state.wear, design.ageing, stress, days * overrides.wear_speed, dn_cycles * overrides.wear_speed)
    loss = capacity_loss(state.wear)
    more = hazard_step(cycles(state, design), dn_cycles, loss, stress.temperature_c, design.hazard)
    return wear, state.cumulative_hazard + more


@compiled
def demanded_current_a(
    state: PackState,
    drive: DriveState,
    activity: Activity,
    design: Design,
    condition: Condition,
    air_c: float,
) -> float:
    """Current, A, that the activity demands from the pack."""
    if activity.kind == DRIVE:
        return drive_current_a(state, design.pack, condition, drive_power_w(drive, design.vehicle, air_c))
    if activity.kind == CHARGE:
        derating = min(max((state.core_c + 10.0) / 30.0, 0.1), 1.0)  # cold cells are charged slowly
        limit_a = CHARGE_C_RATE * derating * design.pack.nominal_capacity_ah
        return charge_current_a(state, design.pack, condition, activity.charger_w, limit_a)
    return 0.0


@compiled
def has_ended(
    activity: Activity, drive: DriveState, soc: float, bms_soc: float, current_a: float, nominal_ah: float
) -> bool:
    """True where the activity has ended: car parked, rest elapsed or battery charged."""
    if activity.kind == DRIVE:
        return (activity.remaining_s <= ARRIVAL_S or soc < EMPTY_SOC) and drive.speed_m_s == 0.0
    if activity.kind == CHARGE:
        is_full = -current_a < FULL_C_RATE * nominal_ah or soc >= 1.0
        reached = activity.target_soc < 1.0 and bms_soc >= activity.target_soc
        return is_full or reached or activity.remaining_s <= 0.0
    return activity.remaining_s <= 0.0


@compiled
def advance(
    state: BatteryState, design: Design, overrides: Overrides, seconds: float, rng: np.random.Generator
) -> tuple[BatteryState, float, float, bool]:
    """State after `seconds`, current at their end (A), ambient temperature (degC), and whether the activity ended."""
    condition = condition_of(state, design, overrides)
    air_c = ambient_c(state.time_s, design.climate) + overrides.ambient_offset_c
    nominal_ah = design.pack.nominal_capacity_ah
    pack, drive, activity = state.pack, state.drive, state.activity
    bms_soc, resting_s = state.bms_soc, state.resting_s
    discharged_ah, odometer_km = state.discharged_ah, state.odometer_km
    steps = max(math.ceil(seconds / STEP_S - 1e-9), 1)
    dt_s = seconds / steps
    current_a = 0.0
    moved_ah = 0.0
    ended = False
    for _ in range(steps):
        if activity.kind == DRIVE:
            is_arriving = activity.remaining_s <= ARRIVAL_S or pack.soc < EMPTY_SOC
            drive = step_drive(drive, design.driver, is_arriving, dt_s, rng)
        current_a = 0.0 if ended else demanded_current_a(pack, drive, activity, design, condition, air_c)
        pack, output = step(pack, design.pack, condition, current_a, air_c, activity.kind != REST, dt_s)
        bms_soc = s.count_charge(bms_soc, current_a, nominal_ah, design.sensors, dt_s)
        resting_s = resting_s + dt_s if current_a == 0.0 else 0.0
        if resting_s > s.REST_BEFORE_CORRECTION_S:
            cell_v = output.voltage_v / design.pack.cells_in_series
            bms_soc = s.correct_at_rest(bms_soc, cell_v, design.pack.cell.ocv_v, dt_s)
        moved_ah += abs(current_a) * dt_s / 3600.0
        discharged_ah += max(current_a, 0.0) * dt_s / 3600.0
        odometer_km += drive.speed_m_s * dt_s / 1000.0
        activity = Activity(activity.kind, activity.remaining_s - dt_s, activity.charger_w, activity.target_soc)
        ended = ended or has_ended(activity, drive, pack.soc, bms_soc, current_a, nominal_ah)

    average = design.usage.stress
    c_rate = moved_ah / nominal_ah * 3600.0 / seconds
    stress = Stress(pack.core_c, min(max(pack.soc, 0.0), 1.0), average.depth_of_discharge, c_rate)
    dn_cycles = (discharged_ah - state.discharged_ah) / nominal_ah
    wear, hazard = wear_and_hazard(state, design, overrides, stress, seconds, dn_cycles)
    after = BatteryState(
        state.time_s + seconds, pack, drive, activity, wear, hazard, discharged_ah, odometer_km, bms_soc, resting_s
    )
    return after, current_a, air_c, ended


@compiled
def write_sample(
    sample: NDArray[np.float64],
    state: BatteryState,
    design: Design,
    overrides: Overrides,
    current_a: float,
    air_c: float,
) -> None:
    """Write the true values into the columns of `simulator.sensors`; pack voltage is the sum of the cell voltages."""
    condition = condition_of(state, design, overrides)
    cells_v = cell_voltages_v(state.pack, design.pack, condition, current_a)
    sample[s.TIME_S] = state.time_s
    sample[s.VOLTAGE_V] = cells_v.sum() - current_a * condition.contact_resistance_ohm
    sample[s.CURRENT_A] = current_a
    sample[s.CORE_C] = state.pack.core_c
    sample[s.SHELL_C] = state.pack.shell_c
    sample[s.BMS_SOC] = state.bms_soc
    sample[s.SOH] = health(state.wear, design)
    sample[s.AMBIENT_C] = air_c
    sample[s.CYCLES] = cycles(state, design)
    sample[s.IS_CHARGING] = 1.0 if state.activity.kind == CHARGE else 0.0
    sample[s.CELL_MIN_V] = cells_v.min()
    sample[s.CELL_MAX_V] = cells_v.max()
    sample[s.CELL_MEDIAN_V] = np.median(cells_v)
    sample[s.ODOMETER_KM] = state.odometer_km
    sample[s.SPEED_M_S] = state.drive.speed_m_s
    sample[s.HAS_FAILED] = 1.0 if is_faulty(state, design, overrides) else 0.0


@compiled_entry
def record(
    state: BatteryState,
    design: Design,
    overrides: Overrides,
    sampling_s: float,
    samples: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[BatteryState, int, bool]:
    """Simulate until `samples` is full or the activity ends, one row each `sampling_s`.

    Args:
        samples: float64[n, SAMPLE_SIZE], filled from the first row on.

    Returns:
        The state afterwards, the number of rows written and whether the activity ended.
    """
    for row in range(len(samples)):
        state, current_a, air_c, ended = advance(state, design, overrides, sampling_s, rng)
        write_sample(samples[row], state, design, overrides, current_a, air_c)
        if ended:
            return state, row + 1, True
    return state, len(samples), False


@compiled_entry
def advance_days(state: BatteryState, design: Design, overrides: Overrides, days: float) -> BatteryState:
    """Advance by `days` of average use, fewer if a fault happens; the pack ends at rest and ambient temperature."""
    usage = design.usage
    remaining = days
    had_failed = has_failed(state.cumulative_hazard, design.fault)
    while remaining > 0.0 and (had_failed or not has_failed(state.cumulative_hazard, design.fault)):
        today = min(remaining, 1.0)
        air_c = daily_mean_c(state.time_s, design.climate) + overrides.ambient_offset_c
        stress = Stress(air_c + usage.warming_c, usage.stress.soc, usage.stress.depth_of_discharge, usage.stress.c_rate)
        dn_cycles = usage.cycles_per_day * today
        wear, hazard = wear_and_hazard(state, design, overrides, stress, today * SECONDS_PER_DAY, dn_cycles)
        state = BatteryState(
            state.time_s + today * SECONDS_PER_DAY,
            state.pack,
            state.drive,
            state.activity,
            wear,
            hazard,
            state.discharged_ah + dn_cycles * design.pack.nominal_capacity_ah,
            state.odometer_km + dn_cycles * usage.km_per_cycle * health(wear, design),
            state.bms_soc,
            state.resting_s,
        )
        remaining -= today
    air_c = ambient_c(state.time_s, design.climate) + overrides.ambient_offset_c
    return BatteryState(
        state.time_s,
        PackState(state.pack.soc, 0.0, air_c, air_c),
        DriveState(0.0, 0.0, 0.0, 0.0, 0.0),
        Activity(REST, 0.0, 0.0, 1.0),
        state.wear,
        state.cumulative_hazard,
        state.discharged_ah,
        state.odometer_km,
        state.bms_soc,
        0.0,
    )


_SOURCES = sources_checksum("physics", "simulator")


@compiled_entry
def _compiled_sources() -> int:
    return _SOURCES


def drop_stale_code() -> None:
    """Recompile `record` and `advance_days` if the cached machine code was made from other sources."""
    if _compiled_sources() != _SOURCES:
        for entry in (record, advance_days, _compiled_sources):
            cast(Any, entry).recompile()
