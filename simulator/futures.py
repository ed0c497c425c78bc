"""True probability that a simulated battery fails within a horizon: the share of its futures with the event.

A failure is a fault, or a state of health below the end of life.  Only the simulator knows the state that a future
begins with, so this is a bound for what a model can know from telemetry.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from physics.compiled import compiled, compiled_entry
from simulator.battery_days import use_until_midnight
from simulator.battery_state import NO_OVERRIDES, BatteryState, Design, age, copied, cycles, exposure_of, health
from simulator.climate import SECONDS_PER_DAY
from simulator.faults import NO_FAULT, Exposure, FaultPlan, advance_defect

FloatArray = NDArray[np.float64]

#: A battery that is hardly used does not reach the horizon in its life.
LONGEST_DAYS = 20_000


@compiled
def _use(
    state: BatteryState,
    design: Design,
    horizon_cycles: float,
    end_of_life: float,
    exposures: FloatArray,
    rng: np.random.Generator,
) -> tuple[int, bool]:
    """One future of use: its exposures by day (written), their number, and whether it ends worn out."""
    state = copied(state)
    end = cycles(state, design) + horizon_cycles
    days = 0
    while cycles(state, design) < end and days < len(exposures):
        state = use_until_midnight(state, design, NO_OVERRIDES, state.time_s + SECONDS_PER_DAY + 1.0, rng)
        for column, value in enumerate(exposure_of(state, design)):
            exposures[days, column] = value
        age(state, design, NO_OVERRIDES)
        days += 1
        if health(state.ageing, design) < end_of_life:
            return days, True
    return days, False


@compiled
def _has_fault(state: BatteryState, design: Design, exposures: FloatArray, rng: np.random.Generator) -> bool:
    """Whether a fault happens in one future of the defect over the exposures."""
    defect = state.defect
    # The exponential threshold is memoryless: what is left of it is exponential again.
    plan = FaultPlan(
        defect.cumulative_hazard + rng.standard_exponential(), design.plan.scale, design.plan.cooling_scale
    )
    for day in range(len(exposures)):
        e = exposures[day]
        exposure = Exposure(e[0], e[1], e[2], e[3], e[4], e[5], e[6])
        defect = advance_defect(defect, plan, exposure, design.hazards, rng)
        if defect.kind != NO_FAULT and defect.severity >= 1.0:
            return True
    return False


@compiled_entry
def failure_share(
    state: BatteryState,
    design: Design,
    horizon_cycles: float,
    end_of_life: float,
    uses: int,
    defects: int,
    rng: np.random.Generator,
) -> float:
    """Share of `uses` times `defects` futures in which the battery fails within the horizon.

    Args:
        horizon_cycles: equivalent full cycles from now.
        end_of_life: state of health, fraction.
        uses: futures of use and ageing, which a defect does not change.
        defects: futures of the defect in each of them.
    """
    failed = 0
    exposures = np.empty((LONGEST_DAYS, len(exposure_of(state, design))))
    for _ in range(uses):
        days, is_worn = _use(state, design, horizon_cycles, end_of_life, exposures, rng)
        if is_worn:
            failed += defects
            continue
        for _ in range(defects):
            if _has_fault(state, design, exposures[:days], rng):
                failed += 1
    return failed / (uses * defects)
