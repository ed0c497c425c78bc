"""Tests of the ageing model: monotonic, independent of the step size, cited laws, stress factors and knee."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.ageing import NEW, NO_KNEE, AgeingParameters, Stress, age, capacity_loss

PARAMETERS = AgeingParameters(0.029, 4500.0, 0.0036, 1500.0, NO_KNEE, 100.0, 1.9, 1e-4)
MILD = Stress(25.0, 0.5, 0.6, 1 / 3)

stresses = st.builds(
    Stress,
    temperature_c=st.floats(-20.0, 55.0),
    soc=st.floats(0.0, 1.0),
    depth_of_discharge=st.floats(0.0, 1.0),
    c_rate=st.floats(0.0, 3.0),
)


@given(steps=st.lists(st.tuples(stresses, st.floats(0.0, 60.0), st.floats(0.0, 40.0)), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_wear_never_decreases(steps: list[tuple[Stress, float, float]]) -> None:
    wear = NEW
    parameters = PARAMETERS._replace(knee_onset=0.05)
    for stress, days, cycles in steps:
        older = age(wear, parameters, stress, days, cycles)
        assert all(after >= before for before, after in zip(wear, older, strict=True))
        wear = older


@given(share=st.floats(0.01, 0.99))
@settings(max_examples=30, deadline=None)
def test_wear_is_independent_of_the_step_size(share: float) -> None:
    whole = age(NEW, PARAMETERS, MILD, 900.0, 500.0)
    part = age(NEW, PARAMETERS, MILD, 900.0 * share, 500.0 * share)
    halves = age(part, PARAMETERS, MILD, 900.0 * (1 - share), 500.0 * (1 - share))
    assert halves == pytest.approx(whole, rel=1e-9)


def test_calendar_and_cycle_loss_follow_the_cited_power_laws() -> None:
    parked = [age(NEW, PARAMETERS, MILD, days, 0.0).calendar_loss for days in (365.25, 4 * 365.25)]
    assert parked[0] == pytest.approx(PARAMETERS.calendar_per_root_year)
    assert parked[1] / parked[0] == pytest.approx(2.0)
    cycled = [age(NEW, PARAMETERS, MILD, 0.0, cycles).cycle_loss for cycles in (100.0, 400.0)]
    assert cycled[1] / cycled[0] == pytest.approx(4.0**0.55)


@pytest.mark.parametrize(
    "harsh",
    [
        MILD._replace(temperature_c=40.0),
        MILD._replace(depth_of_discharge=1.0),
        MILD._replace(c_rate=2.0),
        MILD._replace(soc=0.95),
    ],
)
def test_harsh_use_ages_faster(harsh: Stress) -> None:
    assert capacity_loss(age(NEW, PARAMETERS, harsh, 365.0, 200.0)) > capacity_loss(
        age(NEW, PARAMETERS, MILD, 365.0, 200.0)
    )


def test_calendar_ageing_follows_arrhenius() -> None:
    hot, mild = (age(NEW, PARAMETERS, MILD._replace(temperature_c=t), 365.0, 0.0).calendar_loss for t in (45.0, 25.0))
    assert math.log(hot / mild) == pytest.approx(4500.0 * (1 / 298.15 - 1 / 318.15))


def test_loss_accelerates_with_a_knee_only() -> None:
    def last_steps(parameters: AgeingParameters) -> tuple[float, float]:
        wear, losses = NEW, []
        for _ in range(12):
            wear = age(wear, parameters, MILD, 60.0, 100.0)
            losses.append(capacity_loss(wear))
        return losses[-2] - losses[-3], losses[-1] - losses[-2]

    before, after = last_steps(PARAMETERS)
    assert after < before
    before, after = last_steps(PARAMETERS._replace(knee_onset=0.12))
    assert after > before


def test_resistance_grows_with_lost_capacity() -> None:
    worn = age(NEW, PARAMETERS, MILD, 900.0, 500.0)
    expected = PARAMETERS.resistance_per_loss * capacity_loss(worn) + 500.0 * PARAMETERS.resistance_per_cycle
    assert worn.resistance_growth == pytest.approx(expected)
