"""Error of the fleet's coarse simulation of use, by days and three groups of cells, against seconds and full packs.

Both simulate the same plans of days, with ageing `WEAR_SPEED` times natural, so that the loss is that of eight years.
Seconds are those of driving and charging; while parked, the closed thermal solution has steps of 15 minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from physics import pack as p
from physics.compiled import compiled, compiled_entry
from simulator.battery import Battery
from simulator.battery_days import advance_days
from simulator.battery_physics import advance
from simulator.battery_state import CHARGE, DRIVE, REST, Activity, BatteryState, Design, Overrides, copied, end_of_day
from simulator.climate import SECONDS_PER_DAY
from simulator.designs import CAR_MODELS
from simulator.driving import STANDING
from simulator.use import (
    AC_EFFICIENCY,
    DC_EFFICIENCY,
    DEPARTURE_S,
    LEAVE_SOC,
    RETURN_S,
    STOP_SOC,
    midnight_before_s,
    plan_day,
)
from validation.report import Result

SINCE = datetime(2020, 1, 1, tzinfo=UTC)
BOUND_PERCENT = 0.3
#: Each battery begins in another part of the year, so that the five together have all seasons.
WEAR_SPEED, DAYS, DAYS_APART = 80.0, 36, 73
DRIVE_CHUNK_S, CHARGE_STEP_S, PARKED_STEP_S = 10.0, 1.0, 900.0
NOT_FULL = 1e9


@compiled
def _activity(state: BatteryState, kind: int, charger_w: float, target_soc: float) -> BatteryState:
    return BatteryState(
        state.time_s,
        state.groups,
        state.ageing,
        state.stress,
        STANDING,
        Activity(kind, NOT_FULL, charger_w, target_soc),
        state.defect,
        state.discharged_ah,
        state.odometer_km,
        p.pack_soc(state.groups),
        0.0,
    )


@compiled
def _charge(
    state: BatteryState, design: Design, overrides: Overrides, target: float, is_fast: bool, rng: np.random.Generator
) -> BatteryState:
    watts = design.usage.dc_w * DC_EFFICIENCY if is_fast else design.usage.ac_w * AC_EFFICIENCY
    state, ended = _activity(state, CHARGE, watts, 1.0), False
    while not ended and p.pack_soc(state.groups) < target:
        state, _, _, ended = advance(state, design, overrides, CHARGE_STEP_S, rng)
    return state


@compiled
def _drive(
    state: BatteryState, design: Design, overrides: Overrides, km: float, rng: np.random.Generator
) -> BatteryState:
    arrival_km = state.odometer_km + km
    state = _activity(state, DRIVE, 0.0, 1.0)
    while state.odometer_km < arrival_km:
        if p.pack_soc(state.groups) < STOP_SOC:
            state = _charge(state, design, overrides, LEAVE_SOC, True, rng)
            state = _activity(state, DRIVE, 0.0, 1.0)
        state, _, _, _ = advance(state, design, overrides, DRIVE_CHUNK_S, rng)
    return state


@compiled
def _park(
    state: BatteryState, design: Design, overrides: Overrides, until_s: float, rng: np.random.Generator
) -> BatteryState:
    state = _activity(state, REST, 0.0, 1.0)
    while state.time_s < until_s - 1e-3:
        state, _, _, _ = advance(state, design, overrides, min(PARKED_STEP_S, until_s - state.time_s), rng)
    return state


@compiled_entry
def by_seconds(
    state: BatteryState,
    design: Design,
    overrides: Overrides,
    days: int,
    plans: np.random.Generator,
    rng: np.random.Generator,
) -> BatteryState:
    """State after `days` of use by seconds; `plans` draws the days, `rng` all else."""
    state = copied(state)
    begin_s = state.time_s
    while state.time_s < begin_s + days * SECONDS_PER_DAY - 1.0:
        midnight_s = midnight_before_s(state.time_s)
        if state.time_s >= midnight_s + DEPARTURE_S:
            midnight_s += SECONDS_PER_DAY
            state = _park(state, design, overrides, midnight_s, rng)
        plan = plan_day(midnight_s, design.usage, plans)
        state = _park(state, design, overrides, midnight_s + DEPARTURE_S, rng)
        state = _drive(state, design, overrides, 0.5 * plan.km, rng)
        state = _park(state, design, overrides, midnight_s + RETURN_S, rng)
        state = _drive(state, design, overrides, 0.5 * plan.km, rng)
        soc = p.pack_soc(state.groups)
        if soc < design.usage.charge_below:
            target = soc + (design.usage.target_soc - soc) * plan.charged_share
            state = _charge(state, design, overrides, target, plan.is_fast, rng)
        state = _park(state, design, overrides, midnight_s + SECONDS_PER_DAY, rng)
        state = end_of_day(state, design, overrides, rng)
    return state


def pair(index: int) -> tuple[Battery, Battery]:
    """Battery of the car model `index` with three groups, and the same with all, without defects."""
    batteries = []
    for is_full in (False, True):
        battery = Battery(
            5,
            index,
            SINCE + index * timedelta(days=DAYS_APART),
            models=(CAR_MODELS[index],),
            ageing_spread=1.0,
            hazard_scale=1e-12,
            is_full=is_full,
        )
        ageing = battery.design.ageing
        # Not as an override, which shortens the intervals at which the losses are updated.
        battery.design = battery.design._replace(ageing=ageing._replace(speed=WEAR_SPEED * ageing.speed))
        batteries.append(battery)
    return batteries[0], batteries[1]


def coarse(_: Path, *, days: int = DAYS) -> Sequence[Result]:
    """Difference of the state of health of a battery of each car model."""
    results: list[Result] = []
    for index, model in enumerate(CAR_MODELS):
        few, full = pair(index)
        first = few.soh
        plans, rng = np.random.default_rng(index), np.random.default_rng(100 + index)
        full.state = by_seconds(full.state, full.design, full.overrides, days, plans, rng)
        simulated_days = (full.state.time_s - few.state.time_s) / SECONDS_PER_DAY
        same_plans = np.random.default_rng(index)
        few.state = advance_days(few.state, few.design, few.overrides, simulated_days, same_plans)
        results.append(
            {
                "name": f"coarse_{model.name}_soh",
                "value": abs(100.0 * (few.soh - full.soh)),
                "unit": "% SoH",
                "bound": BOUND_PERCENT,
                "reference": f"steps of 1 s and {model.cells_in_series} groups: {100.0 * first:.2f} to "
                f"{100.0 * full.soh:.2f} % in {days} days of use ({few.identity.usage.name}) with "
                f"{WEAR_SPEED:g} times natural ageing; cycles {full.cycles:.1f}, coarse {few.cycles:.1f}",
            }
        )
    return results
