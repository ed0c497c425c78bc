"""Benchmark of scaling with fleet size: one tick is one reading of each of 10, 100 or 1,000 batteries.

In process, without brokers; `benchmarks.stream` measures the same fleets from topic to stored predictions.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.http_predict import release
from benchmarks.ingest import readings, servers
from features.state import READING_INPUTS, FloatArray, new_states, set_battery
from features.state_update import update_from_cycles
from serving.feature_snapshots import update_each
from serving.predictor import Predictor
from serving.scorer import Scorer
from telemetry.batch import Batch, Row
from telemetry.contract import SIGNALS
from telemetry.settings import Settings
from telemetry.sinks.postgres import StoreSink
from training.release import load_release

_BATTERIES = (10, 100, 1_000)
_CYCLES = 20
_TICKS = 30
_WARM_UP = 3


def growth(models: Path) -> list[dict[str, Any]]:
    """Readings per second with 10, 100 and 1,000 batteries; the first is the reference, so that 1x is linear scaling.

    `growth_predict` updates the states with a tick, predicts with all four forests and makes the rows to store;
    `growth_ingest` writes a tick through the sink and waits for the commit.
    """
    with tempfile.TemporaryDirectory(prefix="twin-bench-") as folder:
        settings = Settings(var=Path(folder))
        release(models, settings)
        scorer = Scorer(Predictor(load_release(settings.domain, settings=settings)))
        measurements = _measurements("growth_predict", "", {n: _predicted_a_second(scorer, n) for n in _BATTERIES})
    for label, missing, server in servers():
        if missing is None:
            with tempfile.TemporaryDirectory(prefix="twin-bench-") as folder, server(Path(folder)) as dsn:
                rates = {n: _stored_a_second(dsn, n) for n in _BATTERIES}
            measurements += _measurements("growth_ingest", f", {label}", rates)
    return measurements


def _measurements(name: str, where: str, rates: dict[int, float]) -> list[dict[str, Any]]:
    first, peer_value = next(iter(rates.items()))
    return [
        {
            "name": f"{name}_{n}_batteries",
            "value": value,
            "unit": "readings/s",
            "peer": f"{first} batteries{where}",
            "peer_value": peer_value,
            "ratio": value / peer_value,
        }
        for n, value in rates.items()
    ]


def _predicted_a_second(scorer: Scorer, batteries: int) -> float:
    states, rows = _states_with_cycles(batteries), np.arange(batteries)
    ids = [f"EV-{number:04}" for number in range(batteries)]

    def tick(number: int) -> Callable[[], object]:
        matrix = _matrix(batteries, number)

        def predict() -> object:
            snapshots, _ = update_each(states, rows, matrix)
            return scorer.score(ids, snapshots, datetime.now(UTC)).rows

        return predict

    return batteries / _median_s(tick)


def _stored_a_second(dsn: str, batteries: int) -> float:
    sink = StoreSink(dsn)
    sink.setup()

    def tick(number: int) -> Callable[[], object]:
        # Different times for each fleet size, so that no row exists already.
        rows = readings((batteries + number) * batteries, batteries, batteries)
        return lambda: _store(sink, rows)

    rate = batteries / _median_s(tick)
    sink.close()
    return rate


def _store(sink: StoreSink, rows: Sequence[Row]) -> None:
    sink.write(Batch(readings=rows))
    sink.flush()


def _median_s(tick: Callable[[int], Callable[[], object]]) -> float:
    seconds = []
    for number in range(_WARM_UP + _TICKS):
        work = tick(number)
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return median(seconds[_WARM_UP:])


def _states_with_cycles(batteries: int) -> FloatArray:
    """States of batteries with some cycles, so that all four targets are predicted."""
    states = new_states(batteries)
    for state in states:
        set_battery(state, nominal_capacity_ah=150.0, cells_in_series=96.0, chemistry="NMC")
    random = np.random.default_rng(0)
    index = np.repeat(np.arange(1.0, _CYCLES + 1), batteries)
    signals = random.normal(10.0, 1.0, (len(index), len(SIGNALS)))
    update_from_cycles(states, np.tile(np.arange(batteries), _CYCLES), np.column_stack([index, signals]))
    return states


def _matrix(batteries: int, tick: int) -> FloatArray:
    wave = np.sin(0.05 * tick + np.arange(batteries))
    values = {"time_s": 1.767e9 + 0.5 * tick, "voltage": 360 - 4 * wave, "current": 40 + 30 * wave, "temperature": 27.0}
    missing = np.full(batteries, np.nan)
    return np.column_stack([np.broadcast_to(values.get(name, missing), batteries) for name in READING_INPUTS])
