"""Baseline predictions that a model has to beat: mean, persistence, cycle count and linear extrapolation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor

from features.state import FloatArray
from features.targets import Target

Baseline = Callable[[pd.DataFrame, pd.DataFrame, Target], FloatArray]


def mean(train: pd.DataFrame, rows: pd.DataFrame, target: Target) -> FloatArray:
    """The mean of the labels (for a probability: the base rate)."""
    return np.full(len(rows), float(train[target.label].mean()))


def persistence(train: pd.DataFrame, rows: pd.DataFrame, target: Target) -> FloatArray:
    """The present value (`target.offset`), unchanged."""
    if target.offset is None:
        raise ValueError(f"{target.name} has no offset, so it has no persistence baseline")
    return rows[target.offset].to_numpy(dtype=float)


def cycle_count(train: pd.DataFrame, rows: pd.DataFrame, target: Target) -> FloatArray:
    """A forest on the age in cycles alone."""
    leaf = max(5, min(50, len(train) // 50))
    forest = RandomForestRegressor(50, min_samples_leaf=leaf, random_state=0, n_jobs=-1)
    forest.fit(train[["cycles"]].to_numpy(), train[target.label].to_numpy(dtype=float))
    forest.n_jobs = 1
    return np.asarray(forest.predict(rows[["cycles"]].to_numpy()), dtype=float)


#: Baselines that need only labels and features; `linear_extrapolation` also needs estimates of the state of health.
BASELINES: dict[str, Baseline] = {
    "mean": mean,
    "base_rate": mean,
    "persistence": persistence,
    "cycle_count": cycle_count,
}

LINEAR_EXTRAPOLATION = "linear_extrapolation"
_SLOPE_HALF_LIFE_CYCLES = 100.0


def linear_extrapolation(
    battery_id: pd.Series, cycles: FloatArray, soh_estimate: FloatArray, eol_fraction: float, longest: float
) -> FloatArray:
    """Remaining cycles by linear extrapolation of the estimated state of health.

    The line is a least-squares fit over the battery's history, weighted with a half-life of 100 cycles.

    Args:
        battery_id: [n], rows of a battery in order of age.
        cycles: float64[n].
        soh_estimate: float64[n], predicted (never measured) state of health, a fraction; NaN where there is none.
        eol_fraction: state of health at the end of life.
        longest: upper limit, also returned where the line does not fall.
    """
    remaining = np.full(len(cycles), longest)
    position = np.arange(len(cycles))
    for rows in (position[battery_id.to_numpy() == name] for name in battery_id.unique()):
        weight = sx = sy = sxx = sxy = 0.0
        before = cycles[rows[0]] if len(rows) else 0.0
        for row in rows:
            x, y = cycles[row], soh_estimate[row]
            keep = 2.0 ** (-(x - before) / _SLOPE_HALF_LIFE_CYCLES)
            before = x
            weight, sx, sy, sxx, sxy = (keep * total for total in (weight, sx, sy, sxx, sxy))
            if np.isfinite(y):
                weight, sx, sy, sxx, sxy = weight + 1.0, sx + x, sy + y, sxx + x * x, sxy + x * y
            spread = weight * sxx - sx * sx
            if weight > 2.0 and spread > 1e-9:
                slope = (weight * sxy - sx * sy) / spread
                now = (sy - slope * sx) / weight + slope * x
                if slope < 0.0:
                    remaining[row] = np.clip((eol_fraction - now) / slope, 0.0, longest)
    return remaining
