"""ONNX export and merge: predictions equal to scikit-learn's and independent of batch and merging."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from sklearn.base import is_classifier
from sklearn.ensemble import RandomForestRegressor
from sklearn.pipeline import Pipeline, make_pipeline

from tests.training.small_models import features_with_missing_values, small_classifier, small_regressor
from training.onnx_export import MAX_DIFFERENCE, onnx_difference, to_onnx
from training.onnx_runtime import ForestFile, OnnxForest, OnnxForests

N_FEATURES = 12
N_ROWS = 10_000


@pytest.fixture(scope="module", params=["regressor", "classifier"])
def model(request: pytest.FixtureRequest) -> Pipeline:
    features = features_with_missing_values(np.random.default_rng(1), 2000, N_FEATURES)
    # Missing values are informative, and the actual values are large, as remaining cycles are.
    actual = 900.0 + 300.0 * np.nan_to_num(features[:, 0]) + 200.0 * np.isnan(features[:, 1])
    if request.param == "regressor":
        return small_regressor(features, actual)
    return small_classifier(features, (actual > 1000.0).astype(int))


def unseen_rows() -> np.ndarray:
    return features_with_missing_values(np.random.default_rng(2), N_ROWS, N_FEATURES)


def test_predictions_equal_scikit_learn_with_missing_values(model: Pipeline) -> None:
    assert onnx_difference(model, to_onnx(model, N_FEATURES), unseen_rows()) <= 1e-6 < MAX_DIFFERENCE


def test_rows_without_any_value_are_valid(model: Pipeline) -> None:
    rows = np.full((3, N_FEATURES), np.nan)
    assert onnx_difference(model, to_onnx(model, N_FEATURES), rows) <= 1e-6


def test_onnx_difference_detects_wrong_routing_of_missing_values() -> None:
    """Negative control: without the sentinel the ONNX conversion loses the routing of NaN."""
    rows = features_with_missing_values(np.random.default_rng(1), 2000, N_FEATURES)
    bare = make_pipeline(RandomForestRegressor(10, random_state=0)).fit(rows, np.nan_to_num(rows[:, 0]))
    assert onnx_difference(bare, to_onnx(bare, N_FEATURES), unseen_rows()) > 0.1


def test_graph_inputs_and_outputs(model: Pipeline) -> None:
    graph = onnx.load_from_string(to_onnx(model, N_FEATURES)).graph
    (features,) = graph.input
    assert features.name == "features"
    assert [output.name for output in graph.output] == (["value"] if is_classifier(model) else ["value", "spread"])
    assert {one.type.tensor_type.elem_type for one in (features, *graph.output)} == {TensorProto.FLOAT}
    assert [d.dim_value for d in features.type.tensor_type.shape.dim] == [0, N_FEATURES]
    assert [[d.dim_value for d in one.type.tensor_type.shape.dim] for one in graph.output] == [[0, 1]] * len(
        graph.output
    )


def test_graph_has_no_unused_initializer(model: Pipeline) -> None:
    graph = onnx.load_from_string(to_onnx(model, N_FEATURES)).graph
    used = {name for node in graph.node for name in node.input}
    assert {item.name for item in graph.initializer} <= used


def test_single_rows_equal_a_batch(model: Pipeline) -> None:
    forest = OnnxForest(to_onnx(model, N_FEATURES))
    rows = unseen_rows()[:20].astype(np.float32)
    one_by_one = np.concatenate([forest.predict(row[None, :]) for row in rows])
    np.testing.assert_array_equal(one_by_one, forest.predict(rows))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ForestFile]:
    """Three forests on two tables: all columns of the first, some of its columns reordered, all of the second."""
    folder = tmp_path_factory.mktemp("forests")
    rng = np.random.default_rng(3)
    features = features_with_missing_values(rng, 2000, N_FEATURES)
    actual = np.nan_to_num(features[:, 0]) + np.isnan(features[:, 1])
    columns_of = {"all": tuple(range(N_FEATURES)), "some": (4, 0, 1), "other": tuple(range(N_FEATURES))}
    for name, columns in columns_of.items():
        rows = features[:, list(columns)]
        classes = (actual > 0.5).astype(int)
        fitted = small_classifier(rows, classes) if name == "other" else small_regressor(rows, actual)
        (folder / f"{name}.onnx").write_bytes(to_onnx(fitted, len(columns)))
    return {
        name: ForestFile(folder / f"{name}.onnx", "second" if name == "other" else "first", columns)
        for name, columns in columns_of.items()
    }


@pytest.mark.parametrize("n_rows", [1, 7, 100, 3000])
def test_forests_of_common_tables_give_the_bits_of_each_forest(files: dict[str, ForestFile], n_rows: int) -> None:
    rng = np.random.default_rng(n_rows)
    tables = {
        name: features_with_missing_values(rng, n_rows, N_FEATURES).astype(np.float32) for name in ("first", "second")
    }
    together = OnnxForests(files).predict(tables)
    assert together.keys() == files.keys()
    for name, file in files.items():
        alone = OnnxForest(file.path).predict(tables[file.table][:, list(file.columns)])
        np.testing.assert_array_equal(together[name].value, alone)


def test_no_forests_give_no_predictions() -> None:
    assert OnnxForests({}).predict({}) == {}
