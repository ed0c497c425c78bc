"""Names the features that contribute most to a prediction, at most one for each signal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from features.state import FloatArray
from features.targets import signal_of

#: Most reasons of one prediction.
MAX_REASONS = 3


class Reason(NamedTuple):
    """Contribution of one signal to a prediction.

    Attributes:
        signal: e.g. `resistance_ohm`; a feature that is no statistic of a signal is its own.
        feature: the statistic of the signal that contributes most in the direction of `contribution`.
        value: of the feature; None if it is missing.
        contribution: sum over all statistics of the signal: they are correlated, and trees use one for another.
    """

    signal: str
    feature: str
    value: float | None
    contribution: float


def strongest(contributions: FloatArray, features: FloatArray, names: Sequence[str]) -> list[list[Reason]]:
    """The signals that contribute most to each of n rows, strongest first, none without a contribution.

    Args:
        contributions: float64[n, F], see `training.tree_paths.TreePaths.contributions`.
        features: float64[n, F], NaN where missing.
        names: of the F features.
    """
    position: dict[str, int] = {}
    signal = np.array([position.setdefault(signal_of(name), len(position)) for name in names], dtype=np.int64)
    signals = list(position)
    n = len(contributions)
    cells = (np.arange(n)[:, None] * len(signals) + signal).ravel()
    totals = np.bincount(cells, contributions.ravel(), minlength=n * len(signals)).reshape(n, -1)
    order = np.argsort(-np.abs(totals), axis=1, kind="stable")[:, :MAX_REASONS]
    return [
        [_reason(signals[k], np.flatnonzero(signal == k), totals[i, k], contributions[i], features[i], names)
         for k in order[i].tolist() if totals[i, k] != 0.0]
        for i in range(n)
    ]  # fmt: skip


def _reason(
    signal: str,
    columns: np.ndarray,
    total: float,
    contributions: FloatArray,
    features: FloatArray,
    names: Sequence[str],
) -> Reason:
    column = int(columns[np.argmax(math.copysign(1.0, total) * contributions[columns])])
    value = float(features[column])
    return Reason(signal, names[column], None if math.isnan(value) else value, float(total))
