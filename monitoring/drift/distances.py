"""Wasserstein distance between a window and the training reference, computed on ranks for all features at once.  Pure.

Ranks in the reference have no unit, are robust to outliers, and are bounded, so that one feature that has left its
range for good (the age of a recording that never ends) cannot dominate the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.state import FloatArray

LevelArray = NDArray[np.int64]

#: Quantiles of the reference that divide the rank scale.
_EDGES = 32
#: Missing, then below, between, at and above the quantiles.
LEVELS = 2 * _EDGES + 2


class RankScale:
    """Maps values of F features to levels between the quantiles of a reference.

    A missing value has the lowest level, as it does inside the forests.

    Args:
        values: float64[n, F] of the reference, n > 0, NaN where missing.
    """

    def __init__(self, values: FloatArray) -> None:
        self._edges = np.full((values.shape[1], _EDGES), -np.inf)
        for feature, column in enumerate(values.T):
            known = column[~np.isnan(column)]
            if len(known):
                self._edges[feature] = np.quantile(known, (np.arange(_EDGES) + 0.5) / _EDGES, method="lower")

    def levels(self, values: FloatArray) -> LevelArray:
        """Level of each of `values`, float64[n, F]: int64[n, F], from 0 (missing) to LEVELS - 1."""
        levels = np.empty(values.shape, dtype=np.int64)
        for feature, (edges, column) in enumerate(zip(self._edges, values.T, strict=True)):
            # Searched from both sides, so that below, at and above differ also where one value fills many quantiles.
            level = 1 + np.searchsorted(edges, column, "left") + np.searchsorted(edges, column, "right")
            levels[:, feature] = np.where(np.isnan(column), 0, level)
        return levels


def cumulative_shares(levels: LevelArray, weights: FloatArray) -> FloatArray:
    """Weight at or below each level, float64[F, LEVELS].

    Args:
        levels: int64[n, F].
        weights: float64[n], of the rows; they add up to 1.
    """
    features = levels.shape[1]
    at = levels + LEVELS * np.arange(features)
    counts = np.bincount(at.ravel(), np.repeat(weights, features), minlength=features * LEVELS)
    return np.asarray(np.cumsum(counts.reshape(features, LEVELS), axis=1))


def distances(window: FloatArray, reference: FloatArray) -> FloatArray:
    """Wasserstein distance of each feature on the rank scale, float64[F]: 0 for equal distributions, at most 1.

    Equals `scipy.stats.wasserstein_distance` of levels / (LEVELS - 1), for all features at once.

    Args:
        window, reference: float64[F, LEVELS], from `cumulative_shares`.
    """
    return np.asarray(np.abs(window - reference)[:, :-1].mean(axis=1))


def combined(by_feature: FloatArray) -> float:
    """Root mean square over the features: a few large distances count for more than many small ones."""
    return float(np.sqrt((by_feature**2).mean()))
