"""Contributions of features: they add up to the prediction and equal those of scikit-learn's trees."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.base import is_classifier
from sklearn.pipeline import Pipeline

from features.targets import TARGETS
from tests.training.small_models import features_with_missing_values
from tests.training.test_negative_control import table_of
from training.forests import ForestParams, fit, inputs
from training.onnx_export import to_onnx
from training.onnx_runtime import OnnxForest
from training.tree_paths import SAMPLES, TreePaths

PARAMS = {
    "one step": ("rul", ForestParams(n_estimators=10, max_depth=6, min_samples_leaf=3)),
    "two steps": ("rul", ForestParams(n_estimators=6, max_depth=None, max_samples=0.5, splits="random", steps=2)),
    "leaves only": ("rul", ForestParams(n_estimators=3, min_samples_leaf=500)),
    "classifier": ("failure", ForestParams(n_estimators=10, max_depth=6, min_samples_leaf=3)),
    "random splits": ("failure", ForestParams(n_estimators=10, max_depth=6, max_samples=0.5, splits="random")),
}
N_FEATURES = len(TARGETS["rul"].feature_names)


def sampled(model: Pipeline, steps: int) -> tuple[bytes, TreePaths]:
    content = to_onnx(model, N_FEATURES, steps)
    paths = TreePaths.read(content)
    assert paths is not None
    return content, paths


@pytest.fixture(scope="module", params=list(PARAMS))
def fitted(request: pytest.FixtureRequest) -> tuple[Pipeline, ForestParams, bytes, TreePaths]:
    name, params = PARAMS[request.param]
    model = fit(table_of(TARGETS[name], signal=2.0), TARGETS[name], params, seed=3)
    return model, params, *sampled(model, params.steps)


def without_samples(content: bytes) -> bytes:
    """The model file as the converter writes it."""
    model = onnx.load_from_string(content)
    for attribute in (one for node in model.graph.node for one in node.attribute if one.name == SAMPLES):
        attribute.floats[:] = [1.0] * len(attribute.floats)
    return bytes(model.SerializeToString(deterministic=True))


def trees_of(model: Pipeline) -> list[Any]:
    forest = model[-1].calibrated_classifiers_[0].estimator if is_classifier(model) else model[-1]
    return [tree.tree_ for tree in forest.estimators_]


values = hnp.arrays(
    np.float32, (3, N_FEATURES), elements=st.one_of(st.floats(-4, 4, width=32), st.just(np.nan)), fill=st.just(0.25)
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(rows=values)
def test_base_and_contributions_add_up_to_the_prediction(
    fitted: tuple[Pipeline, ForestParams, bytes, TreePaths], rows: np.ndarray
) -> None:
    model, _, content, paths = fitted
    total = paths.base + paths.contributions(rows).sum(axis=1)
    if is_classifier(model):
        total = 1.0 / (1.0 + np.exp(-total))
    np.testing.assert_allclose(total, OnnxForest(content).predict(rows), rtol=2e-6, atol=2e-6)


def test_contributions_equal_the_changes_of_the_node_means_of_scikit_learn(
    fitted: tuple[Pipeline, ForestParams, bytes, TreePaths],
) -> None:
    model, _, _, paths = fitted
    rows = features_with_missing_values(np.random.default_rng(4), 20, N_FEATURES).astype(np.float32)
    x = model[0].transform(rows).astype(np.float32)
    expected = np.zeros(rows.shape)
    trees = trees_of(model)
    for tree in trees:
        value = tree.value[:, 0, -1]
        for i, row in enumerate(x):
            node = 0
            while (feature := tree.feature[node]) >= 0:
                child = (tree.children_left if row[feature] <= tree.threshold[node] else tree.children_right)[node]
                expected[i, feature] += (value[child] - value[node]) / len(trees)
                node = child
    if is_classifier(model):
        expected *= -model[-1].calibrated_classifiers_[0].calibrators[0].a_
    np.testing.assert_allclose(paths.contributions(rows), expected, rtol=1e-4, atol=1e-5)


def test_numbers_of_rows_change_no_prediction_and_no_reproducibility(
    fitted: tuple[Pipeline, ForestParams, bytes, TreePaths],
) -> None:
    model, params, content, _ = fitted
    assert to_onnx(model, N_FEATURES, params.steps) == content
    rows = features_with_missing_values(np.random.default_rng(5), 2000, N_FEATURES).astype(np.float32)
    served, before = OnnxForest(content).run(rows), OnnxForest(without_samples(content)).run(rows)
    np.testing.assert_array_equal(served.value, before.value)
    np.testing.assert_array_equal(served.spread, before.spread)


def test_a_file_without_numbers_of_rows_has_no_contributions(
    fitted: tuple[Pipeline, ForestParams, bytes, TreePaths],
) -> None:
    *_, content, paths = fitted
    assert (TreePaths.read(without_samples(content)) is None) == (paths.depth > 0)


def test_a_row_gets_the_same_bits_in_any_batch(fitted: tuple[Pipeline, ForestParams, bytes, TreePaths]) -> None:
    *_, paths = fitted
    rows = features_with_missing_values(np.random.default_rng(6), 30, N_FEATURES).astype(np.float32)
    alone = np.concatenate([paths.contributions(row[None, :]) for row in rows])
    np.testing.assert_array_equal(alone, paths.contributions(rows))
    assert paths.contributions(rows[:0]).shape == (0, N_FEATURES)


@pytest.mark.parametrize("name", ["rul", "failure"])
def test_a_feature_without_influence_contributes_nothing(name: str) -> None:
    target = TARGETS[name]
    table = table_of(target, signal=2.0)
    constant = target.feature_names[5]
    table[constant] = 1.0
    params = ForestParams(n_estimators=10, max_depth=6)
    _, paths = sampled(fit(table, target, params, seed=3), 1)
    rows = inputs(table, target).astype(np.float32)
    rows[::2, 5] = 100.0
    contributions = paths.contributions(rows)
    assert not contributions[:, 5].any()
    assert contributions[:, 1].any()
