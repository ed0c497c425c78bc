"""Error measures, baselines, the evaluation report and permutation importance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features.targets import TARGETS
from training.baselines import BASELINES, linear_extrapolation
from training.evaluate import add_linear_extrapolation, permutation_importance, report
from training.measures import classification_measures, regression_measures, skill


def test_regression_measures() -> None:
    found = regression_measures(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 6.0]))
    assert found == pytest.approx({"mae": 1.0, "rmse": np.sqrt(3.0), "r2": -3.5})


def test_base_rate_has_zero_brier_skill() -> None:
    actual = np.array([0.0, 0.0, 0.0, 1.0])
    found = classification_measures(actual, np.full(4, 0.25))
    assert found["brier_skill"] == pytest.approx(0.0)
    assert found["auc"] == 0.5
    assert classification_measures(actual, actual)["brier_skill"] == 1.0


def test_skill_is_relative_to_the_best_baseline() -> None:
    assert skill(1.0, {"a": 4.0, "b": 2.0}) == 0.5
    assert skill(3.0, {"a": 4.0, "b": 2.0}) == -0.5


def test_baselines_of_all_targets_exist() -> None:
    for target in TARGETS.values():
        assert set(target.baselines) <= {*BASELINES, "linear_extrapolation"}


def test_linear_fade_is_extrapolated_to_the_end_of_life() -> None:
    cycles = np.arange(1.0, 301.0)
    soh = 1.0 - 0.0005 * cycles
    remaining = linear_extrapolation(pd.Series(["a"] * 300), cycles, soh, 0.8, longest=5000.0)
    assert remaining[10:] == pytest.approx(400.0 - cycles[10:], abs=1e-3)
    flat = linear_extrapolation(pd.Series(["a"] * 300), cycles, np.ones(300), 0.8, longest=5000.0)
    assert (flat == 5000.0).all()


def test_extrapolation_uses_only_earlier_cycles() -> None:
    cycles, rng = np.arange(1.0, 201.0), np.random.default_rng(0)
    soh = 1.0 - 0.0008 * cycles + rng.normal(0, 0.002, 200)
    whole = linear_extrapolation(pd.Series(["a"] * 200), cycles, soh, 0.8, longest=900.0)
    half = linear_extrapolation(pd.Series(["a"] * 100), cycles[:100], soh[:100], 0.8, longest=900.0)
    assert np.array_equal(whole[:100], half)


def test_report_has_every_baseline_and_life_quarter() -> None:
    rng = np.random.default_rng(1)
    actual = rng.uniform(0, 500, 400)
    predictions = pd.DataFrame(
        {
            "battery_id": np.repeat(["a", "b"], 200),
            "cycle_index": np.tile(np.arange(200.0), 2),
            "actual": actual,
            "predicted": actual + rng.normal(0, 5, 400),
            "life_quarter": np.tile(np.repeat([1.0, 2.0, 3.0, 4.0], 50), 2),
            "baseline_mean": actual.mean(),
        }
    )
    soh_predictions = predictions[["battery_id", "cycle_index"]].assign(predicted=1.0)
    entry = report(TARGETS["rul"], add_linear_extrapolation(predictions, soh_predictions, 0.8, longest=600.0))
    assert set(entry["baselines"]) == {"mean", "linear_extrapolation"}
    assert [quarter["quarter"] for quarter in entry["by_life_quarter"]] == [1, 2, 3, 4]
    assert entry["skill"] > 0.9
    assert (entry["n_batteries"], entry["n_rows"]) == (2, 400)


def test_permutation_importance_finds_the_relevant_signal() -> None:
    target = TARGETS["temperature"]
    rng = np.random.default_rng(2)
    table = pd.DataFrame(rng.normal(size=(500, len(target.feature_names))), columns=list(target.feature_names))
    table[target.label] = 3.0 * table["c_rate"]
    found = permutation_importance(lambda frame: 3.0 * frame["c_rate"].to_numpy(), table, target, seed=0)
    assert found["signal"][0] == "c_rate"
    assert (found["increase"][1:] == 0.0).all()
