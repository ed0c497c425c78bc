"""Numbered rows, light to import: a child process that is killed makes them too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from telemetry.batch import Kind, Row

START = datetime(2026, 1, 1, tzinfo=UTC)
CONSUMERS: dict[str, tuple[Kind, ...]] = {"store": ("reading", "prediction"), "mqtt": ("reading",)}


def reading(number: int, **more: object) -> Row:
    """The reading that carries `number` as its current."""
    time = START + timedelta(seconds=number, microseconds=250)
    return {"battery_id": "EV-1", "time": time, "voltage": 350.0, "current": float(number), "temperature": 20.0, **more}


def prediction(number: int) -> Row:
    """The prediction that carries `number` as its value."""
    return {"battery_id": "EV-1", "time": START, "target": "soh", "value": float(number), "role": "champion"}
