"""Synthetic readings and cycle summaries for the tests of the state update."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from telemetry.contract import BATTERY_FIELDS, CYCLE_FIELDS, READING_FIELDS, Field

START_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z


def empty_frame(fields: tuple[Field, ...]) -> pd.DataFrame:
    kinds = {"text": "object", "time": "datetime64[us, UTC]", "float": "float64", "bool": "float64"}
    return pd.DataFrame({field.name: pd.Series(dtype=kinds[field.kind]) for field in fields})


@pytest.fixture
def no_readings() -> pd.DataFrame:
    return empty_frame(READING_FIELDS)


@pytest.fixture
def no_cycles() -> pd.DataFrame:
    return empty_frame(CYCLE_FIELDS)


def drive(time_s: NDArray[np.float64], seed: int = 0) -> pd.DataFrame:
    """Readings of a 100 Ah, 96s pack at `time_s` after START_S: each day a drive, a rest and then a charge.

    Every column is a smooth function of time, so that it can be sampled at any rate.
    """
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0.0, 2 * np.pi, 4)
    speed = 40 + 25 * np.sin(time_s / 180 + phase[0]) + 12 * np.sin(time_s / 71 + phase[1])
    hour = np.mod(time_s, 86_400.0)
    current = np.select(
        [hour < 3600, hour < 5400],
        [1.1 * speed - 12 + 14 * np.sin(time_s / 97 + phase[2]), 0.4],
        -38.0,
    )
    moved = np.minimum(hour, 3600.0) / 75.0 - np.maximum(hour - 5400.0, 0.0) * 38.0 / 3600.0
    soc = 80.0 - moved
    cell = 3.15 + 0.0085 * soc - 0.0011 * current
    return pd.DataFrame(
        {
            "battery_id": f"EV-{seed}",
            "time": pd.to_datetime(np.round((START_S + time_s) * 1e6).astype("int64"), unit="us", utc=True),
            "voltage": 96 * cell,
            "current": current,
            "temperature": 24 + 5 * (1 - np.exp(-hour / 2400)) + 0.4 * np.sin(time_s / 400 + phase[3]),
            "soc": np.clip(soc, 0.0, 100.0),
            "ambient_temperature": 20.0,
            "cell_voltage_min": cell - 0.01,
            "cell_voltage_max": cell + 0.02,
        }
    )


def laboratory(cell: str, cycles: int, fade: float, seed: int) -> pd.DataFrame:
    """Cycle summaries of a cell whose signals follow its state of health with noise; `fade` is the loss per cycle."""
    rng = np.random.default_rng(seed)
    index = np.arange(1.0, cycles + 1.0)
    health = 1.0 - fade * index - 0.4 * (fade * index) ** 2
    frame = empty_frame(CYCLE_FIELDS).reindex(range(cycles))
    frame["battery_id"] = cell
    frame["cycle_index"] = index
    frame["capacity_ah"] = health + rng.normal(0, 0.001, cycles)
    frame["cc_charge_time_s"] = 500 * health + rng.normal(0, 2, cycles)
    frame["cv_charge_time_s"] = 200 + 900 * (1 - health) + rng.normal(0, 4, cycles)
    frame["cc_voltage_mean_v"] = 3.5 + rng.normal(0, 0.001, cycles)
    for name in ("start_time", "end_time"):
        frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame


@pytest.fixture
def cells() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cycles of twelve laboratory cells, most of which reach 0.8 of nominal capacity, and the batteries table."""
    rng = np.random.default_rng(3)
    parts = [laboratory(f"cell-{k:02d}", 160, fade, seed=k) for k, fade in enumerate(rng.uniform(0.0009, 0.0024, 12))]
    cycles = pd.concat(parts, ignore_index=True)
    batteries = empty_frame(BATTERY_FIELDS).reindex(range(12))
    batteries["battery_id"] = sorted(cycles["battery_id"].unique())
    batteries["nominal_capacity_ah"] = 1.0
    batteries["cells_in_series"] = 1.0
    batteries["chemistry"] = "LFP"
    return cycles, batteries
