"""Serializes readings to messages for the MQTT and Kafka sinks."""

from __future__ import annotations

from collections.abc import Sequence

from telemetry.batch import Row
from telemetry.sinks.base import SinkRefusedError
from telemetry.wire import reading_message


def reading_messages(readings: Sequence[Row]) -> list[tuple[str, bytes]]:
    """Battery id and message of each reading; all are serialized before the first is sent.

    Raises:
        SinkRefusedError: a reading cannot be serialized.
    """
    return [_message(row) for row in readings]


def _message(row: Row) -> tuple[str, bytes]:
    try:
        return str(row["battery_id"]), reading_message(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        battery_id = str(row.get("battery_id"))[:50]
        raise SinkRefusedError(f"A reading of {battery_id} cannot be serialized: {error!r}") from error
