"""Rows that no process may fail on: every contract field at its limits, beyond them, missing and not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
from hypothesis import strategies as st

from telemetry.contract import BATTERY_FIELDS, READING_FIELDS, Field
from tests.monitoring.store_rows import query

#: Times as text: unset dates of other systems, and what their zones make of them.
TIMES = (
    "0001-01-01 00:00:00+14",
    "0001-01-01 00:00:00+00",
    "4713-01-01 00:00:00+00 BC",
    "1969-12-31 23:59:59+00",
    "2200-01-02 00:00:00+00",
    "9999-12-31 23:59:59-14",
    "10000-01-01 00:00:00+00",
    "infinity",
    "-infinity",
)


def values_of(field: Field) -> Iterator[float | None]:
    """Values of a numeric field that a broken sender may send."""
    yield from (None, math.nan, math.inf, -math.inf, 0.0, -1.0, 1e308)
    for bound, outwards in ((field.minimum, -1.0), (field.maximum, 1.0)):
        if bound is not None:
            yield from (bound, bound + outwards * (1.0 + abs(bound) * 1e-3))


def cases(fields: tuple[Field, ...]) -> list[tuple[str, float | None]]:
    """Field and value of every hostile value of the numeric `fields`."""
    return [(field.name, value) for field in fields if field.kind == "float" for value in values_of(field)]


READINGS = cases(READING_FIELDS)
BATTERIES = cases(BATTERY_FIELDS)


def drop_checks(dsn: str) -> None:
    """Make a store of `dsn` as it was before the constraints, and as a site's own tables are: any value can enter."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        # One transaction a table, since two locked tables deadlock with a writer of the store.
        connection.autocommit = True
        cursor.execute(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint "
            "WHERE contype = 'c' AND connamespace = current_schema()::regnamespace AND conname LIKE '%_valid'"
        )
        for table, name in cursor.fetchall():
            cursor.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')


def changes(fields: tuple[Field, ...] = READING_FIELDS) -> st.SearchStrategy[dict[str, Any]]:
    """Any combination of hostile values of the numeric `fields`."""
    return st.dictionaries(
        st.sampled_from([field.name for field in fields if field.kind == "float"]),
        st.none() | st.floats() | st.sampled_from([0.0, -1.0, 65_535.0, 1e308]),
        min_size=1,
        max_size=4,
    )


#: A message whose time is one of `TIMES`.
TIME_CHANGES = st.sampled_from(TIMES).map(lambda time: {"timestamp": time})

#: Number and time columns of the tables that more than one process reads; a row has `battery_id` and the keys besides.
COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ev_telemetry": (tuple(field.name for field in READING_FIELDS if field.kind == "float"), ("time", "created_at")),
    "batteries": (tuple(field.name for field in BATTERY_FIELDS if field.kind == "float"), ("in_service_since",)),
    "battery_predictions": (("value", "lower", "upper", "cycle_index"), ("time", "due", "predicted_at")),
    "battery_cycles": (("cycle_index", "soh", "capacity_ah"), ("start_time", "end_time")),
}


@st.composite
def stored_rows(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A table and columns of one row of it with any hostile values, for a store without constraints."""
    table = draw(st.sampled_from(sorted(COLUMNS)))
    numbers, times = COLUMNS[table]
    number = st.floats() | st.sampled_from([0.0, -1.0, 65_535.0, 1e308, math.nan, math.inf, -math.inf])
    values = draw(st.dictionaries(st.sampled_from(numbers), number, min_size=1, max_size=4))
    return table, values | draw(st.dictionaries(st.sampled_from(times), st.sampled_from(TIMES), max_size=2))


#: What a row has where `stored_rows` leaves it as it is.
DEFAULTS: dict[str, dict[str, Any]] = {
    "ev_telemetry": {"time": "2026-01-01", "voltage": 360.0, "current": 10.0, "temperature": 25.0},
    "batteries": {"nominal_capacity_ah": 150.0},
    "battery_predictions": {
        "time": "2026-01-01", "target": "temperature", "value": 1.0, "due": "2026-01-02", "model_name": "m",
        "model_version": "1", "role": "champion", "predicted_at": "2026-01-01",
    },
    "battery_cycles": {"cycle_index": 1.0, "kind": "cycle", "end_time": "2026-01-01"},
}  # fmt: skip


def insert_hostile(dsn: str, battery_id: str, table: str, values: dict[str, Any]) -> None:
    """Insert a row of `stored_rows`; a battery that the tables know by a valid row, too."""
    row = {"battery_id": battery_id, **DEFAULTS[table], **values}
    columns = f"({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))}) ON CONFLICT DO NOTHING"
    query(dsn, f"INSERT INTO {table} {columns}", tuple(row.values()))
