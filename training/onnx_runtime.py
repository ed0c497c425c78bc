"""Run exported forests with ONNX Runtime, one at a time or merged into one call (imports no training library)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray


class OnnxForest:
    """One forest in ONNX Runtime, on one thread.

    Args:
        model: path of a `model.onnx`, or its bytes.
    """

    def __init__(self, model: Path | bytes) -> None:
        self._session = _session(model if isinstance(model, bytes) else model.read_bytes())

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Model output for `features` float32[n, F], NaN where missing; float64[n]."""
        (value,) = self._session.run(["value"], {"features": features})
        return _column(value)


@dataclass(frozen=True)
class ForestFile:
    """A forest's `model.onnx`, and the columns of a feature table that it reads, in the order of its inputs."""

    path: Path
    table: str
    columns: tuple[int, ...]


class OnnxForests:
    """Several forests run by one call, on one thread.

    Args:
        forests: by name; several may read the same table.
        tables: number of columns of each feature table.
    """

    def __init__(self, forests: Mapping[str, ForestFile], tables: Mapping[str, int]) -> None:
        from training.onnx_merge import merge

        self._sessions = []
        for model in merge(forests, tables) if forests else ():
            session = _session(model)
            inputs = [entry.name for entry in session.get_inputs()]
            outputs = [entry.name for entry in session.get_outputs()]
            self._sessions.append((session, inputs, outputs, [name.rpartition("/")[0] for name in outputs]))

    def predict(self, tables: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float64]]:
        """Output of every forest, float64[n] by name, for `tables` float32[n, columns], NaN where missing.

        A row gets the same bits in any batch, and the same as from `OnnxForest`.
        """
        values: dict[str, NDArray[np.float64]] = {}
        for session, inputs, outputs, names in self._sessions:
            outputs_of_call = session.run(outputs, {name: tables[name] for name in inputs})
            values.update(zip(names, map(_column, outputs_of_call), strict=True))
        return values


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Several threads share the trees of one row, whose sum then depends on the order in which they finish.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _column(value: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(value, dtype=np.float64).reshape(-1)
