"""Drift bounds: windows of other batteries without drift stay inside, shifted ones do not."""

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
    """One battery: time, features and error; rows share a battery effect, a season and a day."""
    time_s = np.repeat(days * DAY_S, 8) + np.tile(np.arange(8) * 600.0, len(days))
    season = np.sin(2 * np.pi * time_s / (365.25 * DAY_S))[:, None] * np.linspace(0, 1, FEATURES)
    battery_effect, day = rng.normal(size=FEATURES), np.repeat(rng.normal(size=(len(days), FEATURES)), 8, axis=0)
    features = battery_effect + season + 0.5 * day + 0.3 * rng.normal(size=(len(time_s), FEATURES)) + shift
    return time_s, features, (1.0 + shift) * np.exp(rng.normal(0, 0.2)) * rng.normal(size=len(time_s))


def reference_of(batteries: int, seed: int = 0) -> Reference:
    rng = np.random.default_rng(seed)
    records = [record(rng, np.arange(0, 730, 10)) for _ in range(batteries)]
    time_s, features, error = (np.concatenate(parts) for parts in zip(*records, strict=True))
    battery = np.repeat(np.arange(batteries), [len(times) for times, _, _ in records])
    return Reference(tuple("abcdef"), battery, time_s, features, features[:, 1], error)


def window(rng: np.random.Generator, batteries: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Batteries outside of any reference on one day: index of each row's battery, features, errors."""
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
def test_false_alarm_rate_is_as_configured_and_a_shift_is_detected(
    bounds: Bounds, kind: DriftKind, batteries: int, power: float
) -> None:
    rng = np.random.default_rng(5)
    rates = {}
    for shift in (0.0, 3.0):
        is_out = []
        for _ in range(100):
            battery, features, error = window(rng, batteries, shift)
            measured = bounds.measure(kind, battery, values_of(kind, features, error))
            is_out.append(measured.score > measured.threshold)
        rates[shift] = np.mean(is_out)
    # The configured rate is 1 of 100; more than 5 has a probability of 1 in 2,000.
    assert rates[0.0] <= 0.05
    assert rates[3.0] >= power


def test_kolmogorov_smirnov_on_rows_reports_false_drift(reference: Reference) -> None:
    """Negative control: a test that assumes independent rows calls most windows without drift drifted."""
    rng = np.random.default_rng(5)
    pooled = reference.features[:, 1]
    alarms = [ks_2samp(window(rng, 8)[1][:, 1], pooled).pvalue < 0.01 for _ in range(40)]
    assert np.mean(alarms) > 0.5


def test_score_does_not_depend_on_row_order(bounds: Bounds) -> None:
    rng = np.random.default_rng(3)
    battery, features, error = window(rng, 5)
    order = rng.permutation(len(battery))
    for kind in ("features", "predictions", "errors"):
        values = values_of(kind, features, error)  # type: ignore[arg-type]
        original = bounds.measure(kind, battery, values)  # type: ignore[arg-type]
        shuffled = bounds.measure(kind, battery[order], values[order])  # type: ignore[arg-type]
        assert shuffled.score == pytest.approx(original.score, abs=1e-12)
        assert shuffled.threshold == original.threshold


def test_smaller_errors_are_not_drift(bounds: Bounds) -> None:
    battery, _, error = window(np.random.default_rng(3), 8)
    assert bounds.measure("errors", battery, 0.01 * error).score < 0.1
    worse = bounds.measure("errors", battery, 3.0 * error)
    assert worse.score > worse.threshold


def test_batteries_have_equal_weight_regardless_of_row_count(bounds: Bounds) -> None:
    battery, features, _ = window(np.random.default_rng(3), 4)
    repeated = np.concatenate([np.arange(len(battery)), np.repeat(np.flatnonzero(battery == 0), 9)])
    assert bounds.measure("features", battery[repeated], features[repeated]).score == pytest.approx(
        bounds.measure("features", battery, features).score
    )


def test_features_that_moved_most_are_reported(bounds: Bounds) -> None:
    battery, features, _ = window(np.random.default_rng(3), 8)
    features[:, 2] += 9.0
    moved = bounds.measure("features", battery, features).moved
    assert next(iter(moved)) == "c"
    assert len(moved) == 5


def test_missing_values_are_measured_like_other_values(reference: Reference) -> None:
    rng = np.random.default_rng(9)
    holes = np.where(rng.random(reference.features.shape) < 0.3, np.nan, reference.features)
    bounds = Bounds(replace(reference, features=holes), PARAMS)
    battery, features, _ = window(rng, 8)
    features[rng.random(features.shape) < 0.3] = np.nan
    same = bounds.measure("features", battery, features)
    assert same.score <= same.threshold
    missing = bounds.measure("features", battery, np.full_like(features, np.nan))
    assert missing.score > missing.threshold


def test_constant_training_features_are_not_measured(reference: Reference) -> None:
    features = reference.features.copy()
    features[:, 1], features[:, 4] = np.nan, 3.0
    assert Bounds(replace(reference, features=features), PARAMS).names == ("a", "c", "d", "f")


def test_fewer_batteries_have_wider_bounds(bounds: Bounds) -> None:
    rng = np.random.default_rng(3)
    thresholds = [bounds.measure("features", *window(rng, batteries)[:2]).threshold for batteries in (3, 6, 12)]
    assert thresholds == sorted(thresholds, reverse=True)


def test_reference_without_times_has_bounds(reference: Reference) -> None:
    timeless = replace(reference, time_s=np.full_like(reference.time_s, np.nan))
    battery, features, _ = window(np.random.default_rng(3), 8)
    same = Bounds(timeless, PARAMS).measure("features", battery, features)
    assert same.score <= same.threshold


def test_reference_with_too_few_batteries_is_refused_with_a_reason() -> None:
    assert too_small(reference_of(5), PARAMS) == ("the training reference holds 5 batteries, at least 6 are needed")
    assert too_small(reference_of(6), PARAMS) is None


def test_thinning_keeps_both_ends() -> None:
    rows = np.arange(100)
    assert thinned(rows, 4).tolist() == [0, 33, 66, 99]
    assert thinned(rows[:3], 4).tolist() == [0, 1, 2]
