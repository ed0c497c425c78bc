"""Forests of every kind: sum of two steps, spread, and the same numbers from ONNX; seeded and reproducible."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor
from sklearn.metrics import mean_absolute_error

from features.targets import TARGETS
from training.crossfit import fit_thinned
from training.forest_library import Splits
from training.forests import ForestParams, fit, inputs, predict, spread
from training.onnx_export import onnx_difference, to_onnx
from training.onnx_runtime import OnnxForest
from training.splits import thinned

SOH = TARGETS["soh"]
KINDS = [(splits, steps) for splits in ("best", "random") for steps in (1, 2)]


def made_up(batteries: int, rows: int = 60, seed: int = 0) -> pd.DataFrame:
    """Health that falls with the age and with another signal; noisier the lower the signal, a tenth missing."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(np.nan, index=range(batteries * rows), columns=[*SOH.feature_names])
    age, signal = np.tile(np.linspace(0.0, 1.0, rows), batteries), rng.uniform(0.0, 1.0, batteries * rows)
    noise = np.where(signal < 0.5, 0.03, 0.002) * rng.normal(size=len(age))
    table["cycles"] = 1000.0 * age
    table["resistance_ohm__last"] = np.where(rng.random(len(age)) < 0.1, np.nan, signal)
    return table.assign(
        battery_id=np.repeat([f"B{number:02d}" for number in range(batteries)], rows),
        soh_fraction=1.0 - 0.2 * age * (0.5 + signal) + noise,
    )


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return made_up(20)


@pytest.mark.parametrize(("splits", "steps"), KINDS)
def test_onnx_gives_value_and_spread_of_every_kind(table: pd.DataFrame, splits: Splits, steps: int) -> None:
    params = ForestParams(20, max_depth=None, min_samples_leaf=3, splits=splits, steps=steps)
    model, rows = fit(table, SOH, params, seed=1), made_up(3, seed=5)
    assert type(model[-1]) is (ExtraTreesRegressor if splits == "random" else RandomForestRegressor)
    assert len(model[-1].estimators_) == 20 * steps
    onnx = to_onnx(model, len(SOH.feature_names), steps)
    assert onnx_difference(model, onnx, inputs(rows, SOH)) < 1e-6
    output = OnnxForest(onnx).run(inputs(rows, SOH).astype(np.float32))
    np.testing.assert_allclose(output.value, predict(model, rows, SOH), atol=1e-6)
    assert output.spread is not None
    np.testing.assert_allclose(output.spread, spread(model, rows, SOH, steps), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("splits", ["best", "random"])
def test_calibrated_classifiers_of_both_kinds_are_exported(splits: Splits) -> None:
    failure = TARGETS["failure"]
    table = made_up(12)
    table["fails_within_horizon"] = (table["soh_fraction"] < 0.85).astype(float)
    model = fit(table, failure, ForestParams(20, splits=splits), seed=1)
    onnx = to_onnx(model, len(failure.feature_names))
    assert onnx_difference(model, onnx, inputs(made_up(3, seed=5), failure)) < 1e-6


@pytest.mark.parametrize(("splits", "steps"), KINDS)
def test_fits_are_reproducible(table: pd.DataFrame, splits: Splits, steps: int) -> None:
    params = ForestParams(10, max_depth=6, splits=splits, steps=steps)
    first, second = (predict(fit(table, SOH, params, seed=3), table, SOH) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_two_steps_are_the_first_forest_plus_one_of_its_held_out_errors() -> None:
    table = made_up(12, seed=2)
    one, two = (
        fit(table, SOH, ForestParams(10, max_depth=4, splits="random", steps=steps), seed=3) for steps in (1, 2)
    )
    doubled = two[-1].estimators_
    np.testing.assert_array_equal(doubled[0].tree_.value, 2.0 * one[-1].estimators_[0].tree_.value)
    # The errors of a forest of bounded depth are not zero, and the second forest does not see those on its own rows.
    assert all(np.abs(tree.tree_.value).max() > 0.0 for tree in doubled[10:])


def test_second_step_removes_a_bias_of_the_first_one() -> None:
    """Leaves of many rows shrink predictions towards the mean; without a bias the second step changes little."""
    table, unseen = made_up(20), made_up(10, seed=7)
    actual = unseen["soh_fraction"].to_numpy()
    coarse = [ForestParams(50, None, 1.0, min_samples_leaf=150, splits="random", steps=steps) for steps in (1, 2)]
    one, two = (mean_absolute_error(actual, predict(fit(table, SOH, p, 1), unseen, SOH)) for p in coarse)
    assert two < 0.9 * one


def test_spread_is_larger_where_the_labels_scatter(table: pd.DataFrame) -> None:
    model = fit(table, SOH, ForestParams(50, None, 0.8, min_samples_leaf=5), seed=1)
    rows = made_up(5, seed=9).dropna(subset="resistance_ohm__last")
    is_noisy = (rows["resistance_ohm__last"] < 0.5).to_numpy()
    found = spread(model, rows, SOH, 1)
    assert np.median(found[is_noisy]) > 2.0 * np.median(found[~is_noisy])


def test_single_battery_has_a_second_step_too() -> None:
    model = fit(made_up(1), SOH, ForestParams(10, splits="random", steps=2), seed=1)
    assert len(model[-1].estimators_) == 20


def test_thinning_takes_every_kth_row_and_keeps_both_classes() -> None:
    table = made_up(10).assign(fails_within_horizon=0.0)
    assert len(thinned(table, SOH, None)) == len(thinned(table, SOH, 600)) == 600
    assert thinned(table, SOH, 200).index.tolist() == list(range(0, 600, 3))
    table.loc[[1, 2, 4, 5, 7, 8], "fails_within_horizon"] = 1.0
    assert thinned(table, TARGETS["failure"], 200)["fails_within_horizon"].sum() >= 3
    params = ForestParams(5, max_depth=3)
    whole, part = (fit_thinned(table, SOH, params, 0, rows) for rows in (None, 200))
    assert whole[-1].estimators_[0].tree_.n_node_samples[0] > part[-1].estimators_[0].tree_.n_node_samples[0]
