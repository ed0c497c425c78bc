"""Request bodies for the HTTP benchmark, as clients send them: battery, state and next readings."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import orjson

from telemetry.contract import SIGNALS
from telemetry.wire import rfc3339

_BATTERY = {"nominal_capacity_ah": 150.0, "cells_in_series": 96.0, "chemistry": "NMC", "model": "synthetic"}
_START = datetime(2026, 1, 1, tzinfo=UTC)
_CYCLES = 40
_READINGS = 120


def reading(battery: int, tick: int) -> dict[str, Any]:
    """A reading with every field that the simulator sends; ticks are half a second apart."""
    wave = float(np.sin(0.05 * tick + battery))
    return {
        "time": rfc3339(_START + timedelta(seconds=0.5 * tick)),
        "voltage": 361.2 - 4.0 * wave,
        "current": 42.0 + 30.0 * wave,
        "temperature": 27.5 + 0.01 * tick,
        "soc": 71.0 - 0.001 * tick,
        "ambient_temperature": 18.0,
        "charge_cycles": 40.0 + battery % 7,
        "power_consumption": 15_000.0 + 9_000.0 * wave,
        "is_charging": False,
        "temperature_min": 26.0,
        "cell_voltage_min": 3.74,
        "cell_voltage_max": 3.78,
        "cell_voltage_median": 3.76,
        "insulation_resistance": 900.0,
        "odometer_km": 41_000.0 + 0.01 * tick,
        "speed_kmh": 60.0 + 20.0 * wave,
    }


def histories(batteries: int) -> list[dict[str, Any]]:
    """Request entries with enough cycles and readings for all four predictions."""
    rng = np.random.default_rng(0)
    return [
        {
            "battery_id": f"EV-{battery:04}",
            "battery": _BATTERY,
            "cycles": [
                {"cycle_index": float(index), **{signal: float(rng.uniform(1.0, 4.0)) for signal in SIGNALS}}
                for index in range(1, _CYCLES + 1)
            ],
            "readings": [reading(battery, tick) for tick in range(_READINGS)],
        }
        for battery in range(batteries)
    ]


def entries_with_state(service: httpx.Client, batteries: int) -> list[dict[str, Any]]:
    """Request entries without readings, each with the state after its history."""
    entries = []
    for part in np.array_split(np.array(histories(batteries), dtype=object), -(-batteries // 50)):
        response = service.post("/predict", content=orjson.dumps({"batteries": list(part)}))
        response.raise_for_status()
        entries += [
            {"battery_id": entry["battery_id"], "battery": _BATTERY, "state": entry["state"]}
            for entry in response.json()["predictions"]
        ]
    return entries


def single_bodies(entries: Sequence[dict[str, Any]]) -> list[bytes]:
    """One request body for each battery, with its next reading."""
    return [
        orjson.dumps({"batteries": [entry | {"readings": [reading(number, _READINGS)]}]})
        for number, entry in enumerate(entries)
    ]


def history_body(entry: dict[str, Any], readings: int, *, every_reading: bool) -> bytes:
    """Request body with the next `readings` of one battery, predicted after the last or after each of them."""
    rows = [reading(0, _READINGS + tick) for tick in range(readings)]
    return orjson.dumps({"batteries": [entry | {"readings": rows}], "every_reading": every_reading})


def fleet_body(entries: Sequence[dict[str, Any]]) -> bytes:
    """Request body with the next reading of every battery."""
    return orjson.dumps(
        {"batteries": [entry | {"readings": [reading(i, _READINGS)]} for i, entry in enumerate(entries)]}
    )
