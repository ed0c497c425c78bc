"""A served forest says what the fitted one says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from sklearn.ensemble import RandomForestRegressor
from sklearn.pipeline import Pipeline, make_pipeline

from tests.training.small_models import missing_values, small_classifier, small_regressor
from training.onnx_export import MAX_DIFFERENCE, onnx_difference, to_onnx
from training.onnx_runtime import OnnxForest

N_FEATURES = 12
N_ROWS = 10_000


@pytest.fixture(scope="module", params=["regressor", "classifier"])
def model(request: pytest.FixtureRequest) -> Pipeline:
    features = missing_values(np.random.default_rng(1), 2000, N_FEATURES)
    # Whether a value is missing says something, and remaining lives are large numbers.
    actual = 900.0 + 300.0 * np.nan_to_num(features[:, 0]) + 200.0 * np.isnan(features[:, 1])
    if request.param == "regressor":
        return small_regressor(features, actual)
    return small_classifier(features, (actual > 1000.0).astype(int))


def unseen_rows() -> np.ndarray:
    return missing_values(np.random.default_rng(2), N_ROWS, N_FEATURES)


def test_equals_scikit_learn_on_rows_with_missing_values(model: Pipeline) -> None:
    assert onnx_difference(model, to_onnx(model, N_FEATURES), unseen_rows()) <= 1e-6 < MAX_DIFFERENCE


def test_missing_everything_is_legal(model: Pipeline) -> None:
    rows = np.full((3, N_FEATURES), np.nan)
    assert onnx_difference(model, to_onnx(model, N_FEATURES), rows) <= 1e-6


def test_difference_sees_lost_missing_values() -> None:
    """Negative control: without the sentinel, as skl2onnx converts NaN by itself, the two part."""
    rows = missing_values(np.random.default_rng(1), 2000, N_FEATURES)
    bare = make_pipeline(RandomForestRegressor(10, random_state=0)).fit(rows, np.nan_to_num(rows[:, 0]))
    assert onnx_difference(bare, to_onnx(bare, N_FEATURES), unseen_rows()) > 0.1


def test_inputs_and_outputs_are_the_contract(model: Pipeline) -> None:
    graph = onnx.load_from_string(to_onnx(model, N_FEATURES)).graph
    (features,), (value,) = graph.input, graph.output
    assert (features.name, value.name) == ("features", "value")
    assert features.type.tensor_type.elem_type == value.type.tensor_type.elem_type == TensorProto.FLOAT
    assert [d.dim_value for d in features.type.tensor_type.shape.dim] == [0, N_FEATURES]
    assert [d.dim_value for d in value.type.tensor_type.shape.dim] == [0, 1]


def test_no_initializer_is_left_over(model: Pipeline) -> None:
    graph = onnx.load_from_string(to_onnx(model, N_FEATURES)).graph
    used = {name for node in graph.node for name in node.input}
    assert {item.name for item in graph.initializer} <= used


def test_one_row_equals_a_batch(model: Pipeline) -> None:
    forest = OnnxForest(to_onnx(model, N_FEATURES))
    rows = unseen_rows()[:20].astype(np.float32)
    one_by_one = np.concatenate([forest.predict(row[None, :]) for row in rows])
    np.testing.assert_allclose(one_by_one, forest.predict(rows), rtol=1e-6)
