"""Synthetic batteries that drive in the morning and charge in the evening, and the references of two models of them.

Fast enough to simulate a season in a test, and varied enough to be hard: every battery has its own weather, load and
ageing, and there are seasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from features.labels import LabelParams
from features.table import build
from features.targets import TARGETS
from monitoring.drift.training_reference import Reference
from telemetry.contract import CYCLE_FIELDS, names
from training.registry.drift_reference import reference_rows

DAY_S = 86_400.0
STEP_S = 60.0
START = datetime(2026, 3, 1, tzinfo=UTC)
#: Wear per cycle that the health model assumes, as a fraction of the health.
WEAR = 2e-4
_COLUMNS = ("voltage", "current", "temperature", "ambient_temperature", "charge_cycles", "soh")
_DRIVE = 8 * 3600.0 + np.arange(0.0, 2700.0, STEP_S)
_CHARGE = 20 * 3600.0 + np.arange(0.0, 3600.0, STEP_S)


@dataclass(frozen=True)
class Scenario:
    """Change from day `from_day` on: `warmer_c` degC warmer, ageing `faster` times as fast."""

    from_day: int = 0
    warmer_c: float = 0.0
    faster: float = 1.0


def simulated_readings(seed: int, number: int, days: np.ndarray, scenario: Scenario = Scenario()) -> pd.DataFrame:
    """Readings of battery `number` of fleet `seed` on `days` after `START`, in contract columns, health in percent."""
    rng = np.random.default_rng([seed, number])
    weather, load, age = rng.normal(0.0, 2.0), rng.uniform(0.7, 1.3), rng.uniform(100.0, 700.0)
    wear = WEAR * rng.uniform(0.9, 1.1)
    sessions = []
    cycles, health = age, 1.0 - wear * age
    last = days[0]
    for day in days:
        changed = day >= scenario.from_day
        mean_c = 12.0 - 9.0 * np.cos(2 * np.pi * (day + 45.0) / 365.25) + weather + scenario.warmer_c * changed
        mean_c += rng.normal(0.0, 3.0)
        effort = load * rng.uniform(0.8, 1.2)
        cycles += 0.4 * (day - last)
        health -= wear * 0.4 * (day - last) * (scenario.faster if changed else 1.0)
        last = day
        for begin, current in ((_DRIVE, 40.0 * effort), (_CHARGE, -45.0)):
            inside = begin - begin[0]
            ambient = mean_c + 4.0 * np.cos(2 * np.pi * (begin / 3600.0 - 15.0) / 24.0)
            flowing = current + rng.normal(0.0, 12.0, len(begin)) * (current > 0)
            warm = 6.0 * effort * (1.0 - np.exp(-inside / 1800.0))
            resistance = 0.08 * (2.0 - health) * (1.0 + 0.01 * (25.0 - ambient))
            # Half of a day's cycles in the morning, the other half in the evening.
            driven = cycles + 0.2 * (inside / inside[-1] + (current < 0))
            columns = (
                START.timestamp() + day * DAY_S + begin,
                360.0 - flowing * resistance,
                flowing,
                ambient + warm + rng.normal(0.0, 0.2, len(begin)),
                ambient,
                driven,
                np.full(len(begin), 100.0 * health),
            )
            sessions.append(np.column_stack(columns))
    table = pd.DataFrame(np.concatenate(sessions), columns=["time", *_COLUMNS])
    times = pd.to_datetime(table["time"], unit="s", utc=True).dt.as_unit("us")
    return table.assign(battery_id=f"EV-{number:03d}", time=times)


def batteries_of(numbers: range) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "battery_id": [f"EV-{number:03d}" for number in numbers],
            "nominal_capacity_ah": 60.0,
            "chemistry": "NMC",
            "cells_in_series": 96.0,
        }
    )


def references(seed: int, numbers: range) -> dict[str, Reference]:
    """Training references of two models: temperature by persistence, health by linear wear."""
    days = np.arange(-360, 0, 9)
    readings = pd.concat([simulated_readings(seed, number, days) for number in numbers], ignore_index=True)
    no_cycles = pd.DataFrame(columns=names(CYCLE_FIELDS)).astype(
        {"battery_id": str, "capacity_ah": float, "soh": float}
    )
    built = build(readings.assign(warning_level=np.nan), no_cycles, batteries_of(numbers), LabelParams(min_rows=1))
    by_target = {}
    for target in ("temperature", "soh"):
        table = built.tables[target]
        predicted = table["temperature_c"] if target == "temperature" else 1.0 - WEAR * table["cycles"]
        scored = pd.DataFrame({"actual": table[TARGETS[target].label], "predicted": predicted})
        by_target[target] = Reference.from_rows(target, reference_rows(table, scored, TARGETS[target], seed))
    return by_target
