"""A reading as the JSON message that goes over MQTT and Kafka."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import cast

from data.batch import Row
from data.contract import READING_FIELDS


def reading_message(row: Row) -> bytes:
    """UTF-8 JSON of one reading: `time` is called `timestamp`, a missing value is left out."""
    message: dict[str, object] = {}
    for field in READING_FIELDS:
        value = row.get(field.name)
        if value is None or value != value:
            continue
        if field.kind == "time":
            message["timestamp"] = rfc3339(cast(datetime, value))
        elif field.kind == "bool":
            message[field.name] = bool(value)
        elif field.kind == "float":
            message[field.name] = float(cast(float, value))
        else:
            message[field.name] = value
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()


def rfc3339(time: datetime) -> str:
    """`time` in UTC with the zone written as Z; a time without a zone is taken as UTC."""
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat().replace("+00:00", "Z")
