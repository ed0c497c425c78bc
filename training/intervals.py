"""Prediction intervals: the spread of a forest, scaled by conformal calibration with the battery as the unit.

The score of a held-out row is its absolute error as a multiple of the forest's spread.  The half-width of an interval
is the spread times a quantile of these scores, in which each battery has the same weight, whatever its number of rows,
and one more battery, whose rows are predicted, counts as infinitely wrong.
The rows of a new battery of the same kind are then covered with the nominal probability (Lee, Barber and Willett 2023,
"Distribution-free inference with hierarchical data"; Dunn, Wasserman and Ramdas 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from features.state import FloatArray
from telemetry.errors import TwinError
from telemetry.parameters import Parameters

_FLOOR = 0.5


class IntervalParams(Parameters):
    """`intervals` in params.yaml.

    Attributes:
        coverage: nominal probability that the actual value lies in the interval.
    """

    section: ClassVar[str] = "intervals"

    coverage: float = Field(0.9, gt=0.0, lt=1.0)


class TooFewBatteriesError(TwinError):
    """Raised where no interval of finite width has the nominal coverage."""


@dataclass(frozen=True)
class Calibration:
    """Result of a calibration, stored with the model.

    Attributes:
        coverage: nominal probability.
        n_batteries: held-out batteries whose scores were used.
        factor: half-width of an interval as a multiple of the spread plus `floor`.
        floor: in the target's unit; added to the spread, which may be 0 where the training rows of a leaf are alike.
    """

    coverage: float
    n_batteries: int
    factor: float
    floor: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `fit.json`."""
        return asdict(self)

    @classmethod
    def of(cls, fit: Mapping[str, Any]) -> Calibration | None:
        """The calibration in a model's `fit.json`; None if the model has no intervals."""
        stored = fit.get("interval") or {}
        return cls(**stored) if "factor" in stored else None

    def bounds(self, values: FloatArray, spread: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Lower and upper end of the interval of each prediction, float64[n], in the target's unit."""
        half = self.factor * (spread + self.floor)
        return values - half, values + half


def min_batteries(coverage: float) -> int:
    """Smallest number of held-out batteries with which an interval of finite width has this coverage."""
    return math.ceil(coverage / (1.0 - coverage) - 1e-9)


def calibrate(
    battery_ids: NDArray[Any] | pd.Series, errors: FloatArray, spread: FloatArray, coverage: float
) -> Calibration:
    """Calibrate on held-out rows.

    Args:
        battery_ids: [n], battery of each row.
        errors: float64[n], actual minus predicted value.
        spread: float64[n], of the forest that predicted each row.

    Raises:
        TooFewBatteriesError: for the number of batteries.
    """
    n_batteries = len(np.unique(np.asarray(battery_ids, dtype=str)))
    if n_batteries < min_batteries(coverage):
        raise TooFewBatteriesError(
            f"no prediction intervals: {n_batteries} held-out batteries, at least {min_batteries(coverage)} are needed "
            f"for a coverage of {coverage:.0%}",
            field="intervals.coverage",
            value=coverage,
        )
    # Half the mean error: without it, rows whose leaves happen to be alike decide on the width of all.
    floor = _FLOOR * float(np.abs(errors).mean())
    scores = np.abs(errors) / np.maximum(spread + floor, np.finfo(float).tiny)
    # A little more, so that the row whose score it is lies inside in spite of rounding.
    factor = weighted_quantile(battery_ids, scores, coverage) * (1.0 + 1e-12)
    return Calibration(coverage, n_batteries, factor, floor)


def weighted_quantile(battery_ids: NDArray[Any] | pd.Series, scores: FloatArray, share: float) -> float:
    """Smallest score that a row of a new battery does not exceed with the probability `share`.

    Every battery has the same weight, and one more counts as infinite; the largest score where that is the result.

    Args:
        battery_ids: [n], battery of each row.
        scores: float64[n], of held-out rows.
    """
    _, battery, rows = np.unique(np.asarray(battery_ids, dtype=str), return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum((1.0 / (rows * (len(rows) + 1.0)))[battery[order]])
    # Rounding of the sum must not ask for one row more than there is.
    return float(scores[order[min(int(np.searchsorted(reached, share - 1e-12)), len(order) - 1)]])


def out_of_fold_bounds(held_out: pd.DataFrame, coverage: float) -> tuple[FloatArray, FloatArray]:
    """Intervals of out-of-fold predictions, each fold's calibrated on the batteries of the others.

    Args:
        held_out: `battery_id`, `fold`, `actual`, `predicted` and `spread`.

    Returns:
        Lower and upper ends, float64[n]; NaN where the other folds have too few batteries.
    """
    lower, upper = np.full((2, len(held_out)), np.nan)
    for fold in held_out["fold"].unique():
        rows = (held_out["fold"] == fold).to_numpy()
        try:
            calibration = calibrate_held_out(held_out[~rows], coverage)
        except TooFewBatteriesError:
            continue
        of_fold = held_out[rows]
        lower[rows], upper[rows] = calibration.bounds(of_fold["predicted"].to_numpy(), of_fold["spread"].to_numpy())
    return lower, upper


def calibrate_held_out(held_out: pd.DataFrame, coverage: float) -> Calibration:
    """`calibrate` on out-of-fold predictions, see `out_of_fold_bounds`."""
    errors = (held_out["actual"] - held_out["predicted"]).to_numpy(dtype=float)
    return calibrate(held_out["battery_id"], errors, held_out["spread"].to_numpy(dtype=float), coverage)


def interval_measures(
    actual: FloatArray, lower: FloatArray, upper: FloatArray, battery_ids: NDArray[Any] | pd.Series, coverage: float
) -> dict[str, Any]:
    """`nominal`, `coverage` of the rows, `coverage_by_battery` (mean over batteries) and `width_mean`."""
    covered = (actual >= lower) & (actual <= upper)
    by_battery = pd.Series(covered).groupby(np.asarray(battery_ids, dtype=str)).mean()
    return {
        "nominal": coverage,
        "coverage": float(covered.mean()),
        "coverage_by_battery": float(by_battery.mean()),
        "width_mean": float((upper - lower).mean()),
    }
