"""Fault model with a known hazard: Weibull in equivalent full cycles, proportional in wear and temperature (Cox 1972).

Each battery draws a threshold of cumulative hazard from the unit exponential distribution; the fault happens when its
cumulative hazard reaches it, so the event rate equals the hazard for any course of wear.  The underlying defect
starts to show at a share of that threshold: precursors exist, but are weak at first and differ between kinds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from physics.compiled import compiled

#: Fault kinds in the order of their codes, with their shares of all faults.
FAULT_KINDS: dict[str, float] = {"contact_resistance": 0.35, "cooling_failure": 0.3, "internal_short": 0.35}
KIND_NAMES: tuple[str, ...] = tuple(FAULT_KINDS)
CONTACT_RESISTANCE, COOLING_FAILURE, INTERNAL_SHORT = range(3)


class HazardParameters(NamedTuple):
    """h(n) = (shape / scale) (n / scale) ** (shape - 1) exp(per_loss * loss + per_degree * (temperature - 25))."""

    shape: float
    scale_cycles: float
    per_loss: float
    per_degree: float


class FaultPlan(NamedTuple):
    """Planned fault of one battery: kind, cumulative hazard at which it happens, and share of it at which it shows."""

    kind: int
    threshold: float
    onset_share: float


class FaultEffects(NamedTuple):
    """Effects of a defect on its pack; contact resistance relative to the series resistance of the new pack."""

    contact_resistance_share: float
    cooling_share: float
    weak_cell_charge_offset: float


@compiled
def hazard_step(
    cycles_before: float, cycles: float, capacity_loss: float, temperature_c: float, parameters: HazardParameters
) -> float:
    """Exact cumulative hazard added by `cycles` equivalent full cycles at constant wear and temperature."""
    before: float = (cycles_before / parameters.scale_cycles) ** parameters.shape
    after: float = ((cycles_before + cycles) / parameters.scale_cycles) ** parameters.shape
    risk = math.exp(parameters.per_loss * capacity_loss + parameters.per_degree * (temperature_c - 25.0))
    return (after - before) * risk


def draw_fault(rng: np.random.Generator) -> FaultPlan:
    """Draw the planned fault of one battery."""
    kind = int(rng.choice(len(KIND_NAMES), p=list(FAULT_KINDS.values())))
    return FaultPlan(kind, float(rng.exponential()), float(rng.uniform(0.5, 0.8)))


@compiled
def has_failed(cumulative_hazard: float, plan: FaultPlan) -> bool:
    """True once the fault has happened."""
    return cumulative_hazard >= plan.threshold


@compiled
def severity(cumulative_hazard: float, plan: FaultPlan) -> float:
    """Severity of the defect: 0 none, 1 the fault."""
    onset = plan.onset_share * plan.threshold
    return min(max((cumulative_hazard - onset) / max(plan.threshold - onset, 1e-12), 0.0), 1.0)


@compiled
def effects(kind: int, severity: float) -> FaultEffects:
    """Effects of a defect of that kind and severity."""
    squared = severity * severity
    if kind == CONTACT_RESISTANCE:
        return FaultEffects(0.8 * squared, 1.0, 0.0)
    if kind == COOLING_FAILURE:
        return FaultEffects(0.0, 1.0 - severity, 0.0)
    return FaultEffects(0.0, 1.0, -0.10 * squared)
