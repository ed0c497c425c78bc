"""Design and state of one simulated battery, what follows from them, and the daily update of ageing and defects."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physics import pack as p
from physics.ageing import model as ageing_model
from physics.ageing.state import Ageing, Stress
from physics.compiled import compiled, compiled_entry
from physics.pack import Condition, PackParameters
from simulator import bms
from simulator import sensors as s
from simulator.climate import SECONDS_PER_DAY, ClimateParameters, ambient_c
from simulator.driving import DriverParameters, DriveState, VehicleParameters
from simulator.faults import DAYS_PER_YEAR, NO_FAULT, Defect, Exposure, FaultPlan, advance_defect, effects
from simulator.use import UsageParameters

FloatArray = NDArray[np.float64]

DRIVE, REST, CHARGE = range(3)
#: Capacity relative to new of a cell that is worn out; below it no car would drive.
SMALLEST_CAPACITY = 0.05
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
