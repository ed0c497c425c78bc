"""Distances are scipy's, do not care for the order of rows, and know a missing value from any other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import wasserstein_distance

from monitoring.drift.distances import LEVELS, RankScale, combined, distances, shares

VALUES = st.one_of(st.floats(-1e6, 1e6), st.just(np.nan), st.sampled_from([0.0, 1.0]))
TABLES = st.integers(1, 30).flatmap(lambda n: arrays(np.float64, (n, 3), elements=VALUES))


def equal(count: int) -> np.ndarray:
    return np.full(count, 1.0 / count)


def distance(window: np.ndarray, reference: np.ndarray) -> np.ndarray:
    scale = RankScale(reference)
    seen, known = (shares(scale.places(values), equal(len(values))) for values in (window, reference))
    return distances(seen, known)


@settings(deadline=None)
@given(TABLES, TABLES, st.randoms(use_true_random=False))
def test_distances_are_those_of_scipy_in_any_order_of_rows(
    window: np.ndarray, reference: np.ndarray, order: object
) -> None:
    found = distance(window, reference)
    scale = RankScale(reference)
    expected = [
        wasserstein_distance(seen / (LEVELS - 1), known / (LEVELS - 1))
        for seen, known in zip(scale.places(window).T, scale.places(reference).T, strict=True)
    ]
    assert found == pytest.approx(expected, abs=1e-9)
    rows = np.random.default_rng(order.randint(0, 99)).permutation(len(window))  # type: ignore[attr-defined]
    assert distance(window[rows], reference) == pytest.approx(found, abs=1e-12)
    assert (found >= 0).all()
    assert (found <= 1 + 1e-9).all()
    assert distance(reference, reference) == pytest.approx(np.zeros(3), abs=1e-12)


def test_rows_weigh_what_they_are_given() -> None:
    reference = np.random.default_rng(1).normal(size=(500, 1))
    scale = RankScale(reference)
    known = shares(scale.places(reference), equal(500))
    places = scale.places(np.array([[-3.0], [3.0]]))
    assert distances(shares(places, np.array([1.0, 0.0])), known) == pytest.approx(
        distances(shares(places[:1], np.array([1.0])), known)
    )


@pytest.mark.parametrize("constant", [0.0, 5.0])
def test_a_new_value_of_a_constant_and_a_value_that_goes_missing_are_seen(constant: float) -> None:
    reference = np.full((50, 1), constant)
    assert distance(reference, reference) == pytest.approx([0.0])
    for other in (constant - 1.0, constant + 1.0):
        assert distance(np.full((9, 1), other), reference)[0] > 0.4
    assert distance(np.full((9, 1), np.nan), reference)[0] > 0.4
    assert distance(reference, np.full((50, 1), np.nan))[0] > 0.4
    assert distance(np.full((9, 1), np.nan), np.full((50, 1), np.nan)) == pytest.approx([0.0])


def test_a_feature_that_left_for_good_does_not_drown_the_others() -> None:
    by_feature = np.full(28, 0.1)
    by_feature[0] = 1.0
    assert combined(by_feature) < 0.25
