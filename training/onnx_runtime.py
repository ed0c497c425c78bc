"""Run exported forests with ONNX Runtime, each on one thread (imports no training library)."""

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
        return np.asarray(value, dtype=np.float64).reshape(-1)


@dataclass(frozen=True)
class ForestFile:
    """A forest's `model.onnx`, and the columns of a feature table that it reads, in the order of its inputs."""

    path: Path
    table: str
    columns: tuple[int, ...]


class OnnxForests:
    """Several forests that read feature tables in common, each on one thread.

    Args:
        forests: by name; several may read the same table.
    """

    def __init__(self, forests: Mapping[str, ForestFile]) -> None:
        self._forests = {
            name: (OnnxForest(file.path), file.table, _index(file.columns)) for name, file in forests.items()
        }

    def predict(self, tables: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float64]]:
        """Output of every forest, float64[n] by name, for `tables` float32[n, columns], NaN where missing.

        A row gets the same bits in any batch, and the same as from `OnnxForest`.
        """
        return {
            name: forest.predict(tables[table][:, columns]) for name, (forest, table, columns) in self._forests.items()
        }


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Several threads share the trees of one row, whose sum then depends on the order in which they finish.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _index(columns: tuple[int, ...]) -> slice | list[int]:
    """Numpy index of `columns`: a slice, which copies nothing, where they are the first columns in order."""
    return slice(len(columns)) if columns == tuple(range(len(columns))) else list(columns)
