"""Prediction intervals: coverage of new batteries, one vote a battery, and too few batteries."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.intervals import (
    Calibration,
    TooFewBatteriesError,
    calibrate,
    interval_measures,
    min_batteries,
    out_of_fold_bounds,
)


def drawn(rng: np.random.Generator, batteries: int) -> pd.DataFrame:
    """Errors that differ between batteries more than within, with 2 to 40 rows a battery."""
    rows = rng.integers(2, 40, batteries)
    scale = rng.lognormal(0.0, 0.7, batteries)
    battery = np.repeat(np.arange(batteries), rows)
    spread = rng.uniform(0.5, 2.0, len(battery))
    errors = scale[battery] * spread * rng.normal(size=len(battery))
    return pd.DataFrame({"battery_id": [f"B{b}" for b in battery], "error": errors, "spread": spread})


def share_covered(calibration: Calibration, rows: pd.DataFrame) -> float:
    lower, upper = calibration.bounds(np.zeros(len(rows)), rows["spread"].to_numpy())
    covered = rows["error"].between(lower, upper)
    return float(covered.groupby(rows["battery_id"]).mean().mean())


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_new_batteries_are_covered_with_the_nominal_probability(coverage: float) -> None:
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(200):
        known, new = drawn(rng, 20), drawn(rng, 20)
        found = calibrate(known["battery_id"], known["error"].to_numpy(), known["spread"].to_numpy(), coverage)
        shares.append(share_covered(found, new))
    assert np.mean(shares) == pytest.approx(coverage + 0.025, abs=0.03)


def test_quantile_over_rows_does_not_cover_new_batteries() -> None:
    """Negative control: long-lived batteries that are easy to predict outvote the others if rows are the unit."""
    rng = np.random.default_rng(2)
    by_battery, by_row = [], []
    for _ in range(100):
        batteries = np.arange(30)
        hard = rng.random(30) < 0.4
        rows = np.where(hard, 5, 200)
        battery = np.repeat(batteries, rows)
        frame = pd.DataFrame({"battery_id": battery.astype(str), "spread": 1.0})
        frame["error"] = np.where(hard[battery], 5.0, 1.0) * rng.normal(size=len(battery))
        known, new = frame[battery < 20], frame[battery >= 20]
        errors, spread = known["error"].to_numpy(), known["spread"].to_numpy()
        by_battery.append(share_covered(calibrate(known["battery_id"], errors, spread, 0.8), new))
        each_row = calibrate(pd.Series(np.arange(len(known))), errors, spread, 0.8)
        by_row.append(share_covered(each_row, new))
    assert np.mean(by_battery) > 0.78
    assert np.mean(by_row) < 0.72


@given(st.integers(1, 30), st.sampled_from([0.5, 0.8, 0.9, 0.95]), st.integers(0, 1000))
def test_finite_width_needs_enough_batteries(batteries: int, coverage: float, seed: int) -> None:
    rows = drawn(np.random.default_rng(seed), batteries)
    arguments = rows["battery_id"], rows["error"].to_numpy(), rows["spread"].to_numpy(), coverage
    if batteries < min_batteries(coverage):
        with pytest.raises(TooFewBatteriesError, match=f"{batteries} held-out batteries, at least"):
            calibrate(*arguments)
        return
    found = calibrate(*arguments)
    assert found.n_batteries == batteries
    assert np.isfinite(found.factor)
    # At least the nominal share of all batteries and the infinitely wrong one.
    assert share_covered(found, rows) >= coverage * (batteries + 1) / batteries - 1e-9 or batteries < 2
    assert Calibration.of({"interval": found.as_dict()}) == found


@pytest.mark.parametrize(("coverage", "least"), [(0.9, 9), (0.8, 4), (0.95, 19), (0.5, 1)])
def test_minimum_number_of_batteries(coverage: float, least: int) -> None:
    assert min_batteries(coverage) == least


def test_models_without_intervals_have_no_calibration() -> None:
    assert Calibration.of({}) is None
    assert Calibration.of({"interval": None}) is None
    assert Calibration.of({"interval": {"reason": "too few batteries"}}) is None


def test_perfect_forests_have_intervals_of_no_width() -> None:
    ids = pd.Series([f"B{number}" for number in range(10)])
    found = calibrate(ids, np.zeros(10), np.zeros(10), 0.9)
    np.testing.assert_array_equal(found.bounds(np.ones(2), np.zeros(2)), np.ones((2, 2)))


def test_out_of_fold_intervals_do_not_use_the_own_fold() -> None:
    rows = drawn(np.random.default_rng(3), 40)
    held_out = rows.assign(actual=rows["error"], predicted=0.0, fold=rows["battery_id"].str[1:].astype(int) % 5)
    lower, upper = out_of_fold_bounds(held_out, 0.9)
    changed = held_out.assign(actual=np.where(held_out["fold"] == 2, 1e6, held_out["actual"]))
    other_lower, other_upper = out_of_fold_bounds(changed, 0.9)
    own = (held_out["fold"] == 2).to_numpy()
    np.testing.assert_array_equal((lower[own], upper[own]), (other_lower[own], other_upper[own]))
    assert (other_upper[~own] > upper[~own]).all()
    few = held_out[held_out["battery_id"].isin([f"B{number}" for number in range(8)])]
    assert np.isnan(out_of_fold_bounds(few, 0.9)).all()


def test_measures_of_intervals() -> None:
    ids = pd.Series(["A", "A", "A", "B"])
    actual, lower, upper = np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4), np.array([1.0, 2.0, 2.0, 1.0])
    measured = interval_measures(actual, lower, upper, ids, 0.9)
    assert measured == {
        "nominal": 0.9, "coverage": 0.5, "coverage_by_battery": pytest.approx(1 / 3), "width_mean": 1.5
    }  # fmt: skip
