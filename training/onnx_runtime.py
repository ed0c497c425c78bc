"""Run exported forests with ONNX Runtime, each on one thread (imports no training library)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

#: Outputs of a model file; the second is absent in those of classifiers.
VALUE, SPREAD = "value", "spread"


class ForestOutput(NamedTuple):
    """Output of one forest for n rows.

    Attributes:
        value: float64[n].
        spread: float64[n], see `training.forests.spread`; None if the model file has no such output.
    """

    value: NDArray[np.float64]
    spread: NDArray[np.float64] | None


class OnnxForest:
    """One forest in ONNX Runtime, on one thread.

    Args:
        model: path of a `model.onnx`, or its bytes.
    """

    def __init__(self, model: Path | bytes) -> None:
        self._session = _session(model if isinstance(model, bytes) else model.read_bytes())
        named = {output.name for output in self._session.get_outputs()}
        self._outputs = [name for name in (VALUE, SPREAD) if name in named]

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Model output for `features` float32[n, F], NaN where missing; float64[n]."""
        return self.run(features).value

    def run(self, features: NDArray[np.float32]) -> ForestOutput:
        """As `predict`, with the spread."""
        value, *spread = self._session.run(self._outputs, {"features": features})
        return ForestOutput(_column(value), _column(spread[0]) if spread else None)


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

    def predict(self, tables: Mapping[str, NDArray[np.float32]]) -> dict[str, ForestOutput]:
        """Output of every forest by name, for `tables` float32[n, columns], NaN where missing.

        A row gets the same bits in any batch, and the same as from `OnnxForest`.
        """
        return {name: forest.run(tables[table][:, columns]) for name, (forest, table, columns) in self._forests.items()}


def _column(output: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(output, dtype=np.float64).reshape(-1)


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Several threads share the trees of one row, whose sum then depends on the order in which they finish.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _index(columns: tuple[int, ...]) -> slice | list[int]:
    """Numpy index of `columns`: a slice, which copies nothing, where they are the first columns in order."""
    return slice(len(columns)) if columns == tuple(range(len(columns))) else list(columns)
