"""JSON serialization of rows for HTTP, MQTT and Kafka, and conversion of times."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import cast

import orjson

from telemetry.batch import Row
from telemetry.contract import READING_FIELDS, Field


def json_values(row: Row, fields: Iterable[Field]) -> dict[str, object]:
    """The values of `fields` in `row` as JSON types; a missing one (None, NaN, absent) is left out."""
    values: dict[str, object] = {}
    for field in fields:
        value = row.get(field.name)
        if value is None or value != value:
            continue
        if field.kind == "float":
            values[field.name] = float(cast(float, value))
        elif field.kind == "time":
            values[field.name] = rfc3339(cast(datetime, value))
        else:
            values[field.name] = bool(value) if field.kind == "bool" else value
    return values


def reading_message(row: Row) -> bytes:
    """One reading as an MQTT or Kafka message, in which `time` is called `timestamp`."""
    values = json_values(row, READING_FIELDS)
    values["timestamp"] = values.pop("time")
    return orjson.dumps(values)


def rfc3339(time: datetime) -> str:
    """`time` in UTC with the zone written as Z; a time without a zone is taken as UTC."""
    naive = time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)
    return f"{naive.isoformat()}Z"


def utc(time_s: float) -> datetime:
    """Seconds since the epoch as a UTC time with microsecond precision."""
    return datetime.fromtimestamp(time_s, UTC)
