"""Test rows for the telemetry store, written by `PostgresStore`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2

from telemetry.batch import Batch, Row
from telemetry.stores.postgres import PostgresStore

#: Recent, because old outcomes are deleted, and on the hour, where comparison intervals start.
START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=2)
HORIZON_S = 300.0


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def reading(battery_id: str, seconds: float, **values: object) -> dict[str, object]:
    return {
        "battery_id": battery_id,
        "time": at(seconds),
        "voltage": 360.0,
        "current": 40.0,
        "temperature": 25.0,
        "soc": 60.0,
        **values,
    }


def prediction(battery_id: str, seconds: float, target: str, value: float, **values: object) -> dict[str, object]:
    return {
        "battery_id": battery_id,
        "time": at(seconds),
        "target": target,
        "value": value,
        "due": at(seconds + HORIZON_S) if target == "temperature" else None,
        "cycle_index": 500.0,
        "model_name": f"battery-{target}",
        "model_version": "1",
        "role": "champion",
        "predicted_at": datetime.now(UTC),
        **values,
    }


def write(
    dsn: str,
    *,
    readings: Sequence[Row] = (),
    predictions: Sequence[Row] = (),
    cycles: Sequence[Row] = (),
    batteries: Sequence[Row] = (),
) -> None:
    store = PostgresStore(dsn)
    store.write(Batch(readings=readings, predictions=predictions, cycles=cycles, batteries=batteries))
    store.close()


def query(dsn: str, sql: str, values: Any = None) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def outcomes(dsn: str, target: str) -> list[tuple[str, float, float, float]]:
    """(battery, seconds after START, predicted, actual) of the champion's outcomes, in order."""
    rows = query(
        dsn,
        "SELECT battery_id, time, value, actual FROM prediction_outcomes WHERE target = %s AND role = 'champion' "
        "ORDER BY battery_id, time",
        (target,),
    )
    return [(battery_id, (time - START).total_seconds(), value, actual) for battery_id, time, value, actual in rows]


def every(step_s: float, until_s: float) -> Iterable[float]:
    seconds = 0.0
    while seconds <= until_s:
        yield seconds
        seconds += step_s
