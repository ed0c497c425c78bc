"""Reads batteries, readings and cycles from the store as arrays for the state update.

Readings are read by binary COPY: with missing values as NaN all rows have the same size, and a page of them becomes an
array without a Python object per value.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from datetime import datetime

import numpy as np
import psycopg2.extensions
from numpy.typing import NDArray

from telemetry.batch import Row
from telemetry.contract import BATTERY_FIELDS, EARLIEST, LATEST, READING_FIELDS, SIGNALS, names
from telemetry.contract_check import without_invalid
from telemetry.row_order import separate_equal_ages

FloatArray = NDArray[np.float64]
Connection = psycopg2.extensions.connection

#: Readings per page: some megabytes.
PAGE_ROWS = 50_000

# PostgreSQL counts microseconds from the year 2000.
_EPOCH_US = 946_684_800 * 1_000_000
_HEADER_BYTES = 19
_TRAILER_BYTES = 2
_BOOLEANS = frozenset(field.name for field in READING_FIELDS if field.kind == "bool")


def batteries(connection: Connection, battery_ids: Sequence[str]) -> dict[str, Row]:
    """Rows of the table `batteries`, by id; unknown batteries are left out."""
    columns = names(BATTERY_FIELDS)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(columns)} FROM batteries WHERE battery_id = ANY(%s)",  # noqa: S608 - constant names
            (list(battery_ids),),
        )
        rows = [dict(zip(columns, row, strict=True)) for row in cursor]
    return {row["battery_id"]: row for row in rows}


def readings(
    connection: Connection,
    battery_id: str,
    columns: Sequence[str],
    until: datetime | None,
    page_rows: int = PAGE_ROWS,
    *,
    begin: datetime | None = None,
    every_s: float | None = None,
) -> Iterator[FloatArray]:
    """One battery's readings with `begin` <= time < `until` (None: no bound), in time order, page by page.

    A value out of its range counts as missing; a reading without a required value is left out.

    Args:
        every_s: only the first reading of each interval of this length; None: all readings.

    Yields:
        float64[n, 1 + len(columns)]: time in seconds since the epoch, then `columns`, NaN where missing; n > 0.
    """
    values = ", ".join(f"COALESCE({_as_number(column)}, 'NaN')" for column in columns)
    by_name = {field.name: field for field in READING_FIELDS}
    fields = [by_name[column] for column in columns]
    since: int | None = None
    # Intervals are counted from the epoch of binary COPY.
    interval = "floor(extract(epoch FROM time - timestamptz '2000-01-01 00:00:00+00') / %(every)s)"
    distinct, order = ("", "time") if every_s is None else (f"DISTINCT ON ({interval})", f"{interval}, time")
    while True:
        with connection, connection.cursor() as cursor:
            # A row without a voltage holds a prediction whose reading has not arrived yet.
            query = cursor.mogrify(
                f"COPY (SELECT {distinct} time, {values} FROM ev_telemetry "  # noqa: S608 - constant names
                "WHERE battery_id = %(id)s AND voltage IS NOT NULL "
                "AND time > COALESCE(timestamptz '2000-01-01 00:00:00+00' "
                "                    + %(since)s::float8 * INTERVAL '1 microsecond', '-infinity') "
                "AND time >= COALESCE(%(begin)s::timestamptz, %(earliest)s) "
                "AND time < COALESCE(%(until)s::timestamptz, %(latest)s) "
                f"ORDER BY {order} LIMIT %(rows)s) TO STDOUT (FORMAT binary)",
                {
                    "id": battery_id,
                    "since": since,
                    "begin": begin,
                    "until": until,
                    "rows": page_rows,
                    "every": every_s,
                    "earliest": EARLIEST,
                    "latest": LATEST,
                },
            )
            pipe = io.BytesIO()
            cursor.copy_expert(query.decode(), pipe)
        times_us, page = _read_page(pipe.getbuffer(), len(columns))
        complete, _ = without_invalid(fields, page[:, 1:])
        if complete.any():
            yield page[complete]
        if len(page) < page_rows:
            return
        since = int(times_us[-1])
        if every_s is not None:
            interval_us = round(every_s * 1e6)
            since = (since // interval_us + 1) * interval_us - 1


def cycles(
    connection: Connection,
    battery_id: str,
    *,
    first_reading: datetime | None,
    until: datetime | None,
    begin: datetime | None = None,
) -> FloatArray:
    """One battery's cycles from before `until`, by index, without those that a replay of its readings would repeat.

    With `begin`, only cycles that ended after it.

    Published cycles (kind `cycle`) are always included.  Sessions are summaries of readings: they are included if they
    ended before the oldest reading that is still stored.

    Returns:
        float64[m, 1 + len(SIGNALS)]: cycle_index, then the signals, NaN where missing; rows without any are left out.
    """
    signals = ", ".join(SIGNALS)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            f"SELECT COALESCE(end_time > lag(end_time) OVER by_age, false), cycle_index, {signals} "  # noqa: S608
            "FROM battery_cycles "
            f"WHERE battery_id = %(id)s AND num_nonnulls({signals}) > 0 "
            "AND (end_time IS NULL OR end_time < COALESCE(%(until)s::timestamptz, 'infinity')) "
            "AND (%(begin)s::timestamptz IS NULL OR end_time > %(begin)s) "
            "AND (kind = 'cycle' OR end_time IS NULL "
            "     OR end_time <= COALESCE(%(first)s::timestamptz, 'infinity')) "
            "WINDOW by_age AS (ORDER BY cycle_index, end_time NULLS FIRST) ORDER BY cycle_index, end_time NULLS FIRST",
            {"id": battery_id, "first": first_reading, "until": until, "begin": begin},
        )
        rows = cursor.fetchall()
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 2 + len(SIGNALS))
    table[np.isinf(table)] = np.nan
    table[:, 1] = separate_equal_ages(table[:, 1], table[:, 0] == 1.0)
    return table[:, 1:]


def _as_number(column: str) -> str:
    return f"{column}::int::float8" if column in _BOOLEANS else column


def _read_page(raw: memoryview, n_columns: int) -> tuple[NDArray[np.int64], FloatArray]:
    """Times in microseconds since 2000, and the page, from the output of binary COPY."""
    item = np.dtype(
        [("fields", ">i2"), ("time_size", ">i4"), ("time_us", ">i8")]
        + [(f"{kind}{i}", format_) for i in range(n_columns) for kind, format_ in (("size", ">i4"), ("value", ">f8"))]
    )
    rows = np.frombuffer(raw[_HEADER_BYTES : len(raw) - _TRAILER_BYTES], dtype=item)
    times_us = rows["time_us"].astype(np.int64)
    page = np.empty((len(rows), 1 + n_columns))
    page[:, 0] = (times_us + _EPOCH_US) / 1e6
    for i in range(n_columns):
        page[:, 1 + i] = rows[f"value{i}"]
    return times_us, page
