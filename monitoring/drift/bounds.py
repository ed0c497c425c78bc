"""Drift thresholds, bootstrapped from windows of the training reference itself.  Pure.

Rows of one battery are correlated and so are rows of one season, so the null distribution does not follow from the
number of rows.  It is sampled: windows are drawn from the reference in the form of live ones (some batteries, at the
same time, a few rows of each) and measured against the other batteries, since those of a live window are others too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from features.state import FloatArray
from features.state_update import BoolArray, IntArray
from monitoring.drift.distances import RankScale, combined, cumulative_shares, distances
from monitoring.drift.drift_params import DriftParams
from monitoring.drift.drift_store import DriftKind
from monitoring.drift.training_reference import Reference

#: Sampled windows are this many divided by `false_alarms`.
_SAMPLES_PER_FALSE_ALARM = 5
_MAX_SAMPLES = 2_000
#: Times tried until enough batteries have data at one.
_MAX_ATTEMPTS = 20
_SEED = 7
_REPORTED_FEATURES = 5


@dataclass(frozen=True)
class WindowDistance:
    """Distance of a window from the reference.

    Attributes:
        score: the distance.
        threshold: distance that a share `false_alarms` of the reference's own windows exceeds.
        moved: distance by feature of those that moved most; empty for a single column.
    """

    score: float
    threshold: float
    moved: Mapping[str, float]


class _DistanceMeasure(Protocol):
    """A distance between a window and the reference."""

    def of_window(self, values: FloatArray, weights: FloatArray) -> FloatArray:
        """Distance of a window by feature: `values` float64[n, F], `weights` add up to 1."""
        ...

    def of_sample(self, rows: IntArray, weights: FloatArray, batteries: IntArray) -> FloatArray:
        """Distance of rows of the reference from the reference without their `batteries`."""
        ...


class _RankDistance(_DistanceMeasure):
    """Wasserstein distance on the rank scale; every battery has the same weight."""

    def __init__(self, values: FloatArray, battery: IntArray) -> None:
        self._scale = RankScale(values)
        self._levels = self._scale.levels(values)
        rows_of = [np.flatnonzero(battery == number) for number in range(battery.max() + 1)]
        self._of_battery = np.array(
            [cumulative_shares(self._levels[rows], np.full(len(rows), 1 / len(rows))) for rows in rows_of]
        )
        self._sum = self._of_battery.sum(axis=0)

    def of_window(self, values: FloatArray, weights: FloatArray) -> FloatArray:
        return distances(cumulative_shares(self._scale.levels(values), weights), self._sum / len(self._of_battery))

    def of_sample(self, rows: IntArray, weights: FloatArray, batteries: IntArray) -> FloatArray:
        others = (self._sum - self._of_battery[batteries].sum(axis=0)) / (len(self._of_battery) - len(batteries))
        return distances(cumulative_shares(self._levels[rows], weights), others)


class _ErrorRatio(_DistanceMeasure):
    """Mean absolute error as a multiple of the reference's; smaller errors are not drift."""

    def __init__(self, error: FloatArray, battery: IntArray) -> None:
        self._size = np.abs(error)
        self._of_battery = np.bincount(battery, self._size) / np.bincount(battery)
        self._sum = self._of_battery.sum()

    def of_window(self, values: FloatArray, weights: FloatArray) -> FloatArray:
        return _ratio(float(np.abs(values[:, 0]) @ weights), self._sum / len(self._of_battery))

    def of_sample(self, rows: IntArray, weights: FloatArray, batteries: IntArray) -> FloatArray:
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
            it cannot change a prediction.
    """

    def __init__(self, reference: Reference, params: DriftParams) -> None:
        varies = _varies(reference.features)
        varies |= not varies.any()
        self.names = tuple(name for name, is_used in zip(reference.names, varies, strict=True) if is_used)
        self._params = params
        self._measures: dict[DriftKind, _DistanceMeasure] = {
            "features": _RankDistance(reference.features[:, varies], reference.battery),
            "predictions": _RankDistance(reference.predicted[:, np.newaxis], reference.battery),
            "errors": _ErrorRatio(reference.error, reference.battery),
        }
        self._records = _records(reference, params)
        self._sampled: dict[tuple[DriftKind, int], tuple[float, FloatArray]] = {}

    def measure(self, kind: DriftKind, battery: IntArray, values: FloatArray) -> WindowDistance:
        """Measure a window against the reference.

        Args:
            battery: int64[n], index of each row's battery, contiguous from 0.
            values: float64[n, F], in the order of `names`; float64[n, 1] for predictions and errors.
        """
        counts = np.bincount(battery)
        by_feature = self._measures[kind].of_window(values, 1.0 / (len(counts) * counts[battery]))
        threshold, usual = self._bounds(kind, len(counts))
        moved = {}
        if len(by_feature) > 1:
            most = np.argsort(usual - by_feature, kind="stable")[:_REPORTED_FEATURES]
            moved = {self.names[feature]: round(float(by_feature[feature]), 4) for feature in most}
        return WindowDistance(combined(by_feature), threshold, moved)

    def _bounds(self, kind: DriftKind, batteries: int) -> tuple[float, FloatArray]:
        """Threshold for windows of this many batteries, and the mean distance of each feature in sampled windows."""
        count = min(batteries, len(self._records) // 2)
        if (kind, count) not in self._sampled:
            rng = np.random.default_rng(_SEED)
            number = min(int(np.ceil(_SAMPLES_PER_FALSE_ALARM / self._params.false_alarms)), _MAX_SAMPLES)
            sampled = []
            for _ in range(number):
                batteries_drawn, pieces = _sample_window(self._records, count, self._params.min_batteries, rng)
                sizes = np.array([len(piece) for piece in pieces])
                weights = np.repeat(1.0 / (len(pieces) * sizes), sizes)
                sampled.append(self._measures[kind].of_sample(np.concatenate(pieces), weights, batteries_drawn))
            scores = [combined(by_feature) for by_feature in sampled]
            threshold = float(np.quantile(scores, 1.0 - self._params.false_alarms, method="higher"))
            self._sampled[kind, count] = threshold, np.mean(sampled, axis=0)
        return self._sampled[kind, count]


def _varies(values: FloatArray) -> BoolArray:
    """Which columns of float64[n, F] hold more than one value; NaN counts as a value."""
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
    """One battery's rows of the reference, split into pieces as long as a window.

    Attributes:
        times: float64[k], window number of each piece; the relative position where the reference has no times.
        rows: thinned rows of each piece.
    """

    times: FloatArray
    rows: list[IntArray]


def _records(reference: Reference, params: DriftParams) -> list[_Record]:
    records = []
    is_timed = not np.isnan(reference.time_s).any()
    for number in range(reference.batteries):
        battery_rows = np.flatnonzero(reference.battery == number)
        if is_timed:
            piece = np.floor(reference.time_s[battery_rows] / params.window_s)
        else:
            piece = np.floor(np.arange(len(battery_rows)) / params.rows_per_battery)
        starts = np.flatnonzero(np.diff(piece, prepend=-np.inf))
        rows = [thinned(part, params.rows_per_battery) for part in np.split(battery_rows, starts[1:])]
        records.append(_Record(piece[starts] if is_timed else np.linspace(0.0, 1.0, len(rows)), rows))
    return records


def thinned(rows: IntArray, count: int) -> IntArray:
    """At most `count` of `rows`, evenly spaced."""
    if len(rows) <= count:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)])


def _sample_window(
    records: list[_Record], count: int, least: int, rng: np.random.Generator
) -> tuple[IntArray, list[IntArray]]:
    """Batteries of a sampled window and the rows of each: at one time, if at least `least` batteries have data then."""
    all_batteries = np.arange(len(records))
    for _ in range(_MAX_ATTEMPTS):
        times = records[rng.integers(len(records))].times
        time = times[rng.integers(len(times))]
        present = all_batteries[[bool(record.times[0] <= time <= record.times[-1]) for record in records]]
        if len(present) >= least:
            chosen = rng.choice(present, min(count, len(present)), replace=False)
            nearest = [int(np.abs(records[index].times - time).argmin()) for index in chosen]
            return chosen, [records[index].rows[piece] for index, piece in zip(chosen, nearest, strict=True)]
    chosen = rng.choice(all_batteries, count, replace=False)
    return chosen, [records[index].rows[rng.integers(len(records[index].rows))] for index in chosen]
