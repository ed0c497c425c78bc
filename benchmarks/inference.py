"""Four forests at once: as they are served, against the scikit-learn models that they were made from."""

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
    forests = Forests.load(models)
    # Another row each time, as in life: the way through a tree that was just taken is in the cache.
    rows = [forests.tables(1, seed) for seed in range(_CALLS)]
    value = _seconds_a_call(lambda i: forests.served.predict(rows[i % _CALLS]), _CALLS * 50)
    return _figure("inference_one_row", value, _seconds_a_call(lambda i: forests.peer(rows[i]), _CALLS), forests)


def inference_rows(models: Path) -> Sequence[dict[str, Any]]:
    """Milliseconds for 10 to 10,000 rows at once."""
    forests = Forests.load(models)
    figures = []
    for n in _GROWTH:
        tables = forests.tables(n)
        calls = max(1, 1000 // n)
        value = _seconds_a_call(lambda _, tables=tables: forests.served.predict(tables), calls)  # type: ignore[misc]
        peer = _seconds_a_call(lambda _, tables=tables: forests.peer(tables), 1)  # type: ignore[misc]
        figures.append(_figure(f"inference_{n}_rows", value, peer, forests))
    return figures


def _figure(name: str, seconds: float, peer_seconds: float, forests: Forests) -> dict[str, Any]:
    return {
        "name": name,
        "value": seconds * 1e3,
        "unit": "ms",
        "peer": f"scikit-learn, {len(forests.fitted)} forests",
        "peer_value": peer_seconds * 1e3,
        "ratio": peer_seconds / seconds,
    }
