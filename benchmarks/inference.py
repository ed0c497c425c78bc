"""Four forests on one row: as they are served, against the scikit-learn models that they were made from."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from features.targets import TARGETS
from training.model_files import load_skops
from training.onnx_runtime import OnnxForest

_ROUNDS = 7
_CALLS = 20


def _seconds_a_call(call: Callable[[], object]) -> float:
    call()
    rounds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        for _ in range(_CALLS):
            call()
        rounds.append((time.perf_counter() - start) / _CALLS)
    return median(rounds)


def inference_one_row(models: Path) -> dict[str, Any]:
    """Milliseconds for one row through every model under `models`, ONNX Runtime and scikit-learn in turn."""
    served: list[tuple[OnnxForest, Any, np.ndarray]] = []
    for name, target in TARGETS.items():
        folder = models / name
        if (folder / "model.onnx").exists():
            row = np.zeros((1, len(target.feature_names)), dtype=np.float32)
            served.append((OnnxForest(folder / "model.onnx"), load_skops(folder / "model.skops"), row))

    def fast() -> None:
        for forest, _, row in served:
            forest.predict(row)

    def peer() -> None:
        for _, model, row in served:
            getattr(model, "predict_proba", model.predict)(row)

    value, peer_value = _seconds_a_call(fast) * 1e3, _seconds_a_call(peer) * 1e3
    return {
        "name": "inference_one_row",
        "value": value,
        "unit": "ms",
        "peer": f"scikit-learn, {len(served)} forests",
        "peer_value": peer_value,
        "ratio": peer_value / value,
    }
