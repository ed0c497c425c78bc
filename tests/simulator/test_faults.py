"""Tests of the fault model: rates equal the hazards, growth by a gamma process, competing kinds, and effects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from physics.compiled import compiled_entry
from simulator.faults import (
    COOLING_FAILURE,
    HAZARD_TABLE,
    HAZARDS,
    HEALTHY,
    KIND_NAMES,
    NO_FAULT,
    Defect,
    Exposure,
    FaultPlan,
    added_hazard,
    advance_defect,
    draw_plan,
    effects,
    growth_share,
    planned_hazard,
)

MANY, STEPS = 4000, 40
DAYS = 90.0
KINDS = range(len(HAZARDS))


def course(step: int) -> Exposure:
    """Exposure of a quarter of a year in a life with increasing loss and temperature."""
    return Exposure(30.0 * step, 0.25 * step, 30.0, 0.25, 0.006 * step, 18.0 + 0.3 * step, 0.4)


@compiled_entry
def onsets(
    plan: FaultPlan, exposures: np.ndarray, hazards: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Step and kind of the onset of each of `count` batteries; -1 without one."""
    found = np.full((count, 2), -1)
    for battery in range(count):
        own = FaultPlan(rng.exponential(), plan.scale, plan.cooling_scale)
        defect = Defect(0.0, -1, 0.0)
        for step in range(len(exposures)):
            e = exposures[step]
            exposure = Exposure(e[0], e[1], e[2], e[3], e[4], e[5], e[6])
            defect = advance_defect(defect, own, exposure, hazards, rng)
            if defect.kind >= 0:
                found[battery, 0], found[battery, 1] = step, defect.kind
                break
    return found


def simulated(plan: FaultPlan, seed: int = 11) -> np.ndarray:
    exposures = np.array([course(step) for step in range(STEPS)])
    return onsets(plan, exposures, HAZARD_TABLE, MANY, np.random.default_rng(seed))


def cumulative(plan: FaultPlan) -> np.ndarray:
    """Cumulative hazard of each kind after each step, float64[STEPS, kinds]."""
    each = [[planned_hazard(kind, course(step), plan, HAZARD_TABLE) for kind in KINDS] for step in range(STEPS)]
    return np.cumsum(each, axis=0)


PLAN = FaultPlan(1.0, 2.0, 1.0)


def test_the_rate_of_onsets_equals_the_hazard() -> None:
    found = simulated(PLAN)
    expected = 1.0 - np.exp(-cumulative(PLAN).sum(axis=1))
    observed = np.array([((found[:, 0] >= 0) & (found[:, 0] <= step)).mean() for step in range(STEPS)])
    spread = np.sqrt(expected * (1.0 - expected) / MANY)
    assert (np.abs(observed - expected) < 4.0 * spread + 1e-9).all()
    # Control: a hazard that is higher by 30 percent is rejected.
    claimed = 1.0 - np.exp(-1.3 * cumulative(PLAN).sum(axis=1)[-1])
    assert abs(observed[-1] - claimed) > 4.0 * np.sqrt(claimed * (1.0 - claimed) / MANY)


def test_kinds_compete_in_proportion_to_their_hazards() -> None:
    found = simulated(PLAN)
    added = np.diff(cumulative(PLAN), axis=0, prepend=0.0)
    survival = np.exp(-np.concatenate([[0.0], cumulative(PLAN).sum(axis=1)[:-1]]))
    ended = 1.0 - np.exp(-added.sum(axis=1))
    expected = (survival * ended / added.sum(axis=1)) @ added * MANY
    observed = np.array([(found[:, 1] == kind).sum() for kind in KINDS])
    assert (np.abs(observed - expected) < 4.0 * np.sqrt(expected) + 1.0).all()
    without = simulated(PLAN._replace(cooling_scale=0.0))
    assert not (without[:, 1] == COOLING_FAILURE).any()


@pytest.mark.parametrize("kind", KINDS)
def test_added_hazard_is_the_integral_of_the_hazard(kind: int) -> None:
    hazard, exposure = HAZARDS[kind], Exposure(100.0, 2.0, 200.0, 1.5, 0.1, 35.0, 0.4)
    begin, more = (2.0, 1.5) if hazard.in_years else (100.0, 200.0)
    n = np.linspace(begin, begin + more, 20_001)
    rate = hazard.shape / hazard.scale * (n / hazard.scale) ** (hazard.shape - 1.0)
    rate *= np.exp(hazard.per_loss * 0.1 + hazard.per_degree * 10.0 + hazard.per_fast * 0.4)
    assert added_hazard(kind, exposure, HAZARD_TABLE) == pytest.approx(np.trapezoid(rate, n), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_severity_grows_by_a_gamma_process_whatever_the_steps(kind: int) -> None:
    """After a quarter of the mean time, its distribution is that of one step and of ten."""
    quarter = 0.25 / growth_share(kind, Exposure(0.0, 0.0, 1.0, 1.0, 0.0, 25.0, 0.0), HAZARD_TABLE)
    steps = HAZARDS[kind].growth_steps
    for parts in (1, 10):
        rng = np.random.default_rng(3)
        exposure = Exposure(0.0, 0.0, quarter / parts, quarter / parts, 0.0, 25.0, 0.0)
        grown = []
        for _ in range(400):
            defect = Defect(0.5, kind, 0.0)
            for _ in range(parts):
                defect = advance_defect(defect, PLAN, exposure, HAZARD_TABLE, rng)
            grown.append(defect.severity)
        expected = stats.gamma(a=0.25 * steps, scale=1.0 / steps)
        inside = np.array(grown)[np.array(grown) < 1.0]
        assert stats.kstest(inside, lambda x, law=expected: law.cdf(x) / law.cdf(1.0)).pvalue > 1e-3


@given(
    kind=st.sampled_from(KINDS),
    severity=st.floats(0.0, 1.0),
    cycles=st.floats(0.0, 500.0),
    years=st.floats(0.0, 3.0),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=50, deadline=None)
def test_severity_never_falls_and_ends_at_one(
    kind: int, severity: float, cycles: float, years: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    defect = Defect(0.3, kind, severity)
    after = advance_defect(defect, PLAN, Exposure(10.0, 1.0, cycles, years, 0.1, 20.0, 0.0), HAZARD_TABLE, rng)
    assert severity <= after.severity <= 1.0
    assert after.kind == kind


def test_a_healthy_battery_stays_healthy_below_its_threshold() -> None:
    rng = np.random.default_rng(1)
    plan = draw_plan(rng, 1.0, True)._replace(threshold=1e9)
    defect = HEALTHY
    for step in range(STEPS):
        defect = advance_defect(defect, plan, course(step), HAZARD_TABLE, rng)
    assert defect.kind == NO_FAULT
    assert defect.severity == 0.0
    assert defect.cumulative_hazard == pytest.approx(cumulative(plan)[-1].sum())


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_own_effect_that_grows(kind: int) -> None:
    healthy = effects(NO_FAULT, 0.0)
    assert effects(kind, 0.0) == healthy
    changed = [number for number, (a, b) in enumerate(zip(healthy, effects(kind, 1.0), strict=True)) if a != b]
    expected = {"contact_resistance": [0], "cooling_failure": [1], "internal_short": [2, 3], "imbalance": [2]}
    assert changed == expected.get(KIND_NAMES[kind], [4])
    half, whole = effects(kind, 0.5), effects(kind, 1.0)
    assert all(abs(w - h) >= abs(m - h) for h, m, w in zip(healthy, half, whole, strict=True))
