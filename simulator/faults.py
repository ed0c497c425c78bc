"""Fault model with known hazards: a defect begins with a hazard of its kind and grows by a gamma process to the fault.

The hazard of each kind depends on the battery's own history so far: a Weibull hazard in equivalent full cycles or in
years, proportional in capacity loss, temperature and fast charging (Cox 1972).  The first defect to begin is drawn
with the total of all kinds: the battery has a threshold of cumulative hazard from the unit exponential distribution,
so the rate of onsets equals the hazard for any course of use.  From then on the severity grows by a gamma process
(van Noortwijk 2009, doi:10.1016/j.ress.2007.03.019), and the fault happens when it reaches 1.  Both are memoryless in
the present state, so the true probability of a fault within any horizon is the share of simulated futures that have it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physics.compiled import compiled

FloatArray = NDArray[np.float64]

DAYS_PER_YEAR = 365.25
KIND_NAMES: tuple[str, ...] = ("contact_resistance", "cooling_failure", "internal_short", "imbalance", "sensor_fault")
CONTACT_RESISTANCE, COOLING_FAILURE, INTERNAL_SHORT, IMBALANCE, SENSOR_FAULT = range(5)
NO_FAULT = -1


class Hazard(NamedTuple):
    """Hazard of the onset of one kind of defect, for each unit of exposure n:

        (shape / scale) (n / scale) ** (shape - 1)
            * exp(per_loss * capacity loss + per_degree * (temperature - 25 degC) + per_fast * fast share of charging)

    Exposure is in equivalent full cycles, or in years where `in_years`.  From onset to fault the severity grows by
    `growth_steps` expected jumps within `growth_cycles` equivalent full cycles and `growth_years` years (whichever
    comes first, each at its own rate).
    """

    scale: float
    shape: float
    in_years: float
    per_loss: float
    per_degree: float
    per_fast: float
    growth_cycles: float
    growth_years: float
    growth_steps: float


# fmt: off
#: Hazards by kind.  Set before any model was trained and not changed after; see docs/decisions/0029 for the sources.
HAZARDS: tuple[Hazard, ...] = (
    Hazard(scale=14_000.0, shape=1.5, in_years=0.0, per_loss=2.0, per_degree=0.0, per_fast=1.0,
           growth_cycles=120.0, growth_years=0.8, growth_steps=8.0),
    Hazard(scale=140.0, shape=1.3, in_years=1.0, per_loss=0.0, per_degree=0.03, per_fast=0.5,
           growth_cycles=60.0, growth_years=0.4, growth_steps=6.0),
    Hazard(scale=16_000.0, shape=1.6, in_years=0.0, per_loss=8.0, per_degree=0.03, per_fast=1.0,
           growth_cycles=100.0, growth_years=0.6, growth_steps=10.0),
    Hazard(scale=150.0, shape=1.5, in_years=1.0, per_loss=6.0, per_degree=0.01, per_fast=0.0,
           growth_cycles=150.0, growth_years=1.0, growth_steps=12.0),
    Hazard(scale=250.0, shape=1.0, in_years=1.0, per_loss=0.0, per_degree=0.02, per_fast=0.0,
           growth_cycles=60.0, growth_years=0.5, growth_steps=5.0),
)
# fmt: on
#: The same as an array for compiled code: row = kind, columns = fields of `Hazard`.
HAZARD_TABLE: FloatArray = np.array(HAZARDS)
_SCALE, _SHAPE, _IN_YEARS, _PER_LOSS, _PER_DEGREE, _PER_FAST, _CYCLES, _YEARS, _STEPS = range(9)


class FaultPlan(NamedTuple):
    """What is drawn for one battery at the beginning: its threshold of cumulative hazard, the factor on all hazards,
    and on that of the cooling (0 where the car has none).
    """

    threshold: float
    scale: float
    cooling_scale: float


class Defect(NamedTuple):
    """State of a battery's defect: cumulative hazard so far, kind (`NO_FAULT`: none) and severity (1: the fault)."""

    cumulative_hazard: float
    kind: int
    severity: float


class Exposure(NamedTuple):
    """Exposure in an interval: equivalent full cycles and years before and in it, and what changes the hazard."""

    cycles: float
    years: float
    more_cycles: float
    more_years: float
    capacity_loss: float
    temperature_c: float
    fast_share: float


class FaultEffects(NamedTuple):
    """Effects of a defect on its pack: contact resistance relative to the resistance of the new pack, share of the
    cooling that works, charge of group 0 when the pack is full, its leakage relative to the nominal capacity, and the
    severity of a sensor fault.
    """

    contact_resistance_share: float
    cooling_share: float
    weak_charge_offset: float
    leakage_c_rate: float
    sensor_severity: float


HEALTHY = Defect(0.0, NO_FAULT, 0.0)


def draw_plan(rng: np.random.Generator, hazard_scale: float, has_coolant: bool) -> FaultPlan:
    """Draw the plan of one battery; `hazard_scale` multiplies all hazards."""
    return FaultPlan(float(rng.exponential()), hazard_scale, float(has_coolant))


@compiled
def added_hazard(kind: int, exposure: Exposure, hazards: FloatArray) -> float:
    """Exact cumulative hazard of `kind` in an interval in which nothing but the exposure changes."""
    row = hazards[kind]
    before = exposure.years if row[_IN_YEARS] > 0.0 else exposure.cycles
    more = exposure.more_years if row[_IN_YEARS] > 0.0 else exposure.more_cycles
    weibull = ((before + more) / row[_SCALE]) ** row[_SHAPE] - (before / row[_SCALE]) ** row[_SHAPE]
    risk = math.exp(
        row[_PER_LOSS] * exposure.capacity_loss
        + row[_PER_DEGREE] * (exposure.temperature_c - 25.0)
        + row[_PER_FAST] * exposure.fast_share
    )
    return float(weibull * risk)


@compiled
def planned_hazard(kind: int, exposure: Exposure, plan: FaultPlan, hazards: FloatArray) -> float:
    """Cumulative hazard of `kind` in an interval, of a battery with `plan`."""
    scale = plan.scale * plan.cooling_scale if kind == COOLING_FAILURE else plan.scale
    return scale * added_hazard(kind, exposure, hazards)


@compiled
def growth_share(kind: int, exposure: Exposure, hazards: FloatArray) -> float:
    """Expected growth of the severity of a defect of `kind` in an interval."""
    row = hazards[kind]
    return float(exposure.more_cycles / row[_CYCLES] + exposure.more_years / row[_YEARS])


@compiled
def advance_defect(
    defect: Defect, plan: FaultPlan, exposure: Exposure, hazards: FloatArray, rng: np.random.Generator
) -> Defect:
    """The defect after an interval; a severity of 1 or more is the fault."""
    if defect.kind != NO_FAULT:
        mean = growth_share(defect.kind, exposure, hazards)
        if mean <= 0.0 or defect.severity >= 1.0:
            return defect
        steps = hazards[defect.kind, _STEPS]
        return Defect(
            defect.cumulative_hazard, defect.kind, min(defect.severity + rng.gamma(steps * mean, 1.0 / steps), 1.0)
        )
    total = 0.0
    for kind in range(len(hazards)):
        total += planned_hazard(kind, exposure, plan, hazards)
    cumulative = defect.cumulative_hazard + total
    if cumulative < plan.threshold:
        return Defect(cumulative, NO_FAULT, 0.0)
    chosen = rng.random() * total
    for kind in range(len(hazards)):
        chosen -= planned_hazard(kind, exposure, plan, hazards)
        if chosen <= 0.0:
            return Defect(plan.threshold, kind, 0.0)
    return Defect(plan.threshold, len(hazards) - 1, 0.0)


@compiled
def effects(kind: int, severity: float) -> FaultEffects:
    """Effects of a defect of that kind and severity."""
    squared = severity * severity
    if kind == CONTACT_RESISTANCE:
        return FaultEffects(0.8 * squared, 1.0, 0.0, 0.0, 0.0)
    if kind == COOLING_FAILURE:
        return FaultEffects(0.0, 1.0 - severity, 0.0, 0.0, 0.0)
    if kind == INTERNAL_SHORT:
        return FaultEffects(0.0, 1.0, -0.08 * squared, 0.01 * squared, 0.0)
    if kind == IMBALANCE:
        return FaultEffects(0.0, 1.0, -0.12 * severity, 0.0, 0.0)
    if kind == SENSOR_FAULT:
        return FaultEffects(0.0, 1.0, 0.0, 0.0, severity)
    return FaultEffects(0.0, 1.0, 0.0, 0.0, 0.0)
