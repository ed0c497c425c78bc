"""Tests of the fault model: event rate equals the hazard, and defects grow before the fault."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.designs import HAZARD
from simulator.faults import (
    CONTACT_RESISTANCE,
    COOLING_FAILURE,
    FAULT_KINDS,
    INTERNAL_SHORT,
    FaultPlan,
    HazardParameters,
    draw_fault,
    effects,
    has_failed,
    hazard_step,
    severity,
)

STEP_CYCLES = 25.0
MANY = 4000


def cumulative_hazard(parameters: HazardParameters) -> np.ndarray:
    """Cumulative hazard each 25 cycles with increasing wear and temperature."""
    total, path = 0.0, []
    for k in range(80):
        total += hazard_step(k * STEP_CYCLES, STEP_CYCLES, 0.003 * k, 20.0 + 0.1 * k, parameters)
        path.append(total)
    return np.array(path)


def observed_events(path: np.ndarray) -> np.ndarray:
    """Number of failed batteries out of `MANY` at each point of `path`."""
    rng = np.random.default_rng(11)
    plans = [draw_fault(rng) for _ in range(MANY)]
    return np.array([sum(has_failed(hazard, plan) for plan in plans) for hazard in path[::8]])


def test_empirical_event_rate_equals_the_hazard() -> None:
    path = cumulative_hazard(HAZARD)
    expected = 1.0 - np.exp(-path[::8])
    spread = np.sqrt(expected * (1.0 - expected) / MANY)
    assert (np.abs(observed_events(path) / MANY - expected) < 4.0 * spread).all()


def test_a_hazard_higher_by_30_percent_is_rejected() -> None:
    path = cumulative_hazard(HAZARD)
    claimed = 1.0 - np.exp(-1.3 * path[-8])
    assert abs(observed_events(path)[-1] / MANY - claimed) > 4.0 * np.sqrt(claimed * (1.0 - claimed) / MANY)


def test_hazard_step_is_the_integral_of_the_hazard() -> None:
    n = np.linspace(100.0, 300.0, 20_001)
    rate = HAZARD.shape / HAZARD.scale_cycles * (n / HAZARD.scale_cycles) ** (HAZARD.shape - 1.0)
    rate *= np.exp(HAZARD.per_loss * 0.1 + HAZARD.per_degree * 10.0)
    assert hazard_step(100.0, 200.0, 0.1, 35.0, HAZARD) == pytest.approx(np.trapezoid(rate, n), rel=1e-6)


def test_fault_kinds_occur_with_their_shares() -> None:
    rng = np.random.default_rng(5)
    kinds = np.bincount([draw_fault(rng).kind for _ in range(MANY)], minlength=len(FAULT_KINDS)) / MANY
    np.testing.assert_allclose(kinds, list(FAULT_KINDS.values()), atol=0.03)


def test_severity_grows_before_the_fault() -> None:
    plan = FaultPlan(INTERNAL_SHORT, 1.0, 0.6)
    severities = [severity(h, plan) for h in (0.0, 0.59, 0.7, 0.9, 1.0, 2.0)]
    assert severities == pytest.approx([0.0, 0.0, 0.25, 0.75, 1.0, 1.0])
    assert not has_failed(0.999, plan)
    assert has_failed(1.0, plan)


@pytest.mark.parametrize("kind", [CONTACT_RESISTANCE, COOLING_FAILURE, INTERNAL_SHORT])
def test_each_fault_kind_has_exactly_one_effect(kind: int) -> None:
    healthy, faulty = effects(kind, 0.0), effects(kind, 1.0)
    assert healthy == (0.0, 1.0, 0.0)
    assert [a != b for a, b in zip(healthy, faulty, strict=True)] == [kind == k for k in range(3)]
