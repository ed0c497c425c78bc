"""What a model has seen in training, and how far a battery is outside of it.

A forest answers any question with the mean of its nearest leaves, also about a battery of another kind.  The distance
of a row is the weighted share of its features that lie outside the range of the training rows, or are missing although
they never were in training.  Half of the weight of a feature is its importance in the forest, the other half is equal
for all features that the forest can use, so that a signal that does not matter among like batteries counts, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.state import FloatArray
from telemetry.chemistries import CHEMISTRY_NAMES, DEFAULT_CHEMISTRY
from training.intervals import weighted_quantile

#: A range is wider than that of the training rows by this share of its width at either end.
_MARGIN = 0.05
#: At most this share of the rows of a held-out battery of the same kind is out of domain, on average over batteries.
_FALSE_ALARMS = 0.05
#: Smallest distance that is out of domain: single features of small weight do not matter.
_SMALLEST_THRESHOLD = 0.02
#: From this distance on a prediction is withheld.
WITHHOLD = 0.5
#: Nominal capacities within these factors of the smallest and the largest in training are inside.
_CAPACITY_FACTORS = (0.8, 1.25)
_NAMED = 3


@dataclass(frozen=True)
class Domain:
    """Domain of one model.

    Attributes:
        names: F features.
        minimum, maximum: float64[F], limits with the margin; NaN of a feature that was never measured.
        never_missing: bool[F].
        weight: float64[F], sums to 1; 0 of a feature that was never measured.
        threshold: distance above which a row is out of domain.
        chemistries: of the training batteries.
        nominal_capacity_ah: smallest and largest in training; None if no battery has one.
    """

    names: tuple[str, ...]
    minimum: FloatArray
    maximum: FloatArray
    never_missing: NDArray[np.bool_]
    weight: FloatArray
    threshold: float = 1.0
    chemistries: tuple[str, ...] = CHEMISTRY_NAMES
    nominal_capacity_ah: tuple[float, float] | None = None

    @classmethod
    def measured(cls, names: Sequence[str], features: FloatArray, importance: FloatArray) -> Self:
        """Domain of the training rows `features`, float64[n, F], NaN where missing.

        Args:
            importance: float64[F], of each feature in the forest.
        """
        missing = np.isnan(features)
        used = ~missing.all(axis=0)
        minimum, maximum = np.full((2, len(names)), np.nan)
        minimum[used] = np.nanmin(features[:, used], axis=0)
        maximum[used] = np.nanmax(features[:, used], axis=0)
        margin = _MARGIN * (maximum - minimum)
        equal = used / max(int(used.sum()), 1)
        total = float(importance[used].sum())
        weight = (np.where(used, importance, 0.0) / total + equal) / 2.0 if total > 0.0 else equal
        never_missing = np.asarray(~missing.any(axis=0))
        return cls(tuple(names), minimum - margin, maximum + margin, never_missing, np.asarray(weight))

    def outside(self, features: NDArray[Any]) -> NDArray[np.bool_]:
        """Which features of each row, of [n, F], are outside, bool[n, F]; NaN is a missing value."""
        beyond = (features < self.minimum) | (features > self.maximum)
        return np.asarray(beyond | (np.isnan(features) & self.never_missing))

    def distance(self, features: NDArray[Any]) -> FloatArray:
        """Weighted share of the features of each row that are outside, float64[n]; 0 for a row like those in training.

        A row's result does not depend on the other rows.
        """
        return np.asarray((self.outside(features) * self.weight).sum(axis=1))

    def describe(self, row: NDArray[Any]) -> str:
        """How the features of `row`, [F], are outside: their number, and the most important ones."""
        outside = np.flatnonzero(self.outside(row[None, :])[0])
        strongest = outside[np.argsort(-self.weight[outside], kind="stable")][:_NAMED]
        named = [
            f"{self.names[j]} is missing"
            if np.isnan(row[j])
            else f"{self.names[j]} is {row[j]:.4g} ({self.minimum[j]:.4g} to {self.maximum[j]:.4g})"
            for j in strongest
        ]
        more = [f"and {len(outside) - _NAMED} more"] if len(outside) > _NAMED else []
        return f"outside of the training data: {', '.join([*named, *more])}"

    def is_foreign(self, chemistry: NDArray[np.int64], nominal_capacity_ah: FloatArray) -> NDArray[np.bool_]:
        """Whether the properties of each battery are unlike those of all training batteries, bool[n].

        Args:
            chemistry: int64[n], index in `CHEMISTRY_NAMES`, as in a battery's state.
            nominal_capacity_ah: float64[n]; NaN, unknown, is like any.
        """
        known = np.array([name in self.chemistries for name in CHEMISTRY_NAMES])
        foreign = ~known[chemistry]
        if self.nominal_capacity_ah is not None:
            low, high = self._capacity_limits(self.nominal_capacity_ah)
            foreign |= (nominal_capacity_ah < low) | (nominal_capacity_ah > high)
        return np.asarray(foreign)

    def describe_battery(self, chemistry: int, nominal_capacity_ah: float) -> str:
        """How the properties of a battery that `is_foreign` are unlike those of the training batteries."""
        name = CHEMISTRY_NAMES[chemistry]
        if name not in self.chemistries:
            default = ", the default where none is given" if name == DEFAULT_CHEMISTRY else ""
            return f"the model was trained on {' and '.join(self.chemistries)} cells, this battery is {name}{default}"
        low, high = self.nominal_capacity_ah or (np.nan, np.nan)
        trained = f"{low:g} Ah" if low == high else f"{low:g} to {high:g} Ah"
        return f"the model was trained on nominal capacities of {trained}, this battery has {nominal_capacity_ah:g} Ah"

    @staticmethod
    def _capacity_limits(trained: tuple[float, float]) -> tuple[float, float]:
        (low, high), (down, up) = trained, _CAPACITY_FACTORS
        return down * low, up * high

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `fit.json`."""
        return {
            "minimum": self.minimum.tolist(),
            "maximum": self.maximum.tolist(),
            "never_missing": self.never_missing.tolist(),
            "weight": self.weight.tolist(),
            "threshold": self.threshold,
            "chemistries": list(self.chemistries),
            "nominal_capacity_ah": None if self.nominal_capacity_ah is None else list(self.nominal_capacity_ah),
        }

    @classmethod
    def of(cls, fit: Mapping[str, Any]) -> Self | None:
        """The domain in a model's `fit.json`; None if the model has none."""
        stored = fit.get("domain")
        if not stored:
            return None
        capacities = stored["nominal_capacity_ah"]
        return cls(
            tuple(fit["feature_names"]),
            np.array(stored["minimum"], dtype=float),
            np.array(stored["maximum"], dtype=float),
            np.array(stored["never_missing"], dtype=np.bool_),
            np.array(stored["weight"], dtype=float),
            stored["threshold"],
            tuple(stored["chemistries"]),
            None if capacities is None else (capacities[0], capacities[1]),
        )


def threshold(battery_ids: NDArray[Any] | pd.Series, distances: FloatArray) -> float:
    """Distance above which a row is out of domain, from those of held-out batteries.

    Args:
        battery_ids: [n], battery of each row.
        distances: float64[n], of each row from the domain of batteries without its own.
    """
    return max(_SMALLEST_THRESHOLD, weighted_quantile(battery_ids, distances, 1.0 - _FALSE_ALARMS))


def properties_of(batteries: pd.DataFrame, battery_ids: Sequence[str]) -> dict[str, Any]:
    """`chemistries` and `nominal_capacity_ah` of a `Domain` with these training batteries.

    Args:
        batteries: the table `batteries`.
    """
    rows = batteries[batteries["battery_id"].isin(battery_ids)]
    named = rows["chemistry"].dropna().astype(str).str.upper()
    unnamed = len(set(battery_ids)) > len(named)
    known = rows["nominal_capacity_ah"].dropna()
    return {
        "chemistries": tuple(sorted({*named, *([DEFAULT_CHEMISTRY] if unnamed else [])})),
        "nominal_capacity_ah": (float(known.min()), float(known.max())) if len(known) else None,
    }
