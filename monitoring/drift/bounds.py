"""How far a window may lie from the reference: hardly farther than windows of the reference itself.  Pure.

Rows of one battery resemble each other and so do rows of one season, so what chance does cannot be told from a number
of rows.  It is found by drawing windows from the reference as they will come: some batteries, at one and the same time,
a few rows of each; and by measuring them against the other batteries, since those of a live window are others too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from features.state import FloatArray
from features.state_update import BoolArray, IntArray
from monitoring.drift.distances import RankScale, combined, distances, shares
from monitoring.drift.drift_params import DriftParams
from monitoring.drift.drift_store import DriftKind
from monitoring.drift.training_reference import Reference

#: Windows drawn for each of the `false_alarms` that are allowed.
_SAMPLES_PER_FALSE_ALARM = 5
_MAX_SAMPLES = 2_000
#: FeatureSnapshots tried until enough batteries have a record at one.
_MAX_ATTEMPTS = 20
_SEED = 7
_REPORTED_FEATURES = 5


@dataclass(frozen=True)
class WindowDistance:
    """A window against the reference.

    Attributes:
        score: its distance.
        threshold: what at most `false_alarms` of the reference's own windows exceed.
        moved: by feature, the distance of those that moved most; empty where there is one value only.
    """

    score: float
    threshold: float
    moved: Mapping[str, float]


class _DistanceMeasure(Protocol):
    """One kind of distance."""

    def of(self, values: FloatArray, weights: FloatArray) -> FloatArray:
        """Distance of a window from the reference, by feature: `values` float64[n, F], `weights` add up to 1."""
        ...

    def of_drawn(self, rows: IntArray, weights: FloatArray, batteries: IntArray) -> FloatArray:
        """The same of rows of the reference, measured against all but their `batteries`."""
        ...


class _RankDistance(_DistanceMeasure):
    """Where values lie; every battery counts the same."""

    def __init__(self, values: FloatArray, battery: IntArray) -> None:
        self._scale = RankScale(values)
        self._places = self._scale.places(values)
        owns = [np.flatnonzero(battery == number) for number in range(battery.max() + 1)]
        self._of_battery = np.array([shares(self._places[own], np.full(len(own), 1 / len(own))) for own in owns])
        self._sum = self._of_battery.sum(axis=0)

    def of(self, values: FloatArray, weights: FloatArray) -> FloatArray:
        return distances(shares(self._scale.places(values), weights), self._sum / len(self._of_battery))

    def of_drawn(self, rows: IntArray, weights: FloatArray, batteries: IntArray) -> FloatArray:
        others = (self._sum - self._of_battery[batteries].sum(axis=0)) / (len(self._of_battery) - len(batteries))
        return distances(shares(self._places[rows], weights), others)


class _ErrorRatio(_DistanceMeasure):
    """How large errors are, as a multiple of the reference's: smaller ones are no reason to worry."""

    def __init__(self, error: FloatArray, battery: IntArray) -> None:
        self._size = np.abs(error)
        self._of_battery = np.bincount(battery, self._size) / np.bincount(battery)
        self._sum = self._of_battery.sum()

    def of(self, values: FloatArray, weights: FloatArray) -> FloatArray:
        return _ratio(float(np.abs(values[:, 0]) @ weights), self._sum / len(self._of_battery))

    def of_drawn(self, rows: IntArray, weights: FloatArray, batteries: IntArray) -> FloatArray:
        others = (self._sum - self._of_battery[batteries].sum()) / (len(self._of_battery) - len(batteries))
        return _ratio(float(self._size[rows] @ weights), others)


def _ratio(size: float, reference: float) -> FloatArray:
    return np.array([size / max(reference, np.finfo(np.float64).tiny)])


class Bounds:
    """Measures windows of one model against its reference.

    Args:
        reference: with at least 2 x `params.min_batteries` batteries, see `too_small`.

    Attributes:
        names: of the features that are measured.  One that never varied in training is in no split of the forest, so
            that whatever it does now cannot move a prediction.
    """

    def __init__(self, reference: Reference, params: DriftParams) -> None:
        varies = _varies(reference.features)
        varies |= not varies.any()
        self.names = tuple(name for name, one in zip(reference.names, varies, strict=True) if one)
        self._params = params
        self._measures: dict[DriftKind, _DistanceMeasure] = {
            "features": _RankDistance(reference.features[:, varies], reference.battery),
            "predictions": _RankDistance(reference.predicted[:, np.newaxis], reference.battery),
            "errors": _ErrorRatio(reference.error, reference.battery),
        }
        self._records = _records(reference, params)
        self._drawn: dict[tuple[DriftKind, int], tuple[float, FloatArray]] = {}

    def measure(self, kind: DriftKind, battery: IntArray, values: FloatArray) -> WindowDistance:
        """A window against the reference.

        Args:
            battery: int64[n], number of each row's battery, from 0, none left out.
            values: float64[n, F], in the order of `names`; float64[n, 1] for predictions and errors.
        """
        counts = np.bincount(battery)
        by_feature = self._measures[kind].of(values, 1.0 / (len(counts) * counts[battery]))
        threshold, usual = self._bounds(kind, len(counts))
        moved = {}
        if len(by_feature) > 1:
            most = np.argsort(usual - by_feature, kind="stable")[:_REPORTED_FEATURES]
            moved = {self.names[feature]: round(float(by_feature[feature]), 4) for feature in most}
        return WindowDistance(combined(by_feature), threshold, moved)

    def _bounds(self, kind: DriftKind, batteries: int) -> tuple[float, FloatArray]:
        """Threshold for windows of so many batteries, and the mean distance of each feature in drawn windows."""
        count = min(batteries, len(self._records) // 2)
        if (kind, count) not in self._drawn:
            rng = np.random.default_rng(_SEED)
            number = min(int(np.ceil(_SAMPLES_PER_FALSE_ALARM / self._params.false_alarms)), _MAX_SAMPLES)
            found = []
            for _ in range(number):
                chosen, pieces = _draw(self._records, count, self._params.min_batteries, rng)
                sizes = np.array([len(piece) for piece in pieces])
                weights = np.repeat(1.0 / (len(pieces) * sizes), sizes)
                found.append(self._measures[kind].of_drawn(np.concatenate(pieces), weights, chosen))
            scores = [combined(one) for one in found]
            threshold = float(np.quantile(scores, 1.0 - self._params.false_alarms, method="higher"))
            self._drawn[kind, count] = threshold, np.mean(found, axis=0)
        return self._drawn[kind, count]


def _varies(values: FloatArray) -> BoolArray:
    """Which columns of float64[n, F] hold more than one value, missing being one."""
    first = values[:1]
    return np.asarray(((values != first) & ~(np.isnan(values) & np.isnan(first))).any(axis=0))


def too_small(reference: Reference, params: DriftParams) -> str | None:
    """Why windows cannot be measured against `reference`; None where they can."""
    needed = 2 * params.min_batteries
    if reference.batteries >= needed:
        return None
    return f"the training reference holds {reference.batteries} batteries, at least {needed} are needed"


@dataclass(frozen=True)
class _Record:
    """One battery's rows of the reference in pieces as long as a window.

    Attributes:
        moments: float64[k], when each piece was; as a share of the record where the reference knows no times.
        rows: of each piece, thinned.
    """

    moments: FloatArray
    rows: list[IntArray]


def _records(reference: Reference, params: DriftParams) -> list[_Record]:
    records = []
    is_timed = not np.isnan(reference.time_s).any()
    for number in range(reference.batteries):
        own = np.flatnonzero(reference.battery == number)
        if is_timed:
            piece = np.floor(reference.time_s[own] / params.window_s)
        else:
            piece = np.floor(np.arange(len(own)) / params.rows_per_battery)
        begins = np.flatnonzero(np.diff(piece, prepend=-np.inf))
        rows = [thinned(part, params.rows_per_battery) for part in np.split(own, begins[1:])]
        records.append(_Record(piece[begins] if is_timed else np.linspace(0.0, 1.0, len(rows)), rows))
    return records


def thinned(rows: IntArray, count: int) -> IntArray:
    """At most `count` of `rows`, evenly spread."""
    if len(rows) <= count:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)])


def _draw(records: list[_Record], count: int, least: int, rng: np.random.Generator) -> tuple[IntArray, list[IntArray]]:
    """Batteries of a drawn window and the rows of each: at one time, as far as enough of them were there then."""
    everybody = np.arange(len(records))
    for _ in range(_MAX_ATTEMPTS):
        anchor = records[rng.integers(len(records))].moments
        moment = anchor[rng.integers(len(anchor))]
        there = everybody[[bool(one.moments[0] <= moment <= one.moments[-1]) for one in records]]
        if len(there) >= least:
            chosen = rng.choice(there, min(count, len(there)), replace=False)
            near = [int(np.abs(records[one].moments - moment).argmin()) for one in chosen]
            return chosen, [records[one].rows[piece] for one, piece in zip(chosen, near, strict=True)]
    chosen = rng.choice(everybody, count, replace=False)
    return chosen, [records[one].rows[rng.integers(len(records[one].rows))] for one in chosen]
