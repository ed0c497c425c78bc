"""Batteries without an end of life: imputed labels, and when they are used.  What they bring: benchmarks/models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from features.labels import OBSERVED, BatteryRecord, LabelParams, observed_cycles, remaining_life
from features.targets import TARGETS
from training.censoring import imputed
from training.crossfit import fit_thinned
from training.forests import ForestParams, predict

RUL = TARGETS["rul"]
PARAMS = ForestParams(50, max_depth=None, min_samples_leaf=3, splits="random", censored="impute")


def lives(seed: int, count: int) -> pd.DataFrame:
    """Cells of 200 to 2,000 cycles of life whose resistance rises at a rate that says how long, with noise."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(count):
        life = rng.uniform(200.0, 2000.0)
        age = np.linspace(1.0, life - 1.0, 40)
        rows = pd.DataFrame(np.nan, index=range(len(age)), columns=[*RUL.feature_names])
        rows["cycles"] = age
        rows["resistance_ohm__last"] = age / life + 0.03 * rng.normal(size=len(age))
        rows["resistance_ohm__trend_20_70"] = 1000.0 / life * rng.lognormal(0.0, 0.05, len(age))
        parts.append(rows.assign(battery_id=f"C{seed}-{number:03d}", cycle_index=age, remaining_cycles=life - age))
    return pd.concat(parts, ignore_index=True)


def censored_of(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Records that end at a random point of each life."""
    rng = np.random.default_rng(seed)
    parts = []
    for _, part in rows.groupby("battery_id"):
        end = rng.uniform(0.1, 0.9) * (part["cycle_index"] + part["remaining_cycles"]).iloc[0]
        seen = part[part["cycle_index"] <= end]
        parts.append(seen.assign(**{OBSERVED: end - seen["cycle_index"]}).drop(columns="remaining_cycles"))
    return pd.concat(parts, ignore_index=True)


def test_tuning_parameter_decides_whether_censored_batteries_are_used() -> None:
    few, many, unseen = lives(1, 6), censored_of(lives(11, 20), 1), lives(21, 5)
    dropped = ForestParams(10, splits="random")
    without, with_none, with_many = (
        predict(fit_thinned(few, RUL, params, 1, censored=rows), unseen, RUL)
        for params, rows in ((dropped, many), (replace(dropped, censored="impute"), None), (PARAMS, many))
    )
    np.testing.assert_array_equal(without, with_none)
    assert np.abs(with_many - without).max() > 1.0


def test_imputed_lives_are_longer_than_observed_and_end_at_one_age() -> None:
    rows = censored_of(lives(1, 10), 2)
    found = imputed(rows, RUL, lambda newest: np.full(len(newest), 300.0))
    assert (found["remaining_cycles"] >= found[OBSERVED]).all()
    end = (found["remaining_cycles"] + found["cycle_index"]).groupby(found["battery_id"])
    np.testing.assert_allclose(end.max(), end.min())
    last = rows.groupby("battery_id")[OBSERVED].apply(lambda left: max(0.0, (300.0 - left.tail(3)).mean()))
    at_the_end = (found["remaining_cycles"] - found[OBSERVED]).groupby(found["battery_id"]).last()
    np.testing.assert_allclose(at_the_end, last)


def test_prediction_below_what_was_observed_does_not_shorten_a_life() -> None:
    rows = censored_of(lives(1, 4), 2)
    found = imputed(rows, RUL, lambda newest: np.zeros(len(newest)))
    np.testing.assert_array_equal(found["remaining_cycles"], rows[OBSERVED])


def record(**changes: Any) -> BatteryRecord:
    values = {
        "health_cycles": np.array([10.0, 200.0, 300.0]),
        "health": np.array([0.99, 0.9, 0.85]),
        "alarm_cycles": np.empty(0),
        "alarm_levels": np.empty(0),
        "last_cycle": 350.0,
        "watched": True,
        "cycle_index": np.empty(0),
        "cycles": {},
        **changes,
    }
    return BatteryRecord(**values)


def test_censored_until_the_last_measured_health() -> None:
    ages, params = np.array([100.0, 300.0, 340.0]), LabelParams(eol_fraction=0.8)
    np.testing.assert_array_equal(observed_cycles(ages, record(), params), [200.0, 0.0, np.nan])
    worn = record(health=np.array([0.99, 0.9, 0.79]))
    assert np.isnan(observed_cycles(ages, worn, params)).all()
    assert remaining_life(ages, worn, params)[0] == 200.0
    unknown = record(health_cycles=np.empty(0), health=np.empty(0))
    assert np.isnan(observed_cycles(ages, unknown, params)).all()
