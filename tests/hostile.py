"""Rows that no process may fail on: every contract field at its limits, beyond them, missing and not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
from hypothesis import strategies as st

from telemetry.contract import BATTERY_FIELDS, READING_FIELDS, Field

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
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
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
