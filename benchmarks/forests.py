"""Loads trained forests as ONNX and as scikit-learn models, with feature rows, for benchmarks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.state_update import CYCLE_FEATURES, READING_FEATURES
from features.targets import TARGETS
from training.model_files import load_skops
from training.onnx_runtime import ForestFile, OnnxForests

_TABLES = {"reading": READING_FEATURES, "cycle": CYCLE_FEATURES}


@dataclass(frozen=True)
class Forests:
    """Forests of a model folder as served (ONNX) and as fitted (scikit-learn), and feature rows for them."""

    served: OnnxForests
    fitted: dict[str, Any]
    rows: dict[str, NDArray[np.float32]]
    columns: dict[str, tuple[int, ...]]

    @classmethod
    def load(cls, models: Path) -> Forests:
        files: dict[str, ForestFile] = {}
        fitted: dict[str, Any] = {}
        rows: dict[str, NDArray[np.float32]] = {}
        for name, target in TARGETS.items():
            folder = models / name
            if not (folder / "model.onnx").exists():
                continue
            names = json.loads((folder / "fit.json").read_text(encoding="utf-8"))["feature_names"]
            available = _TABLES[target.cadence]
            files[name] = ForestFile(folder / "model.onnx", target.cadence, tuple(map(available.index, names)))
            fitted[name] = load_skops(folder / "model.skops")
            gate = pd.read_parquet(folder / "gate.parquet", columns=[f"feature_{feature}" for feature in names])
            table = np.full((len(gate), len(available)), np.nan, dtype=np.float32)
            table[:, files[name].columns] = gate.to_numpy(dtype=np.float32)
            rows.setdefault(target.cadence, table)
        served = OnnxForests(files)
        return cls(served, fitted, rows, {name: file.columns for name, file in files.items()})

    def tables(self, n: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
        """`n` random rows of the gate batteries."""
        rng = np.random.default_rng(seed)
        return {name: table[rng.integers(0, len(table), n)] for name, table in self.rows.items()}

    def peer(self, tables: dict[str, NDArray[np.float32]]) -> None:
        """Predict the same rows with scikit-learn."""
        for name, model in self.fitted.items():
            rows = tables[TARGETS[name].cadence][:, self.columns[name]]
            getattr(model, "predict_proba", model.predict)(rows)
