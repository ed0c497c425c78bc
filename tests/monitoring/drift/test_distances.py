"""Rank distances: equal to scipy's, independent of the order of rows, with missing values as a level of their own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import wasserstein_distance

from monitoring.drift.distances import LEVELS, RankScale, combined, cumulative_shares, distances

VALUES = st.one_of(st.floats(-1e6, 1e6), st.just(np.nan), st.sampled_from([0.0, 1.0]))
TABLES = st.integers(1, 30).flatmap(lambda n: arrays(np.float64, (n, 3), elements=VALUES))


def equal_weights(count: int) -> np.ndarray:
    return np.full(count, 1.0 / count)


def distance(window: np.ndarray, reference: np.ndarray) -> np.ndarray:
    scale = RankScale(reference)
    of_window, of_reference = (
        cumulative_shares(scale.levels(values), equal_weights(len(values))) for values in (window, reference)
    )
    return distances(of_window, of_reference)


@settings(deadline=None)
@given(TABLES, TABLES, st.randoms(use_true_random=False))
def test_distances_equal_scipy_for_any_row_order(window: np.ndarray, reference: np.ndarray, order: object) -> None:
    found = distance(window, reference)
    scale = RankScale(reference)
    expected = [
        wasserstein_distance(a / (LEVELS - 1), b / (LEVELS - 1))
        for a, b in zip(scale.levels(window).T, scale.levels(reference).T, strict=True)
    ]
    assert found == pytest.approx(expected, abs=1e-9)
    rows = np.random.default_rng(order.randint(0, 99)).permutation(len(window))  # type: ignore[attr-defined]
    assert distance(window[rows], reference) == pytest.approx(found, abs=1e-12)
    assert (found >= 0).all()
    assert (found <= 1 + 1e-9).all()
    assert distance(reference, reference) == pytest.approx(np.zeros(3), abs=1e-12)


def test_row_weights_are_applied() -> None:
    reference = np.random.default_rng(1).normal(size=(500, 1))
    scale = RankScale(reference)
    of_reference = cumulative_shares(scale.levels(reference), equal_weights(500))
    levels = scale.levels(np.array([[-3.0], [3.0]]))
    assert distances(cumulative_shares(levels, np.array([1.0, 0.0])), of_reference) == pytest.approx(
        distances(cumulative_shares(levels[:1], np.array([1.0])), of_reference)
    )


@pytest.mark.parametrize("constant", [0.0, 5.0])
def test_change_of_a_constant_feature_and_newly_missing_values_have_a_distance(constant: float) -> None:
    reference = np.full((50, 1), constant)
    assert distance(reference, reference) == pytest.approx([0.0])
    for other in (constant - 1.0, constant + 1.0):
        assert distance(np.full((9, 1), other), reference)[0] > 0.4
    assert distance(np.full((9, 1), np.nan), reference)[0] > 0.4
    assert distance(reference, np.full((50, 1), np.nan))[0] > 0.4
    assert distance(np.full((9, 1), np.nan), np.full((50, 1), np.nan)) == pytest.approx([0.0])


def test_one_feature_at_the_maximum_does_not_dominate_the_combined_score() -> None:
    by_feature = np.full(28, 0.1)
    by_feature[0] = 1.0
    assert combined(by_feature) < 0.25
