"""Convert fitted forests to ONNX: predictions equal to scikit-learn's, identical bytes for identical forests.

scikit-learn rounds its inputs to float32 and compares them with float64 thresholds.  ONNX has only
float32 thresholds; skl2onnx rounds each downwards, so that every float32 input takes the same branch.
The remaining difference is the rounding of the sum over the trees, about 1e-7 of the prediction.
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

from training.onnx_runtime import OnnxForest

#: Largest `onnx_difference` with which a model may be registered.
MAX_DIFFERENCE = 1e-5

# Pinned, so that the file does not depend on the newest version that the converter supports.
_OPSET = {"": 17, "ai.onnx.ml": 3}
_IR_VERSION = 8
_FEATURES, _VALUE = "features", "value"


def to_onnx(model: Pipeline, n_features: int) -> bytes:
    """Convert a fitted pipeline of imputer and forest.

    Args:
        model: `SimpleImputer` (a constant) and `RandomForestRegressor`, or
            `CalibratedClassifierCV(RandomForestClassifier, method="sigmoid", ensemble=False)` of two classes.
        n_features: number of inputs, F.

    Returns:
        A serialised ONNX model, `features` float32[n, F] (NaN: missing) to `value` float32[n, 1]: the
        prediction, or the probability of class 1.
    """
    inputs = [(_FEATURES, FloatTensorType([None, n_features]))]
    if is_classifier(model):
        converted = convert_sklearn(
            model, "forest", inputs, target_opset=_OPSET, options={id(model): {"zipmap": False}}
        )
        converted = _only_probability_of_class_1(converted)
    else:
        outputs = [(_VALUE, FloatTensorType([None, 1]))]
        converted = convert_sklearn(model, "forest", inputs, target_opset=_OPSET, final_types=outputs)
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


def _only_probability_of_class_1(converted: onnx.ModelProto) -> onnx.ModelProto:
    probabilities = select_model_inputs_outputs(converted, outputs=["probabilities"])
    graph = probabilities.graph
    used = {name for node in graph.node for name in node.input}
    for initializer in [item for item in graph.initializer if item.name not in used]:
        graph.initializer.remove(initializer)
    graph.initializer.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "class_1"))
    graph.node.append(helper.make_node("Gather", ["probabilities", "class_1"], [_VALUE], "ProbabilityOfClass1", axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(_VALUE, onnx.TensorProto.FLOAT, [None, 1]))
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
