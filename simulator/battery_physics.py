"""Compiled simulation of one car battery in use by seconds, with samples for the sensors, ageing and faults.

`record` simulates a whole activity for the fleet, or one sample for the live simulator; `advance_all` one sample of
many batteries.  `simulator.battery_days` advances the same `BatteryState` by days.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from physics import pack as p
from physics.ageing import model as ageing_model
from physics.cell import voltage_at
from physics.compiled import compiled, compiled_entry
from physics.pack import Condition
from simulator import bms
from simulator import sensors as s
from simulator.battery_state import (
    CHARGE,
    DRIVE,
    REST,
    Activity,
    BatteryState,
    Design,
    Overrides,
    condition_of,
    copied,
    cycles,
    end_of_day,
    health,
    is_faulty,
    present_defect,
)
from simulator.climate import SECONDS_PER_DAY, ambient_c
from simulator.driving import DriveState, drive_power_w, step_drive
from simulator.faults import effects
from simulator.use import midnight_before_s

FloatArray = NDArray[np.float64]

#: Longest steps: in a drive the power changes each second, a charge and a rest are smooth.
DRIVE_STEP_S, CHARGE_STEP_S, REST_STEP_S = 1.0, 30.0, 60.0
ARRIVAL_S = 25.0
EMPTY_SOC = 0.06
FULL_C_RATE = 1.0 / 25.0  # a charge ends when its current has fallen to this, or the pack is full
CHARGE_C_RATE = 1.5
DRIVE_C_RATE = 4.0


@compiled
def demanded_current_a(
    sources: FloatArray,
    state: BatteryState,
    drive: DriveState,
    activity: Activity,
    bms_soc: float,
    design: Design,
    condition: Condition,
    air_c: float,
) -> float:
    """Current, A, that flows in the activity."""
    pack = design.pack
    if activity.kind == REST:
        return 0.0
    core_c = p.mean_core_c(state.groups, pack)
    if activity.kind == DRIVE:
        power_w = drive_power_w(drive, design.vehicle, design.driver, air_c)
        demanded_a = p.current_for_power_a(sources, pack, condition, power_w)
        return bms.drive_limited_a(sources, pack, p.pack_soc(state.groups), core_c, DRIVE_C_RATE, demanded_a)
    demanded_a = p.current_for_power_a(sources, pack, condition, -activity.charger_w)
    return bms.charge_limited_a(sources, pack, core_c, CHARGE_C_RATE, demanded_a)


@compiled
def has_ended(
    activity: Activity, drive: DriveState, soc: float, bms_soc: float, current_a: float, nominal_ah: float
) -> bool:
    """True where the activity has ended: car parked, rest elapsed or battery charged."""
    if activity.kind == DRIVE:
        return (activity.remaining_s <= ARRIVAL_S or soc < EMPTY_SOC) and drive.row < 0.0
    if activity.kind == CHARGE:
        is_full = -current_a < FULL_C_RATE * nominal_ah or soc >= 1.0
        reached = activity.target_soc < 1.0 and bms_soc >= activity.target_soc
        return is_full or reached or activity.remaining_s <= 0.0
    return activity.remaining_s <= 0.0


@compiled
def longest_step_s(kind: int) -> float:
    """Longest integration step in an activity."""
    if kind == DRIVE:
        return DRIVE_STEP_S
    return CHARGE_STEP_S if kind == CHARGE else REST_STEP_S


@compiled
def advance(
    state: BatteryState, design: Design, overrides: Overrides, seconds: float, rng: np.random.Generator
) -> tuple[BatteryState, float, float, bool]:
    """State after `seconds`, current at their end (A), ambient temperature (degC), and whether the activity ended.

    The arrays of `state` are changed in place.
    """
    pack = design.pack
    condition = condition_of(state, design, overrides)
    air_c = ambient_c(state.time_s, design.climate) + overrides.ambient_offset_c
    nominal_ah = pack.nominal_capacity_ah
    drive, activity = state.drive, state.activity
    bms_soc, resting_s = state.bms_soc, state.resting_s
    discharged_ah, odometer_km = state.discharged_ah, state.odometer_km
    steps = max(math.ceil(seconds / longest_step_s(activity.kind) - 1e-9), 1)
    dt_s = seconds / steps
    current_a = 0.0
    moved_ah = 0.0
    ended = False
    sources = np.empty((pack.groups.size, 4))
    middle = pack.groups.size // 2
    for _ in range(steps):
        soc = p.pack_soc(state.groups)
        if activity.kind == DRIVE:
            is_arriving = activity.remaining_s <= ARRIVAL_S
            drive = step_drive(drive, design.vehicle, design.driver, is_arriving, soc < EMPTY_SOC, dt_s, rng)
        p.store_sources(sources, state.groups, pack, condition)
        current_a = 0.0
        if not ended:
            current_a = demanded_current_a(sources, state, drive, activity, bms_soc, design, condition, air_c)
            # A long step does not charge a cell beyond full.
            current_a = max(current_a, -p.room_ah(state.groups, pack, condition) * 3600.0 / dt_s)
        core_c = p.mean_core_c(state.groups, pack)
        share = bms.coolant_share(core_c) if activity.kind != REST else 0.0
        p.step_pack(state.groups, pack, condition, current_a, air_c, bms.COOLANT_C, share, dt_s)
        bms_soc = bms.count_charge(bms_soc, current_a, nominal_ah, design.counter, dt_s)
        resting_s = resting_s + dt_s if current_a == 0.0 else 0.0
        if resting_s > bms.REST_BEFORE_CORRECTION_S:
            cell_v = voltage_at(p.source_in(sources[middle]), 0.0)
            bms_soc = bms.correct_at_rest(bms_soc, cell_v, design.counter.ocv_v, dt_s)
        moved_ah += abs(current_a) * dt_s / 3600.0
        discharged_ah += max(current_a, 0.0) * dt_s / 3600.0
        odometer_km += drive.speed_m_s * dt_s / 1000.0
        activity = Activity(activity.kind, activity.remaining_s - dt_s, activity.charger_w, activity.target_soc)
        ended = ended or has_ended(activity, drive, p.pack_soc(state.groups), bms_soc, current_a, nominal_ah)

    days = seconds / SECONDS_PER_DAY
    for group in range(pack.groups.size):
        new_ah = pack.parallel * pack.cell.capacity_ah * pack.capacity_factor[group]
        own = ageing_model.stress_in(state.stress[group])
        row = state.groups[group]
        own = ageing_model.accumulate(
            own, design.ageing.model, row[p.SOC], row[p.CORE_C], 0.5 * moved_ah / new_ah, days
        )
        ageing_model.store(state.stress[group], own)
    after = BatteryState(
        state.time_s + seconds,
        state.groups,
        state.ageing,
        state.stress,
        drive,
        activity,
        state.defect,
        discharged_ah,
        odometer_km,
        bms_soc,
        resting_s,
    )
    # Accelerated ageing has no days.
    is_new_day = midnight_before_s(after.time_s) > midnight_before_s(state.time_s)
    if is_new_day or after.stress[0, 0] * overrides.wear_speed >= 1.0:
        after = end_of_day(after, design, overrides, rng)
    return after, current_a, air_c, ended


@compiled
def write_sample(
    sample: FloatArray, state: BatteryState, design: Design, overrides: Overrides, current_a: float, air_c: float
) -> None:
    """Write the true values into the columns of `simulator.sensors`; pack voltage is the sum of the cell voltages."""
    pack = design.pack
    condition = condition_of(state, design, overrides)
    sources = np.empty((pack.groups.size, 4))
    p.store_sources(sources, state.groups, pack, condition)
    cells_v = p.group_voltages_v(sources, pack, current_a)
    sample[s.TIME_S] = state.time_s
    sample[s.VOLTAGE_V] = p.pack_voltage_v(sources, pack, condition, current_a)
    sample[s.CURRENT_A] = current_a
    sample[s.CORE_C] = state.groups[:, p.CORE_C].max()
    sample[s.SHELL_C] = state.groups[:, p.SURFACE_C].min()
    sample[s.BMS_SOC] = state.bms_soc
    sample[s.SOH] = health(state.ageing, design)
    sample[s.AMBIENT_C] = air_c
    sample[s.CYCLES] = cycles(state, design)
    sample[s.IS_CHARGING] = 1.0 if state.activity.kind == CHARGE else 0.0
    sample[s.CELL_MIN_V] = cells_v.min()
    sample[s.CELL_MAX_V] = cells_v.max()
    sample[s.CELL_MEDIAN_V] = np.median(cells_v)
    sample[s.ODOMETER_KM] = state.odometer_km
    sample[s.SPEED_M_S] = state.drive.speed_m_s
    sample[s.HAS_FAILED] = 1.0 if is_faulty(state, overrides) else 0.0
    kind, severity = present_defect(state, overrides)
    sample[s.SENSOR_SEVERITY] = effects(kind, severity).sensor_severity


@compiled_entry
def record(
    state: BatteryState,
    design: Design,
    overrides: Overrides,
    sampling_s: float,
    samples: FloatArray,
    rng: np.random.Generator,
) -> tuple[BatteryState, int, bool]:
    """Simulate until `samples` is full or the activity ends, one row each `sampling_s`.

    Args:
        samples: float64[n, SAMPLE_SIZE], filled from the first row on.

    Returns:
        The state afterwards, the number of rows written and whether the activity ended.
    """
    state = copied(state)
    for row in range(len(samples)):
        state, current_a, air_c, ended = advance(state, design, overrides, sampling_s, rng)
        write_sample(samples[row], state, design, overrides, current_a, air_c)
        if ended:
            return state, row + 1, True
    return state, len(samples), False


@compiled_entry
def advance_all(
    states: list[BatteryState],
    designs: list[Design],
    overrides: Overrides,
    seconds: float,
    samples: FloatArray,
    ended: NDArray[np.bool_],
    rng: np.random.Generator,
) -> None:
    """Simulate many batteries for `seconds`, one sample each; the states are replaced and changed in place.

    Args:
        states, designs: typed lists of numba, of the same length n.
        samples: float64[n, SAMPLE_SIZE], written.
        ended: bool[n], written: whether the battery's activity ended.
    """
    for number in range(len(states)):
        state, current_a, air_c, has_stopped = advance(states[number], designs[number], overrides, seconds, rng)
        write_sample(samples[number], state, designs[number], overrides, current_a, air_c)
        states[number] = state
        ended[number] = has_stopped
