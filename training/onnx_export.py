"""Convert fitted forests to ONNX: predictions equal to scikit-learn's, identical bytes for identical forests.

scikit-learn rounds its inputs to float32 and compares them with float64 thresholds.  ONNX has only
float32 thresholds; skl2onnx rounds each downwards, so that every float32 input takes the same branch.
The remaining difference is the rounding of the sum over the trees, about 1e-7 of the prediction.

A regression forest also gives `spread`, see `training.forests.spread`, from the same pass through its trees.
The nodes hold their numbers of training rows, from which `training.tree_paths` computes contributions of features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, version_converter
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs
from sklearn.base import is_classifier
from sklearn.pipeline import Pipeline

from training.forests import leaf_moments
from training.onnx_runtime import SPREAD, VALUE, OnnxForest
from training.tree_paths import SAMPLES

#: Largest `onnx_difference` with which a model may be registered.
MAX_DIFFERENCE = 1e-5

# Pinned, so that the file does not depend on the newest version that the converter supports.
_OPSET = {"": 17, "ai.onnx.ml": 3}
_IR_VERSION = 8
_FEATURES, _MOMENTS = "features", "moments"


def to_onnx(model: Pipeline, n_features: int, steps: int = 1) -> bytes:
    """Convert a fitted pipeline of imputer and forest.

    Args:
        model: `SimpleImputer` (a constant) and `RandomForestRegressor` or `ExtraTreesRegressor`, or
            `CalibratedClassifierCV(RandomForestClassifier, method="sigmoid", ensemble=False)` (or of the other class)
            of two classes.
        n_features: number of inputs, F.
        steps: of `training.forests.ForestParams`.

    Returns:
        A serialised ONNX model, `features` float32[n, F] (NaN: missing) to `value` float32[n, 1]: the
        prediction, or the probability of class 1; of a regression also to `spread` float32[n, 1].
    """
    inputs = [(_FEATURES, FloatTensorType([None, n_features]))]
    if is_classifier(model):
        converted = convert_sklearn(
            model, "forest", inputs, target_opset=_OPSET, options={id(model): {"zipmap": False}}
        )
        converted = _only_probability_of_class_1(converted)
        (calibrated,) = model[-1].calibrated_classifiers_
        _set_samples(converted.graph, calibrated.estimator)
    else:
        outputs = [(VALUE, FloatTensorType([None, 1]))]
        converted = convert_sklearn(model, "forest", inputs, target_opset=_OPSET, final_types=outputs)
        _add_spread(converted.graph, model[-1], steps)
        _set_samples(converted.graph, model[-1])
    # The converter writes the lowest version that a model needs; all models get the same one.
    converted = version_converter.convert_version(converted, _OPSET[""])
    converted.ir_version = _IR_VERSION
    # The converter lists the operator sets in the order of a Python set, which differs between processes.
    operator_sets = sorted(converted.opset_import, key=lambda entry: entry.domain)
    del converted.opset_import[:]
    converted.opset_import.extend(operator_sets)
    onnx.checker.check_model(converted)
    content: bytes = converted.SerializeToString(deterministic=True)
    return content


def _set_samples(graph: onnx.GraphProto, forest: Any) -> None:
    """Give each node of the trees its number of training rows, as often as the tree has drawn them."""
    (node,) = [node for node in graph.node if node.op_type.startswith("TreeEnsemble")]
    attributes = {attribute.name: attribute for attribute in node.attribute}
    trees = [tree.tree_.weighted_n_node_samples.tolist() for tree in forest.estimators_]
    nodes = zip(attributes["nodes_treeids"].ints, attributes["nodes_nodeids"].ints, strict=True)
    attributes[SAMPLES].floats[:] = [trees[tree][number] for tree, number in nodes]


def _add_spread(graph: onnx.GraphProto, forest: Any, steps: int) -> None:
    """Add the output `spread` to the graph of a regression forest.

    The node of the trees gets two more outputs: the mean of the labels in the leaves of the first forest, and their
    mean square.  Both are about a centre, so that their difference is not lost in single precision.
    """
    (node,) = [node for node in graph.node if node.op_type == "TreeEnsembleRegressor"]
    attributes = {attribute.name: attribute for attribute in node.attribute}
    tree = np.array(attributes["target_treeids"].ints)
    leaf = np.array(attributes["target_nodeids"].ints)
    moments = leaf_moments(forest, steps)
    centre = float(np.mean([value[0] for value, _ in moments]))
    mean, square = np.empty((2, int((tree < len(moments)).sum())))
    first = tree < len(moments)
    for number, (value, variance) in enumerate(moments):
        of_tree, nodes = tree[first] == number, leaf[first & (tree == number)]
        mean[of_tree] = (value[nodes] - centre) / len(moments)
        square[of_tree] = (variance[nodes] + (value[nodes] - centre) ** 2) / len(moments)
    for output, weights in ((1, mean), (2, square)):
        attributes["target_ids"].ints.extend([output] * len(weights))
        attributes["target_nodeids"].ints.extend(leaf[first].tolist())
        attributes["target_treeids"].ints.extend(tree[first].tolist())
        attributes["target_weights"].floats.extend(weights.tolist())
    attributes["n_targets"].i = 3
    # The converter ends with a cast of the single output, which is in single precision already.
    for cast in [one for one in graph.node if list(one.input) == list(node.output)]:
        graph.node.remove(cast)
    node.output[:] = [_MOMENTS]
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([1, 1, 1], dtype=np.int64), "columns"),
            numpy_helper.from_array(np.array(0.0, dtype=np.float32), "zero"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Split", [_MOMENTS, "columns"], [VALUE, "mean", "square"], "Moments", axis=1),
            helper.make_node("Mul", ["mean", "mean"], ["mean_squared"], "MeanSquared"),
            helper.make_node("Sub", ["square", "mean_squared"], ["variance"], "Variance"),
            helper.make_node("Max", ["variance", "zero"], ["not_negative"], "NotNegative"),
            helper.make_node("Sqrt", ["not_negative"], [SPREAD], "Spread"),
        ]
    )
    graph.output.append(helper.make_tensor_value_info(SPREAD, onnx.TensorProto.FLOAT, [None, 1]))


def _only_probability_of_class_1(converted: onnx.ModelProto) -> onnx.ModelProto:
    probabilities = select_model_inputs_outputs(converted, outputs=["probabilities"])
    graph = probabilities.graph
    used = {name for node in graph.node for name in node.input}
    for initializer in [item for item in graph.initializer if item.name not in used]:
        graph.initializer.remove(initializer)
    graph.initializer.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "class_1"))
    graph.node.append(helper.make_node("Gather", ["probabilities", "class_1"], [VALUE], "ProbabilityOfClass1", axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(VALUE, onnx.TensorProto.FLOAT, [None, 1]))
    return probabilities


def onnx_difference(model: Pipeline, onnx_model: bytes, features: NDArray[Any]) -> float:
    """Largest difference between ONNX Runtime and scikit-learn, as a share of the largest prediction.

    Args:
        features: float[n, F], NaN where missing; both models get them in single precision.

    Returns:
        The share; for a classifier the absolute difference of the probabilities.
    """
    single = features.astype(np.float32)
    served = OnnxForest(onnx_model).predict(single)
    if is_classifier(model):
        return float(np.abs(served - model.predict_proba(single)[:, 1]).max())
    fitted = np.asarray(model.predict(single), dtype=np.float64)
    return float(np.abs(served - fitted).max() / max(float(np.abs(fitted).max()), np.finfo(np.float32).tiny))
