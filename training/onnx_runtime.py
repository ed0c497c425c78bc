"""A served forest: one ONNX file behind one method.  Imports no trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray


class OnnxForest:
    """A forest as ONNX Runtime runs it, on one thread.

    Args:
        model: path of a `model.onnx`, or its bytes.
    """

    def __init__(self, model: Path | bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        content = model if isinstance(model, bytes) else model.read_bytes()
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Model output for `features` float32[n, F], NaN where missing; float64[n]."""
        (value,) = self._session.run(["value"], {"features": features})
        return np.asarray(value, dtype=np.float64).reshape(-1)
