"""Compiled simulation of one car battery by days of average use (`simulator.use`), with ageing and faults."""

from __future__ import annotations

import numpy as np

from physics import pack as p
from physics.compiled import compiled, compiled_entry
from simulator.battery_state import (
    REST,
    Activity,
    BatteryState,
    Design,
    Overrides,
    condition_of,
    copied,
    end_of_day,
)
from simulator.climate import SECONDS_PER_DAY
from simulator.driving import DriveState
from simulator.use import DEPARTURE_S, Day, Place, day_of_use, midnight_before_s, park_until

TIME_TOLERANCE_S = 1e-3


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
