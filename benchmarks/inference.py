"""Four forests at once: as they are served, against the scikit-learn models that they were made from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.fold import CYCLE_FEATURES, READING_FEATURES
from features.targets import TARGETS
from training.model_files import load_skops
from training.onnx_runtime import ForestFile, OnnxForests

_ROUNDS = 7
_CALLS = 20
_TABLES = {"reading": READING_FEATURES, "cycle": CYCLE_FEATURES}
_GROWTH = (10, 100, 1000, 10_000)


@dataclass(frozen=True)
class _Forests:
    """The forests of a folder of models, twice, and rows for them."""

    served: OnnxForests
    fitted: dict[str, Any]
    rows: dict[str, NDArray[np.float32]]
    columns: dict[str, tuple[int, ...]]

    @classmethod
    def load(cls, models: Path) -> _Forests:
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
        served = OnnxForests(files, {name: len(features) for name, features in _TABLES.items()})
        return cls(served, fitted, rows, {name: file.columns for name, file in files.items()})

    def tables(self, n: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
        """`n` rows of the gate's batteries, drawn at random."""
        rng = np.random.default_rng(seed)
        return {name: table[rng.integers(0, len(table), n)] for name, table in self.rows.items()}

    def peer(self, tables: dict[str, NDArray[np.float32]]) -> None:
        """What scikit-learn does for the same answer."""
        for name, model in self.fitted.items():
            rows = tables[TARGETS[name].cadence][:, self.columns[name]]
            getattr(model, "predict_proba", model.predict)(rows)


def _seconds_a_call(call: Callable[[int], object], calls: int, rounds: int = _ROUNDS) -> float:
    """Median over `rounds`; `call` is given a running number."""
    call(0)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for number in range(calls):
            call(number)
        seconds.append((time.perf_counter() - start) / calls)
    return median(seconds)


def inference_one_row(models: Path) -> dict[str, Any]:
    """Milliseconds for one row through every model under `models`, ONNX Runtime and scikit-learn in turn."""
    forests = _Forests.load(models)
    # Another row each time, as in life: the way through a tree that was just taken is in the cache.
    rows = [forests.tables(1, seed) for seed in range(_CALLS)]
    value = _seconds_a_call(lambda i: forests.served.predict(rows[i % _CALLS]), _CALLS * 50)
    return _figure("inference_one_row", value, _seconds_a_call(lambda i: forests.peer(rows[i]), _CALLS), forests)


def inference_rows(models: Path) -> Sequence[dict[str, Any]]:
    """Milliseconds for 10 to 10,000 rows at once."""
    forests = _Forests.load(models)
    figures = []
    for n in _GROWTH:
        tables = forests.tables(n)
        calls = max(1, 1000 // n)
        value = _seconds_a_call(lambda _, tables=tables: forests.served.predict(tables), calls)  # type: ignore[misc]
        peer = _seconds_a_call(lambda _, tables=tables: forests.peer(tables), 1)  # type: ignore[misc]
        figures.append(_figure(f"inference_{n}_rows", value, peer, forests))
    return figures


def _figure(name: str, seconds: float, peer_seconds: float, forests: _Forests) -> dict[str, Any]:
    return {
        "name": name,
        "value": seconds * 1e3,
        "unit": "ms",
        "peer": f"scikit-learn, {len(forests.fitted)} forests",
        "peer_value": peer_seconds * 1e3,
        "ratio": peer_seconds / seconds,
    }
