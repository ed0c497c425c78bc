"""Bounds come from the reference itself: what chance does to windows of other batteries stays inside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ks_2samp

from monitoring.drift.bounds import Bounds, thinned, too_small
from monitoring.drift.drift_params import DriftParams
from monitoring.drift.drift_store import DriftKind
from monitoring.drift.training_reference import Reference

DAY_S = 86_400.0
PARAMS = DriftParams(false_alarms=0.01)
FEATURES = 6


def record(rng: np.random.Generator, days: np.ndarray, shift: float = 0.0) -> tuple[np.ndarray, ...]:
    """One battery: time, features and error; it has a character, and its rows share a season and a day."""
    time_s = np.repeat(days * DAY_S, 8) + np.tile(np.arange(8) * 600.0, len(days))
    season = np.sin(2 * np.pi * time_s / (365.25 * DAY_S))[:, None] * np.linspace(0, 1, FEATURES)
    character, day = rng.normal(size=FEATURES), np.repeat(rng.normal(size=(len(days), FEATURES)), 8, axis=0)
    features = character + season + 0.5 * day + 0.3 * rng.normal(size=(len(time_s), FEATURES)) + shift
    return time_s, features, (1.0 + shift) * np.exp(rng.normal(0, 0.2)) * rng.normal(size=len(time_s))


def reference_of(batteries: int, seed: int = 0) -> Reference:
    rng = np.random.default_rng(seed)
    records = [record(rng, np.arange(0, 730, 10)) for _ in range(batteries)]
    time_s, features, error = (np.concatenate(parts) for parts in zip(*records, strict=True))
    battery = np.repeat(np.arange(batteries), [len(one[0]) for one in records])
    return Reference(tuple("abcdef"), battery, time_s, features, features[:, 1], error)


def window(rng: np.random.Generator, batteries: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Batteries of nobody's reference on one day: number of each row's battery, features, errors."""
    day = np.array([rng.uniform(0, 730)])
    records = [record(rng, day, shift) for _ in range(batteries)]
    return (
        np.repeat(np.arange(batteries), 8),
        np.concatenate([features for _, features, _ in records]),
        np.concatenate([error for _, _, error in records])[:, None],
    )


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of(24)


@pytest.fixture(scope="module")
def bounds(reference: Reference) -> Bounds:
    return Bounds(reference, PARAMS)


def values_of(kind: DriftKind, features: np.ndarray, error: np.ndarray) -> np.ndarray:
    return {"features": features, "predictions": features[:, 1:2], "errors": error}[kind]


@pytest.mark.parametrize("kind", ["features", "predictions", "errors"])
@pytest.mark.parametrize(("batteries", "power"), [(3, 0.75), (8, 0.95)])
def test_chance_stays_inside_at_the_stated_rate_and_a_shift_does_not(
    bounds: Bounds, kind: DriftKind, batteries: int, power: float
) -> None:
    rng = np.random.default_rng(5)
    rates = {}
    for shift in (0.0, 3.0):
        found = []
        for _ in range(100):
            battery, features, error = window(rng, batteries, shift)
            measured = bounds.measure(kind, battery, values_of(kind, features, error))
            found.append(measured.score > measured.threshold)
        rates[shift] = np.mean(found)
    # 1 of 100 is promised; more than 5 would happen once in 2,000 times.
    assert rates[0.0] <= 0.05
    assert rates[3.0] >= power


def test_rows_taken_for_independent_would_cry_wolf(reference: Reference) -> None:
    """Negative control: a test that counts rows calls nearly every innocent window drift."""
    rng = np.random.default_rng(5)
    pooled = reference.features[:, 1]
    cries = [ks_2samp(window(rng, 8)[1][:, 1], pooled).pvalue < 0.01 for _ in range(40)]
    assert np.mean(cries) > 0.5


def test_the_order_of_rows_does_not_matter(bounds: Bounds) -> None:
    rng = np.random.default_rng(3)
    battery, features, error = window(rng, 5)
    order = rng.permutation(len(battery))
    for kind in ("features", "predictions", "errors"):
        values = values_of(kind, features, error)  # type: ignore[arg-type]
        as_it_came = bounds.measure(kind, battery, values)  # type: ignore[arg-type]
        shuffled = bounds.measure(kind, battery[order], values[order])  # type: ignore[arg-type]
        assert shuffled.score == pytest.approx(as_it_came.score, abs=1e-12)
        assert shuffled.threshold == as_it_came.threshold


def test_smaller_errors_are_no_drift(bounds: Bounds) -> None:
    battery, _, error = window(np.random.default_rng(3), 8)
    assert bounds.measure("errors", battery, 0.01 * error).score < 0.1
    worse = bounds.measure("errors", battery, 3.0 * error)
    assert worse.score > worse.threshold


def test_every_battery_counts_the_same(bounds: Bounds) -> None:
    battery, features, _ = window(np.random.default_rng(3), 4)
    chatty = np.concatenate([np.arange(len(battery)), np.repeat(np.flatnonzero(battery == 0), 9)])
    assert bounds.measure("features", battery[chatty], features[chatty]).score == pytest.approx(
        bounds.measure("features", battery, features).score
    )


def test_the_features_that_moved_most_are_told(bounds: Bounds) -> None:
    battery, features, _ = window(np.random.default_rng(3), 8)
    features[:, 2] += 9.0
    moved = bounds.measure("features", battery, features).moved
    assert next(iter(moved)) == "c"
    assert len(moved) == 5


def test_missing_features_are_a_value_and_spoil_nothing(reference: Reference) -> None:
    rng = np.random.default_rng(9)
    holes = np.where(rng.random(reference.features.shape) < 0.3, np.nan, reference.features)
    bounds = Bounds(replace(reference, features=holes), PARAMS)
    battery, features, _ = window(rng, 8)
    features[rng.random(features.shape) < 0.3] = np.nan
    usual = bounds.measure("features", battery, features)
    assert usual.score <= usual.threshold
    gone = bounds.measure("features", battery, np.full_like(features, np.nan))
    assert gone.score > gone.threshold


def test_what_never_varied_in_training_cannot_move_the_forest_and_is_not_measured(reference: Reference) -> None:
    features = reference.features.copy()
    features[:, 1], features[:, 4] = np.nan, 3.0
    assert Bounds(replace(reference, features=features), PARAMS).names == ("a", "c", "d", "f")


def test_fewer_batteries_have_wider_bounds(bounds: Bounds) -> None:
    rng = np.random.default_rng(3)
    thresholds = [bounds.measure("features", *window(rng, batteries)[:2]).threshold for batteries in (3, 6, 12)]
    assert thresholds == sorted(thresholds, reverse=True)


def test_cycles_without_times_have_bounds_too(reference: Reference) -> None:
    timeless = replace(reference, time_s=np.full_like(reference.time_s, np.nan))
    battery, features, _ = window(np.random.default_rng(3), 8)
    usual = Bounds(timeless, PARAMS).measure("features", battery, features)
    assert usual.score <= usual.threshold


def test_a_reference_of_few_batteries_is_refused_in_words() -> None:
    assert too_small(reference_of(5), PARAMS) == ("the training reference holds 5 batteries, at least 6 are needed")
    assert too_small(reference_of(6), PARAMS) is None


def test_thinning_keeps_both_ends() -> None:
    rows = np.arange(100)
    assert thinned(rows, 4).tolist() == [0, 33, 66, 99]
    assert thinned(rows[:3], 4).tolist() == [0, 1, 2]
