"""Reads and writes the tables `twin_consumers` and `twin_states`, which hold each battery's state and read progress.

They are changed in the transaction that stores the predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg2.extras import execute_values

from features.state import FloatArray, to_bytes, view
from serving.database.row_source import Cursor
from telemetry.wire import utc


@dataclass(frozen=True)
class StoredState:
    """One battery's row of `twin_states` for one consumer.

    Attributes:
        state: bytes of the state; None before the first row.
        time: of the newest reading in the state.
        read_until: key of the newest row that was read.
        predict_after: readings up to this time update the state without predictions.
        cycles_after: sessions that started before this time are in `battery_cycles` already.
    """

    battery_id: str
    state: bytes | None
    time: datetime | None
    read_until: str | None
    predict_after: datetime | None
    cycles_after: datetime | None


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
    cursor.execute(
        "SELECT battery_id, state, time, read_until, predict_after, cycles_after FROM twin_states "
        "WHERE consumer = %s AND battery_id = ANY(%s) ORDER BY battery_id FOR UPDATE SKIP LOCKED",
        (consumer, list(battery_ids)),
    )
    return [
        StoredState(battery_id, None if state is None else bytes(state), *rest)
        for battery_id, state, *rest in cursor.fetchall()
    ]


def save_states(cursor: Cursor, consumer: str, states: Mapping[str, tuple[FloatArray, str]]) -> None:
    """Store, by battery, the state and the key of the newest row that was read."""
    rows = []
    for battery_id, (state, key) in states.items():
        seen = view(state)
        rows.append(
            (consumer, battery_id, to_bytes(state, battery_id), utc(seen.time_s) if seen.has_reading else None, key)
        )
    execute_values(
        cursor,
        "UPDATE twin_states s SET state = n.state, time = n.time::timestamptz, read_until = n.read_until, "
        "updated_at = clock_timestamp() FROM (VALUES %s) AS n(consumer, battery_id, state, time, read_until) "
        "WHERE s.consumer = n.consumer AND s.battery_id = n.battery_id",
        rows,
        template="(%s, %s, %s::bytea, %s::timestamptz, %s)",
        page_size=1000,
    )
