"""Compiled simulation of one car battery in use, with ageing and faults: `record` by seconds, `advance_days` by days.

`record` simulates the full physics and writes samples; the live simulator calls it for one sample, the fleet for a
whole activity.  `advance_days` simulates average use (`simulator.use`).  Both advance the same `BatteryState`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from physics import pack as p
from physics.ageing import model as ageing_model
from physics.ageing.state import Ageing, Stress
from physics.cell import voltage_at
from physics.compiled import compiled, compiled_entry, sources_checksum
from physics.pack import Condition, PackParameters
from simulator import bms
from simulator import sensors as s
from simulator.climate import SECONDS_PER_DAY, ClimateParameters, ambient_c
from simulator.driving import DriverParameters, DriveState, VehicleParameters, drive_power_w, step_drive
from simulator.faults import DAYS_PER_YEAR, NO_FAULT, Defect, Exposure, FaultPlan, advance_defect, effects
from simulator.use import DEPARTURE_S, Day, Place, UsageParameters, day_of_use, midnight_before_s, park_until

FloatArray = NDArray[np.float64]

DRIVE, REST, CHARGE = range(3)
#: Longest steps: in a drive the power changes each second, a charge and a rest are smooth.
DRIVE_STEP_S, CHARGE_STEP_S, REST_STEP_S = 1.0, 30.0, 60.0
ARRIVAL_S = 25.0
EMPTY_SOC = 0.06
FULL_C_RATE = 1.0 / 25.0  # a charge ends when its current has fallen to this, or the pack is full
CHARGE_C_RATE = 1.5
DRIVE_C_RATE = 4.0
#: Capacity relative to new of a cell that is worn out; below it no car would drive.
SMALLEST_CAPACITY = 0.05
TIME_TOLERANCE_S = 1e-3
SHORTEST_DAYS = 1e-12
N_AGEING, N_STRESS = len(Ageing._fields), len(Stress._fields)


class AgeingParameters(NamedTuple):
    """Model of `physics.ageing` and the ageing speed of each simulated group, float64[n]."""

    model: int
    speed: FloatArray


class Design(NamedTuple):
    """Constant properties of one battery and of its car, driver and climate."""

    in_service_s: float
    pack: PackParameters
    ageing: AgeingParameters
    hazards: FloatArray
    plan: FaultPlan
    vehicle: VehicleParameters
    driver: DriverParameters
    usage: UsageParameters
    climate: ClimateParameters
    sensors: s.SensorParameters
    counter: bms.ChargeCounter


class Activity(NamedTuple):
    """Current activity of the car and its longest remaining duration; the last two fields are for charging."""

    kind: int
    remaining_s: float
    charger_w: float
    target_soc: float


class Overrides(NamedTuple):
    """Injected changes: ambient temperature, factor on ageing (1 = natural), and a fault of a kind at a severity."""

    ambient_offset_c: float
    wear_speed: float
    fault_kind: int
    fault_severity: float


class BatteryState(NamedTuple):
    """Variable state of a battery.  `time_s` is event time in seconds since 1970.

    Arrays have a row for each simulated group of cells: `groups` float64[n, GROUP_SIZE] (`physics.pack`), `ageing` and
    `stress` float64[n, fields of `Ageing`, `Stress`] (`physics.ageing`).  The field names are part of the stored format
    of `simulator.saved_state`.
    """

    time_s: float
    groups: FloatArray
    ageing: FloatArray
    stress: FloatArray
    drive: DriveState
    activity: Activity
    defect: Defect
    discharged_ah: float
    odometer_km: float
    bms_soc: float
    resting_s: float


NO_OVERRIDES = Overrides(0.0, 1.0, NO_FAULT, 0.0)
PARKED = Activity(REST, 0.0, 0.0, 1.0)


@compiled_entry
def cycles(state: BatteryState, design: Design) -> float:
    """Equivalent full cycles: discharged charge over nominal capacity."""
    return state.discharged_ah / design.pack.nominal_capacity_ah


@compiled_entry
def health(ageing: FloatArray, design: Design) -> float:
    """State of health: present capacity of the weakest group over nominal capacity."""
    weakest = math.inf
    for group in range(len(ageing)):
        own = design.pack.capacity_factor[group] * ageing_model.capacity(ageing_model.ageing_in(ageing[group]))
        weakest = min(weakest, own)
    return weakest * design.pack.parallel * design.pack.cell.capacity_ah / design.pack.nominal_capacity_ah


@compiled
def capacity_loss(ageing: FloatArray) -> float:
    """Lost capacity of the mean group, as a fraction of the new one."""
    return 1.0 - ageing_model.capacity(ageing_model.ageing_in(ageing[len(ageing) // 2]))


@compiled
def present_defect(state: BatteryState, overrides: Overrides) -> tuple[int, float]:
    """Kind and severity of the battery's own defect, or of the injected one."""
    if overrides.fault_kind != NO_FAULT:
        return overrides.fault_kind, overrides.fault_severity
    return state.defect.kind, state.defect.severity


@compiled_entry
def is_faulty(state: BatteryState, overrides: Overrides) -> bool:
    """True once the battery's fault has happened, or one was injected at full severity."""
    injected = overrides.fault_kind != NO_FAULT and overrides.fault_severity >= 1.0
    return injected or state.defect.severity >= 1.0


@compiled_entry
def condition_of(state: BatteryState, design: Design, overrides: Overrides) -> Condition:
    """Condition of the pack: ageing, and effects of its own or an injected defect."""
    count = len(state.ageing)
    capacity, resistance = np.empty(count), np.empty(count)
    for group in range(count):
        own = ageing_model.ageing_in(state.ageing[group])
        capacity[group] = max(ageing_model.capacity(own), SMALLEST_CAPACITY)
        resistance[group] = ageing_model.resistance(own)
    kind, severity = present_defect(state, overrides)
    defect = effects(kind, severity)
    return Condition(
        capacity,
        resistance,
        defect.contact_resistance_share * p.new_resistance_ohm(design.pack),
        defect.cooling_share,
        defect.weak_charge_offset,
        defect.leakage_c_rate * design.pack.nominal_capacity_ah,
    )


@compiled
def age(state: BatteryState, design: Design, overrides: Overrides) -> None:
    """Update the losses of all groups by the stress so far, in place, and begin it anew."""
    for group in range(len(state.ageing)):
        speed = design.ageing.speed[group] * overrides.wear_speed
        stress = ageing_model.stress_in(state.stress[group])
        losses = ageing_model.ageing_in(state.ageing[group])
        ageing_model.store(state.ageing[group], ageing_model.advance(losses, stress, design.ageing.model, speed))
        ageing_model.store(state.stress[group], ageing_model.begin(state.groups[group, p.SOC]))


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
def exposure_of(state: BatteryState, design: Design) -> Exposure:
    """Exposure to defects since the last update of ageing."""
    stress = ageing_model.stress_in(state.stress[len(state.stress) // 2])
    years = stress.days / DAYS_PER_YEAR
    in_service = (state.time_s - design.in_service_s) / SECONDS_PER_DAY / DAYS_PER_YEAR
    return Exposure(
        max(cycles(state, design) - stress.throughput, 0.0),
        max(in_service - years, 0.0),
        stress.throughput,
        years,
        capacity_loss(state.ageing),
        stress.temperature_c / max(stress.days, SHORTEST_DAYS),
        design.usage.dc_share,
    )


@compiled
def end_of_day(state: BatteryState, design: Design, overrides: Overrides, rng: np.random.Generator) -> BatteryState:
    """Update ageing (in place) and the defect by the stress since the last update."""
    defect = advance_defect(state.defect, design.plan, exposure_of(state, design), design.hazards, rng)
    age(state, design, overrides)
    return with_defect(state, defect)


@compiled
def with_defect(state: BatteryState, defect: Defect) -> BatteryState:
    """`state` with another defect."""
    return BatteryState(
        state.time_s,
        state.groups,
        state.ageing,
        state.stress,
        state.drive,
        state.activity,
        defect,
        state.discharged_ah,
        state.odometer_km,
        state.bms_soc,
        state.resting_s,
    )


@compiled
def copied(state: BatteryState) -> BatteryState:
    """`state` with arrays of its own."""
    return BatteryState(
        state.time_s,
        state.groups.copy(),
        state.ageing.copy(),
        state.stress.copy(),
        state.drive,
        state.activity,
        state.defect,
        state.discharged_ah,
        state.odometer_km,
        state.bms_soc,
        state.resting_s,
    )


@compiled_entry
def first_state(design: Design, time_s: float, soc: float) -> BatteryState:
    """State of a new battery, parked at `soc` and the outdoor temperature."""
    count = design.pack.groups.size
    ageing, stress = np.empty((count, N_AGEING)), np.empty((count, N_STRESS))
    for group in range(count):
        ageing_model.store(ageing[group], ageing_model.new(design.ageing.model))
        ageing_model.store(stress[group], ageing_model.begin(soc))
    state = BatteryState(
        time_s,
        np.zeros((count, p.GROUP_SIZE)),
        ageing,
        stress,
        DriveState(-1.0, 0.0),
        Activity(REST, 0.0, 0.0, 1.0),
        Defect(0.0, NO_FAULT, 0.0),
        0.0,
        0.0,
        soc,
        0.0,
    )
    no_overrides = Overrides(0.0, 1.0, NO_FAULT, 0.0)
    return rested(state, design, no_overrides, soc, ambient_c(time_s, design.climate))


@compiled_entry
def rested(state: BatteryState, design: Design, overrides: Overrides, soc: float, temperature_c: float) -> BatteryState:
    """`state` with the pack at rest at a state of charge and temperature."""
    state = copied(state)
    p.set_at_rest(state.groups, design.pack, condition_of(state, design, overrides), soc, temperature_c)
    return state


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


@compiled
def use_until_midnight(
    state: BatteryState, design: Design, overrides: Overrides, until_s: float, rng: np.random.Generator
) -> BatteryState:
    """State after a day of use, if it begins before the departure, else after parking until midnight or `until_s`.

    Arrays are changed in place; ageing and the defect are not updated.
    """
    condition = condition_of(state, design, overrides)
    place = Place(design.pack, condition, design.climate, overrides.ambient_offset_c)
    middle = len(state.groups) // 2
    soc = min(max(p.pack_soc(state.groups) - min(condition.weak_charge_offset, 0.0), 0.0), 1.0)
    core_c, surface_c = state.groups[middle, p.CORE_C], state.groups[middle, p.SURFACE_C]
    day = Day(state.time_s, soc, core_c, surface_c, 0.0, 0.0, 0.0, 0.0)
    midnight_s = midnight_before_s(state.time_s)
    next_midnight_s = midnight_s + SECONDS_PER_DAY
    is_before_departure = state.time_s < midnight_s + DEPARTURE_S
    if is_before_departure and until_s >= next_midnight_s - TIME_TOLERANCE_S:
        day = day_of_use(day, midnight_s, place, state.stress, design.ageing.model, design.usage, rng)
    else:
        day = park_until(day, place, state.stress, design.ageing.model, min(next_midnight_s, until_s))
    p.set_at_rest(state.groups, design.pack, condition, day.soc, day.core_c)
    return BatteryState(
        max(day.time_s, state.time_s + TIME_TOLERANCE_S),
        state.groups,
        state.ageing,
        state.stress,
        DriveState(-1.0, 0.0),
        Activity(REST, 0.0, 0.0, 1.0),
        state.defect,
        state.discharged_ah + day.discharged_ah,
        state.odometer_km + day.km,
        day.soc,
        0.0,
    )


@compiled_entry
def advance_days(
    state: BatteryState, design: Design, overrides: Overrides, days: float, rng: np.random.Generator
) -> BatteryState:
    """Advance by `days` of average use, fewer if a fault happens; the pack ends at rest.

    The car is parked until the next midnight and after the last one, and used on the days between them.
    """
    state = copied(state)
    until_s = state.time_s + days * SECONDS_PER_DAY
    had_failed = state.defect.severity >= 1.0
    while state.time_s < until_s and (had_failed or state.defect.severity < 1.0):
        state = use_until_midnight(state, design, overrides, until_s, rng)
        state = end_of_day(state, design, overrides, rng)
    return state


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


_SOURCES = sources_checksum("physics", "simulator")


@compiled_entry
def _compiled_sources() -> int:
    return _SOURCES


ENTRIES = (
    cycles,
    health,
    is_faulty,
    condition_of,
    first_state,
    rested,
    record,
    advance_days,
    advance_all,
    _compiled_sources,
)


def drop_stale_code() -> None:
    """Recompile the functions that Python calls if the cached machine code was made from other sources."""
    if _compiled_sources() != _SOURCES:
        for entry in ENTRIES:
            cast(Any, entry).recompile()
