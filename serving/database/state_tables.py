"""Reads and writes the tables `twin_consumers` and `twin_states`, which hold each battery's state and read progress.

They are changed in the transaction that stores the predictions.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg2.extras import execute_values

from features.state import FloatArray, StateError, decode, encode
from serving.database.row_source import Cursor
from telemetry.batch import Row
from telemetry.contract import BATTERY_FIELDS, names

_BATTERY_COLUMNS = names(BATTERY_FIELDS)


@dataclass(frozen=True)
class StoredState:
    """One battery's row of `twin_states` for one consumer, with its description.

    Attributes:
        state: None before the first row, and if it was written by another state version.
        time: of the newest reading in the state.
        read_until: key of the newest row that was read.
        predict_after: readings up to this time update the state without predictions.
        cycles_after: sessions that started before this time are in `battery_cycles` already.
        description: the battery's row of the table `batteries`; None if there is none.
    """

    battery_id: str
    state: FloatArray | None
    time: datetime | None
    read_until: str | None
    predict_after: datetime | None
    cycles_after: datetime | None
    description: Row | None


def register_consumer(cursor: Cursor, consumer: str) -> bool:
    """Register `consumer`; True if it is new, so that this is its first start."""
    cursor.execute("INSERT INTO twin_consumers (consumer) VALUES (%s) ON CONFLICT DO NOTHING", (consumer,))
    return cursor.rowcount == 1


def followed_batteries(cursor: Cursor, consumer: str) -> dict[str, str | None]:
    """By battery the key of the newest row that was read; the battery that has waited longest comes first."""
    cursor.execute(
        "SELECT battery_id, read_until FROM twin_states WHERE consumer = %s ORDER BY updated_at, battery_id",
        (consumer,),
    )
    return dict(cursor.fetchall())


def follow(cursor: Cursor, consumer: str, battery_ids: Sequence[str], predict_after: Mapping[str, datetime]) -> int:
    """Insert rows for batteries that are not followed yet; returns how many those were.

    Args:
        predict_after: by battery, the time up to which readings are not predicted.
    """
    if not battery_ids:
        return 0
    cursor.execute(
        "INSERT INTO twin_states (consumer, battery_id, predict_after, cycles_after) "
        "SELECT %(consumer)s, n.battery_id, n.predict_after, (SELECT max(c.end_time) FROM battery_cycles c "
        "WHERE c.battery_id = n.battery_id AND c.kind IN ('charge', 'discharge')) "
        "FROM unnest(%(ids)s::text[], %(predict_after)s::timestamptz[]) AS n(battery_id, predict_after) "
        "ON CONFLICT DO NOTHING",
        {
            "consumer": consumer,
            "ids": list(battery_ids),
            "predict_after": [predict_after.get(battery_id) for battery_id in battery_ids],
        },
    )
    return cursor.rowcount


def lock_states(cursor: Cursor, consumer: str, battery_ids: Sequence[str]) -> list[StoredState]:
    """Lock the rows of `battery_ids` until the transaction ends; rows locked by another process are skipped."""
    description = ", ".join(f"b.{name}" for name in _BATTERY_COLUMNS)
    cursor.execute(
        "SELECT s.battery_id, s.state, s.time, s.read_until, s.predict_after, s.cycles_after, "  # noqa: S608 - our own names
        f"{description} FROM twin_states s LEFT JOIN batteries b USING (battery_id) "
        "WHERE s.consumer = %s AND s.battery_id = ANY(%s) ORDER BY s.battery_id FOR UPDATE OF s SKIP LOCKED",
        (consumer, list(battery_ids)),
    )
    return [
        StoredState(
            battery_id,
            _decode(state),
            time,
            read_until,
            predict_after,
            cycles_after,
            dict(zip(_BATTERY_COLUMNS, battery, strict=True)) if battery[0] is not None else None,
        )
        for battery_id, state, time, read_until, predict_after, cycles_after, *battery in cursor.fetchall()
    ]


def save_states(cursor: Cursor, consumer: str, states: Mapping[str, tuple[FloatArray, datetime | None, str]]) -> None:
    """Store, by battery, the state, the time of its newest reading and the key of the newest row that was read."""
    execute_values(
        cursor,
        "UPDATE twin_states s SET state = n.state, time = n.time::timestamptz, read_until = n.read_until, "
        "updated_at = clock_timestamp() FROM (VALUES %s) AS n(consumer, battery_id, state, time, read_until) "
        "WHERE s.consumer = n.consumer AND s.battery_id = n.battery_id",
        [
            (consumer, battery, base64.b64decode(encode(state)), time, key)
            for battery, (state, time, key) in states.items()
        ],
        template="(%s, %s, %s::bytea, %s::timestamptz, %s)",
        page_size=1000,
    )


def _decode(stored: memoryview | None) -> FloatArray | None:
    if stored is None:
        return None
    try:
        return decode(base64.b64encode(bytes(stored)).decode())
    except StateError:
        return None
