"""Benchmark of inference with all four forests: ONNX Runtime as served, against the original scikit-learn models."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.forests import Forests

_ROUNDS = 7
_CALLS = 20
_GROWTH = (10, 100, 1000, 10_000)


def _seconds_a_call(call: Callable[[int], object], calls: int, rounds: int = _ROUNDS) -> float:
    """Median over `rounds` of the mean duration of a call; the argument of `call` is a running number."""
    call(0)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for number in range(calls):
            call(number)
        seconds.append((time.perf_counter() - start) / calls)
    return median(seconds)


def inference_one_row(models: Path) -> dict[str, Any]:
    """Milliseconds for one row with every model in `models`, ONNX Runtime and scikit-learn."""
    forests = Forests.load(models)
    # A different row in each call, because repeated tree paths would be in the CPU cache.
    rows = [forests.tables(1, seed) for seed in range(_CALLS)]
    value = _seconds_a_call(lambda i: forests.served.predict(rows[i % _CALLS]), _CALLS * 50)
    return _measurement("inference_one_row", value, _seconds_a_call(lambda i: forests.peer(rows[i]), _CALLS), forests)


def inference_rows(models: Path) -> Sequence[dict[str, Any]]:
    """Milliseconds for batches of 10 to 10,000 rows."""
    forests = Forests.load(models)
    measurements = []
    for n in _GROWTH:
        tables = forests.tables(n)
        calls = max(1, 1000 // n)
        value = _seconds_a_call(lambda _, tables=tables: forests.served.predict(tables), calls)  # type: ignore[misc]
        peer = _seconds_a_call(lambda _, tables=tables: forests.peer(tables), 1)  # type: ignore[misc]
        measurements.append(_measurement(f"inference_{n}_rows", value, peer, forests))
    return measurements


def _measurement(name: str, seconds: float, peer_seconds: float, forests: Forests) -> dict[str, Any]:
    return {
        "name": name,
        "value": seconds * 1e3,
        "unit": "ms",
        "peer": f"scikit-learn, {len(forests.fitted)} forests",
        "peer_value": peer_seconds * 1e3,
        "ratio": peer_seconds / seconds,
    }
