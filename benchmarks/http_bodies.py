"""Requests as a fleet's clients send them: one reading of a battery that has lived, and its state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import orjson

from telemetry.contract import SIGNALS
from telemetry.wire import rfc3339

_BATTERY = {"nominal_capacity_ah": 150.0, "cells_in_series": 96.0, "chemistry": "NMC", "model": "made up"}
_START = datetime(2026, 1, 1, tzinfo=UTC)
_CYCLES = 40
_READINGS = 120


def reading(battery: int, tick: int) -> dict[str, Any]:
    """A reading with every field that the simulator sends, half a second after the one before."""
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
    """Entries of a request from which batteries come that are old enough for every prediction."""
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


def lived(service: httpx.Client, batteries: int) -> list[dict[str, Any]]:
    """Entries without readings, each with the state after its history."""
    entries = []
    for part in np.array_split(np.array(histories(batteries), dtype=object), -(-batteries // 50)):
        answer = service.post("/predict", content=orjson.dumps({"batteries": list(part)}))
        answer.raise_for_status()
        entries += [
            {"battery_id": told["battery_id"], "battery": _BATTERY, "state": told["state"]}
            for told in answer.json()["predictions"]
        ]
    return entries


def single_bodies(entries: Sequence[dict[str, Any]]) -> list[bytes]:
    """One request for each battery, with its next reading."""
    return [
        orjson.dumps({"batteries": [entry | {"readings": [reading(number, _READINGS)]}]})
        for number, entry in enumerate(entries)
    ]


def history_body(entry: dict[str, Any], readings: int, *, every_reading: bool) -> bytes:
    """The next `readings` of one battery in one request, with a prediction after the last or after each of them."""
    rows = [reading(0, _READINGS + tick) for tick in range(readings)]
    return orjson.dumps({"batteries": [entry | {"readings": rows}], "every_reading": every_reading})


def fleet_body(entries: Sequence[dict[str, Any]]) -> bytes:
    """The next reading of every battery in one request."""
    return orjson.dumps(
        {"batteries": [entry | {"readings": [reading(i, _READINGS)]} for i, entry in enumerate(entries)]}
    )
