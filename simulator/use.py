"""Average use of a battery by days: trips, parking, charging and the temperature of the pack, without a recording.

A day has two trips, a charge in the evening if the charge is low, and parking between them; long trips charge on the
way.  Each part has one current and one heat, and its thermal solution is exact; `simulator.battery_physics.record`
simulates the same activities by seconds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physics.ageing import model as ageing_model
from physics.cell import open_circuit_voltage_v, resistance_after_minutes_ohm
from physics.compiled import compiled
from physics.pack import Condition, PackParameters, weakest_capacity_ah
from physics.thermal import ThermalState, step_thermal
from simulator.bms import COOLANT_C, charge_share, coolant_share
from simulator.climate import SECONDS_PER_DAY, ClimateParameters, ambient_c
from simulator.driving import CABIN_C

FloatArray = NDArray[np.float64]

DEPARTURE_S, RETURN_S = 7.5 * 3600.0, 17.5 * 3600.0
#: Below this state of charge a car stops at a fast charger, and leaves it at the other one.
STOP_SOC, LEAVE_SOC = 0.12, 0.8
MOST_STOPS = 6
#: Losses of chargers and cables.
AC_EFFICIENCY, DC_EFFICIENCY = 0.9, 0.95
#: A fast charge is limited to this C-rate in the mean, because it tapers.
MEAN_FAST_C_RATE = 1.0
#: Parts of the thermal solution while awake are this long at most, because the cooling follows the temperature.
AWAKE_STEP_S = 900.0
LONGEST_DAY_KM = 700.0
VOLTAGE_ITERATIONS = 2
#: In days, for times that are sums.
MIDNIGHT_TOLERANCE = 1e-8


class Consumption(NamedTuple):
    """Of an average trip of one car and driver: energy for each km out of the battery and back, time, and root mean
    square of the power.
    """

    out_wh_per_km: float
    back_wh_per_km: float
    seconds_per_km: float
    rms_w: float


class UsageParameters(NamedTuple):
    """Habits of a driver.

    `km_per_day` is the mean of the days of use, of which weekdays and weekends have a share; `km_spread` the standard
    deviation of its logarithm; a share of the days has a long trip of `long_km`.  Charging: below `charge_below` up to
    `target_soc`, with a share of fast and of interrupted charges.
    """

    km_per_day: float
    km_spread: float
    weekday_share: float
    weekend_share: float
    long_share: float
    long_km: float
    charge_below: float
    target_soc: float
    dc_share: float
    interrupted_share: float
    ac_w: float
    dc_w: float
    consumption: Consumption
    cabin_w_per_k: float


class Day(NamedTuple):
    """Running values of a day: time, charge of the pack (0..1), temperatures of its mean group, and sums.

    `temperature_days` is the integral of the core temperature over `days`.
    """

    time_s: float
    soc: float
    core_c: float
    surface_c: float
    discharged_ah: float
    km: float
    days: float
    temperature_days: float


class DayPlan(NamedTuple):
    """Distance of a day in two equal trips, share of the wanted charge that the charge in the evening reaches, and
    whether that is a fast one.
    """

    km: float
    charged_share: float
    is_fast: bool


class Place(NamedTuple):
    """What is constant during a day: pack, its condition, climate, and the injected offset of the air."""

    pack: PackParameters
    condition: Condition
    climate: ClimateParameters
    ambient_offset_c: float


@compiled
def part_of_day(
    day: Day,
    place: Place,
    stress: FloatArray,
    model: int,
    seconds: float,
    soc_after: float,
    out_ah: float,
    in_ah: float,
    rms_a: float,
    is_awake: bool,
) -> Day:
    """The day after `seconds` in which the charge changes to `soc_after` and the current heats the pack.

    Args:
        stress: float64[n, fields of `Stress`] of the groups, added to in place.
        out_ah, in_ah: charge that the pack gave and took.
        rms_a: root mean square of the current.
    """
    if seconds <= 0.0:
        return day
    pack, condition = place.pack, place.condition
    weakest_ah = weakest_capacity_ah(pack, condition)
    middle = int(pack.groups.size // 2)
    mean_soc = 0.5 * (day.soc + soc_after)
    steps = max(math.ceil(seconds / AWAKE_STEP_S), 1) if is_awake else 1
    dt_s = seconds / steps
    state = ThermalState(day.core_c, day.surface_c)
    mean_core = 0.0
    for number in range(steps):
        air_c = ambient_c(day.time_s + (number + 0.5) * dt_s, place.climate) + place.ambient_offset_c
        ohm = resistance_after_minutes_ohm(mean_soc, state.core_c, pack.cell)
        ohm *= pack.resistance_factor[middle] * condition.resistance[middle]
        cell_a = rms_a / pack.parallel
        heat_w = ohm * cell_a * cell_a
        share = coolant_share(state.core_c) * condition.cooling_share if is_awake else 0.0
        state, to_air_j, _ = step_thermal(state, pack.thermal, heat_w, air_c, COOLANT_C, share, dt_s)
        mean_surface = air_c + to_air_j / (pack.thermal.surface_to_ambient_w_per_k * dt_s)
        mean_core += (mean_surface + heat_w / pack.thermal.core_to_surface_w_per_k) / steps
    days = seconds / SECONDS_PER_DAY
    # Half of the time at each end, so that the range of the charge is that of the cells.
    ends = 1 if soc_after == day.soc else 2
    for group in range(pack.groups.size):
        new_ah = pack.parallel * pack.cell.capacity_ah * pack.capacity_factor[group]
        present_ah = new_ah * condition.capacity[group]
        own = ageing_model.stress_in(stress[group])
        own_c = mean_core + pack.coolant_offset_c[group]
        for end in range(ends):
            missing_ah = (1.0 - (soc_after if end == 1 else day.soc)) * weakest_ah
            own_soc, throughput = 1.0 - missing_ah / present_ah, 0.5 * (out_ah + in_ah) / new_ah
            own = ageing_model.accumulate(own, model, own_soc, own_c, throughput / ends, days / ends)
        ageing_model.store(stress[group], own)
    return Day(
        day.time_s + seconds,
        soc_after,
        state.core_c,
        state.surface_c,
        day.discharged_ah + out_ah,
        day.km,
        day.days + days,
        day.temperature_days + mean_core * days,
    )


@compiled
def loaded_voltage_v(place: Place, soc: float, core_c: float, current_a: float) -> float:
    """Voltage, V, of the pack while `current_a` flows for minutes."""
    pack, middle = place.pack, int(place.pack.groups.size // 2)
    ohm = resistance_after_minutes_ohm(soc, core_c, pack.cell)
    ohm *= pack.resistance_factor[middle] * place.condition.resistance[middle]
    cell_v = open_circuit_voltage_v(soc, pack.cell) - ohm * current_a / pack.parallel
    return float(pack.cells_in_series * max(cell_v, pack.cell.voltage_min_v))


@compiled
def drive_km(day: Day, place: Place, stress: FloatArray, model: int, usage: UsageParameters, km: float) -> Day:
    """The day after a trip of `km`, which stops at fast chargers where the charge does not last."""
    pack = place.pack
    weakest_ah = weakest_capacity_ah(pack, place.condition)
    cost = usage.consumption
    left_km = km
    for _ in range(MOST_STOPS):
        air_c = ambient_c(day.time_s, place.climate) + place.ambient_offset_c
        cabin_wh = usage.cabin_w_per_k * abs(air_c - CABIN_C) * cost.seconds_per_km / 3600.0
        mean_w = (cost.out_wh_per_km + cabin_wh) * 3600.0 / cost.seconds_per_km
        # The voltage is that under load in the middle of the trip.
        soc = day.soc
        for _ in range(VOLTAGE_ITERATIONS):
            pack_v = loaded_voltage_v(place, soc, day.core_c, mean_w / (pack.cells_in_series * pack.cell.voltage_max_v))
            out_ah_per_km = (cost.out_wh_per_km + cabin_wh) / pack_v
            back_ah_per_km = cost.back_wh_per_km / pack_v
            range_km = (day.soc - STOP_SOC) * weakest_ah / (out_ah_per_km - back_ah_per_km)
            used = min(left_km, max(range_km, 0.0)) * (out_ah_per_km - back_ah_per_km) / weakest_ah
            soc = day.soc - 0.5 * used
        part_km = min(left_km, max(range_km, 0.0))
        after = day.soc - part_km * (out_ah_per_km - back_ah_per_km) / weakest_ah
        seconds = part_km * cost.seconds_per_km
        rms_a = cost.rms_w / pack_v
        out_ah, back_ah = part_km * out_ah_per_km, part_km * back_ah_per_km
        day = part_of_day(day, place, stress, model, seconds, after, out_ah, back_ah, rms_a, True)
        day = day_with_km(day, day.km + part_km)
        left_km -= part_km
        if left_km <= 1e-6:
            break
        day = charge_to(day, place, stress, model, usage, LEAVE_SOC, True)
    return day


@compiled
def day_with_km(day: Day, km: float) -> Day:
    """`day` with another odometer."""
    return Day(day.time_s, day.soc, day.core_c, day.surface_c, day.discharged_ah, km, day.days, day.temperature_days)


@compiled
def charge_to(
    day: Day, place: Place, stress: FloatArray, model: int, usage: UsageParameters, target_soc: float, is_fast: bool
) -> Day:
    """The day after a charge up to `target_soc`."""
    if target_soc <= day.soc:
        return day
    pack = place.pack
    weakest_ah = weakest_capacity_ah(pack, place.condition)
    moved_ah = (target_soc - day.soc) * weakest_ah
    charger_w = usage.dc_w * DC_EFFICIENCY if is_fast else usage.ac_w * AC_EFFICIENCY
    limit_a = MEAN_FAST_C_RATE * charge_share(day.core_c) * pack.nominal_capacity_ah
    current_a = 0.0
    for _ in range(VOLTAGE_ITERATIONS):
        pack_v = loaded_voltage_v(place, 0.5 * (day.soc + target_soc), day.core_c, -current_a)
        current_a = min(charger_w / pack_v, limit_a)
    seconds = 3600.0 * moved_ah / current_a
    return part_of_day(day, place, stress, model, seconds, target_soc, 0.0, moved_ah, current_a, True)


@compiled
def park_until(day: Day, place: Place, stress: FloatArray, model: int, time_s: float) -> Day:
    """The day after parking until `time_s`; no change where that is past."""
    if time_s <= day.time_s:
        return day
    day = part_of_day(day, place, stress, model, time_s - day.time_s, day.soc, 0.0, 0.0, 0.0, False)
    # Exactly, because a day of use begins at midnight.
    return Day(time_s, day.soc, day.core_c, day.surface_c, day.discharged_ah, day.km, day.days, day.temperature_days)


@compiled
def midnight_before_s(time_s: float) -> float:
    """The midnight (UTC) at or before `time_s`."""
    return math.floor(time_s / SECONDS_PER_DAY + MIDNIGHT_TOLERANCE) * SECONDS_PER_DAY


@compiled
def plan_day(midnight_s: float, usage: UsageParameters, rng: np.random.Generator) -> DayPlan:
    """Draw the plan of the day that begins at `midnight_s`."""
    weekday = (int(midnight_s // SECONDS_PER_DAY) + 3) % 7  # 1970-01-01 was a Thursday; 0 is Monday
    share = usage.weekend_share if weekday >= 5 else usage.weekday_share
    used, length, spread = rng.random(), rng.random(), rng.standard_normal()
    kind, interruption, reached = rng.random(), rng.random(), rng.random()
    km = 0.0
    if used < share:
        km = usage.km_per_day * math.exp(usage.km_spread * spread - 0.5 * usage.km_spread * usage.km_spread)
        if length < usage.long_share:
            km = usage.long_km * (0.6 + 0.8 * reached)
    charged_share = reached if interruption < usage.interrupted_share else 1.0
    return DayPlan(min(km, LONGEST_DAY_KM), charged_share, kind < usage.dc_share)


@compiled
def day_of_use(
    day: Day,
    midnight_s: float,
    place: Place,
    stress: FloatArray,
    model: int,
    usage: UsageParameters,
    rng: np.random.Generator,
) -> Day:
    """A day of average use until the next midnight; a trip or charge that takes longer ends in the next day.

    Args:
        midnight_s: at which the day begins; `day` may be some hours later.
    """
    plan = plan_day(midnight_s, usage, rng)
    day = park_until(day, place, stress, model, midnight_s + DEPARTURE_S)
    day = drive_km(day, place, stress, model, usage, 0.5 * plan.km)
    day = park_until(day, place, stress, model, midnight_s + RETURN_S)
    day = drive_km(day, place, stress, model, usage, 0.5 * plan.km)
    if day.soc < usage.charge_below:
        target = day.soc + (usage.target_soc - day.soc) * plan.charged_share
        day = charge_to(day, place, stress, model, usage, target, plan.is_fast)
    return park_until(day, place, stress, model, midnight_s + SECONDS_PER_DAY)
