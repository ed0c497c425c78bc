"""How far the rows of a window lie from those of the reference.  Pure.

Everything is on the scale of ranks in the reference: free of units, deaf to a few wild values, and bounded, so that one
feature that has left its range for good (the age of a recording that never ends) cannot drown the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.state import FloatArray

PlaceArray = NDArray[np.int64]

#: Quantiles of the reference among which a value is placed.
_EDGES = 32
#: Missing; below, between, at and above the quantiles.
LEVELS = 2 * _EDGES + 2


class RankScale:
    """Places values of F features among the quantiles of a reference.

    A missing value stands below every other, as it does inside the forests.

    Args:
        values: float64[n, F] of the reference, n > 0, NaN where missing.
    """

    def __init__(self, values: FloatArray) -> None:
        self._edges = np.full((values.shape[1], _EDGES), -np.inf)
        for feature, column in enumerate(values.T):
            known = column[~np.isnan(column)]
            if len(known):
                self._edges[feature] = np.quantile(known, (np.arange(_EDGES) + 0.5) / _EDGES, method="lower")

    def places(self, values: FloatArray) -> PlaceArray:
        """Where each of `values`, float64[n, F], stands: int64[n, F], from 0 (missing) to LEVELS - 1."""
        places = np.empty(values.shape, dtype=np.int64)
        for feature, (edges, column) in enumerate(zip(self._edges, values.T, strict=True)):
            # From both sides, so that below, at and above are told apart also where one value fills many quantiles.
            place = 1 + np.searchsorted(edges, column, "left") + np.searchsorted(edges, column, "right")
            places[:, feature] = np.where(np.isnan(column), 0, place)
        return places


def shares(places: PlaceArray, weights: FloatArray) -> FloatArray:
    """Weight that stands at or below each level, float64[F, LEVELS].

    Args:
        places: int64[n, F].
        weights: float64[n], of the rows; they add up to 1.
    """
    features = places.shape[1]
    at = places + LEVELS * np.arange(features)
    counts = np.bincount(at.ravel(), np.repeat(weights, features), minlength=features * LEVELS)
    return np.asarray(np.cumsum(counts.reshape(features, LEVELS), axis=1))


def distances(window: FloatArray, reference: FloatArray) -> FloatArray:
    """Wasserstein distance of each feature on the scale of ranks, float64[F]: 0 where alike, 1 at most.

    The number that `scipy.stats.wasserstein_distance` gives for places / (LEVELS - 1), of all features at once.

    Args:
        window, reference: float64[F, LEVELS], of `shares`.
    """
    return np.asarray(np.abs(window - reference)[:, :-1].mean(axis=1))


def combined(by_feature: FloatArray) -> float:
    """One number for all features, their root mean square: a few far ones count for more than many near ones."""
    return float(np.sqrt((by_feature**2).mean()))
