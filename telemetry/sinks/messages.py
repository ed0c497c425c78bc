"""Readings as messages, for the sinks of message brokers."""

from __future__ import annotations

from collections.abc import Sequence

from telemetry.batch import Row
from telemetry.sinks.base import SinkRefusedError
from telemetry.wire import reading_message


def reading_messages(readings: Sequence[Row]) -> list[tuple[str, bytes]]:
    """Battery id and message of each reading, all of them before the first is sent.

    Raises:
        SinkRefusedError: a reading cannot be written as a message.
    """
    return [_message(row) for row in readings]


def _message(row: Row) -> tuple[str, bytes]:
    try:
        return str(row["battery_id"]), reading_message(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        named = str(row.get("battery_id"))[:50]
        raise SinkRefusedError(f"A reading of {named} cannot be written as a message: {error!r}") from error
