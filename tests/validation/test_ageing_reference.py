"""Ageing against the committed results of BLAST-Lite itself, after ten years of the same history."""

from __future__ import annotations

import numpy as np
import pytest

from physics.ageing.model import MODELS, replay
from validation import blast_lite
from validation.ageing import BOUND_SOH_PERCENT, Comparison, comparisons
from validation.ageing_histories import HISTORIES, STEPS_PER_DAY, YEARS, History, history

RESISTANCE_TOLERANCE = 0.005  # of the resistance after ten years


@pytest.fixture(scope="module")
def compared() -> list[Comparison]:
    return comparisons()


@pytest.fixture(scope="module")
def commuter() -> History:
    return history(HISTORIES["commuter_temperate"])


def test_every_model_is_compared_on_every_history(compared: list[Comparison]) -> None:
    assert {(one.model, one.history) for one in compared} == {(model, name) for model in MODELS for name in HISTORIES}
    assert blast_lite.read()[0] == "1.1.1"


def test_soh_after_ten_years_is_that_of_blast_lite(compared: list[Comparison]) -> None:
    apart = {(one.model, one.history): abs(one.capacity[-1] - one.reference_capacity[-1]) for one in compared}
    assert 100.0 * max(apart.values()) <= BOUND_SOH_PERCENT, apart


def test_soh_is_close_to_blast_lite_in_every_year(compared: list[Comparison]) -> None:
    """The first drives after the first rests differ most: there BLAST-Lite's Euler steps are coarsest (0.21 % SoH)."""
    apart = {(one.model, one.history): np.abs(one.capacity - one.reference_capacity).max() for one in compared}
    assert 100.0 * max(apart.values()) <= 0.25, apart


def test_resistance_after_ten_years_is_that_of_blast_lite(compared: list[Comparison]) -> None:
    with_model = [one for one in compared if one.reference_resistance is not None]
    assert {one.model for one in with_model} == {"LFP", "NMC_knee"}
    for one in with_model:
        assert one.reference_resistance is not None
        np.testing.assert_allclose(one.resistance[-1], one.reference_resistance[-1], rtol=RESISTANCE_TOLERANCE)


@pytest.mark.parametrize("model", ["NMC", "NCA", "LFP"])
def test_two_degrees_more_exceed_the_bound(model: str, commuter: History, compared: list[Comparison]) -> None:
    """Negative control: the bound notices a history that is 2 degC warmer."""
    warmer = commuter._replace(temperature_c=commuter.temperature_c + 2.0)
    lived = replay(MODELS.index(model), *warmer, STEPS_PER_DAY, 1.0)[-1, 0]
    reference = next(one for one in compared if (one.model, one.history) == (model, "commuter_temperate"))
    assert 100.0 * abs(lived - reference.reference_capacity[-1]) > BOUND_SOH_PERCENT


@pytest.mark.parametrize("model", ["NMC", "NCA", "LFP"])
@pytest.mark.parametrize("steps", [STEPS_PER_DAY // 4, 7 * STEPS_PER_DAY])
def test_the_length_of_an_update_matters_little(
    model: str, steps: int, commuter: History, compared: list[Comparison]
) -> None:
    """Quarters of a day and weeks instead of days: other swings and means, at most 0.6 % SoH."""
    one = next(one for one in compared if (one.model, one.history) == (model, "commuter_temperate"))
    lived = replay(MODELS.index(model), *commuter, steps, 1.0)[-1, 0]
    assert 100.0 * abs(lived - one.capacity[YEARS]) <= 0.6
