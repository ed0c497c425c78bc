"""Numbered rows for spool tests; imports little, because child processes of the kill tests import it too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from telemetry.batch import Row, RowKind

START = datetime(2026, 1, 1, tzinfo=UTC)
CONSUMERS: dict[str, tuple[RowKind, ...]] = {"store": ("reading", "prediction"), "mqtt": ("reading",)}


def reading(number: int, **more: object) -> Row:
    """A reading with `number` as its current."""
    time = START + timedelta(seconds=number, microseconds=250)
    return {"battery_id": "EV-1", "time": time, "voltage": 350.0, "current": float(number), "temperature": 20.0, **more}


def prediction(number: int) -> Row:
    """A prediction with `number` as its value."""
    return {"battery_id": "EV-1", "time": START, "target": "soh", "value": float(number), "role": "champion"}
