"""What the predictor remembers, in tables of the store: it changes in the transaction that stores the predictions."""

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

_FACTS = names(BATTERY_FIELDS)


@dataclass(frozen=True)
class Twin:
    """One battery as its consumer left it.

    Attributes:
        state: None before its first row, and where it was written by another version of the fold.
        time: of the newest reading in the state.
        read_until: key of the newest row that was read.
        predict_after: readings up to then are the past, which is folded without predictions.
        cycles_after: sessions from before then are in `battery_cycles` already.
        facts: its row of the table `batteries`, None where that has none.
    """

    battery_id: str
    state: FloatArray | None
    time: datetime | None
    read_until: str | None
    predict_after: datetime | None
    cycles_after: datetime | None
    facts: Row | None


def begin(cursor: Cursor, consumer: str) -> bool:
    """Make `consumer` known; True if it was not, so that this is its first start."""
    cursor.execute("INSERT INTO twin_consumers (consumer) VALUES (%s) ON CONFLICT DO NOTHING", (consumer,))
    return cursor.rowcount == 1


def known(cursor: Cursor, consumer: str) -> dict[str, str | None]:
    """By battery the key of the newest row that was read, first who has waited longest."""
    cursor.execute(
        "SELECT battery_id, read_until FROM twin_states WHERE consumer = %s ORDER BY updated_at, battery_id",
        (consumer,),
    )
    return dict(cursor.fetchall())


def add(cursor: Cursor, consumer: str, battery_ids: Sequence[str], pasts: Mapping[str, datetime]) -> int:
    """Begin to follow batteries that are not followed yet; how many those were.

    Args:
        pasts: until when a battery's readings are not to be predicted.
    """
    if not battery_ids:
        return 0
    cursor.execute(
        "INSERT INTO twin_states (consumer, battery_id, predict_after, cycles_after) "
        "SELECT %(consumer)s, n.battery_id, n.past, (SELECT max(c.end_time) FROM battery_cycles c "
        "WHERE c.battery_id = n.battery_id AND c.kind IN ('charge', 'discharge')) "
        "FROM unnest(%(ids)s::text[], %(pasts)s::timestamptz[]) AS n(battery_id, past) ON CONFLICT DO NOTHING",
        {"consumer": consumer, "ids": list(battery_ids), "pasts": [pasts.get(one) for one in battery_ids]},
    )
    return cursor.rowcount


def claim(cursor: Cursor, consumer: str, battery_ids: Sequence[str]) -> list[Twin]:
    """The twins of `battery_ids` that nobody else is working on; nobody else gets them before the transaction ends."""
    facts = ", ".join(f"b.{name}" for name in _FACTS)
    cursor.execute(
        "SELECT s.battery_id, s.state, s.time, s.read_until, s.predict_after, s.cycles_after, "  # noqa: S608 - our own names
        f"{facts} FROM twin_states s LEFT JOIN batteries b USING (battery_id) "
        "WHERE s.consumer = %s AND s.battery_id = ANY(%s) ORDER BY s.battery_id FOR UPDATE OF s SKIP LOCKED",
        (consumer, list(battery_ids)),
    )
    return [
        Twin(
            battery_id,
            _state(state),
            time,
            read_until,
            predict_after,
            cycles_after,
            dict(zip(_FACTS, battery, strict=True)) if battery[0] is not None else None,
        )
        for battery_id, state, time, read_until, predict_after, cycles_after, *battery in cursor.fetchall()
    ]


def save(cursor: Cursor, consumer: str, states: Mapping[str, tuple[FloatArray, datetime | None, str]]) -> None:
    """Keep by battery its state, the time of the newest reading in it and the key of the newest row that was read."""
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


def _state(stored: memoryview | None) -> FloatArray | None:
    if stored is None:
        return None
    try:
        return decode(base64.b64encode(bytes(stored)).decode())
    except StateError:
        return None
