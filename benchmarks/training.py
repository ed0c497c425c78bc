"""Benchmark of training a forest: scikit-learn-intelex (optional for tuning trials) against scikit-learn."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.targets import TARGETS
from training.forest_library import Library
from training.forests import ForestParams, fit, predict
from training.splits import split

_TARGET = TARGETS["temperature"]  # the largest table of the default source
_PARAMS = ForestParams(n_estimators=100, max_depth=14, min_samples_leaf=3)


def training(features: Path) -> list[dict[str, Any]]:
    """Seconds to fit one forest on the training rows of the registered model, and its error on the gate rows."""
    table = pd.read_parquet(features / f"{_TARGET.name}.parquet")
    division = split(table, _TARGET)
    train, gate = table[division.final_rows()], table[division.gate]
    value, error = _fit(train, gate, "scikit-learn-intelex")
    peer_value, peer_error = _fit(train, gate, "scikit-learn")
    peer = f"scikit-learn, {len(train):,} rows, {_PARAMS.n_estimators} trees"
    return [
        {
            "name": "training",
            "value": value,
            "unit": "s",
            "peer": peer,
            "peer_value": peer_value,
            "ratio": peer_value / value,
        },
        {
            "name": "training_error",
            "value": error,
            "unit": "degC, MAE on held-out batteries",
            "peer": peer,
            "peer_value": peer_error,
            "ratio": peer_error / error,
        },
    ]


def _fit(train: pd.DataFrame, gate: pd.DataFrame, library: Library) -> tuple[float, float]:
    start = time.perf_counter()
    model = fit(train, _TARGET, _PARAMS, 7, library)
    seconds = time.perf_counter() - start
    error = np.abs(predict(model, gate, _TARGET) - gate[_TARGET.label].to_numpy(dtype=float))
    return seconds, float(error.mean())
