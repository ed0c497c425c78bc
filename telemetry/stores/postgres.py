"""Writes batches to PostgreSQL: COPY into a staging table, then one upsert, in one transaction per batch.

Readings and predictions share a row of `ev_telemetry` and may arrive in any order: each upserts its own columns only, a
missing value never overwrites a known one, and writing the same rows twice changes nothing (idempotent).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg2.extensions

from telemetry.batch import Batch
from telemetry.contract import BATTERY_FIELDS, CYCLE_FIELDS, READING_FIELDS, Field, names
from telemetry.stores.connection import StoreConnection
from telemetry.stores.copy_text import COPY_OPTIONS, copy_text

PREDICTION_FIELDS: tuple[Field, ...] = (
    Field("battery_id", kind="text", required=True),
    Field("time", "UTC", "time of the reading that it was made from", "time", True),
    Field("target", "", "soh, temperature, rul or failure", "text", True),
    Field("value", required=True),
    Field("lower"),
    Field("upper"),
    Field("due", "UTC", "when its label matures", "time"),
    Field("cycle_index", "equivalent full cycles", "age of the battery at `time`"),
    Field("model_name", kind="text"),
    Field("model_version", kind="text"),
    Field("role", "", "champion or challenger", "text", True),
    Field("predicted_at", "UTC", "wall-clock time", "time", True),
)


@dataclass(frozen=True)
class Table:
    """A table that is upserted by `key`; `fields` are the columns that are written."""

    name: str
    fields: tuple[Field, ...]
    key: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """Names of the written columns, including the key."""
        return names(self.fields)

    @property
    def staging(self) -> str:
        """Name of the temporary table that COPY writes to."""
        return f"staging_{self.name}"

    def staging_sql(self) -> str:
        """Create the staging table; every commit empties it."""
        columns = ", ".join(self.columns)
        return (
            f"CREATE TEMP TABLE IF NOT EXISTS {self.staging} ON COMMIT DELETE ROWS AS "  # noqa: S608 - constant names
            f"SELECT 0::bigint AS ordinal, {columns} FROM {self.name} WITH NO DATA"
        )

    def copy_sql(self) -> str:
        """Fill the staging table from the output of `copy_text`."""
        return f"COPY {self.staging} (ordinal, {', '.join(self.columns)}) FROM STDIN WITH {COPY_OPTIONS}"

    def upsert_sql(self) -> str:
        """Upsert the staged rows; of rows with the same key the last one wins.

        The order by key makes concurrent writers lock rows in the same order.
        """
        key, columns = ", ".join(self.key), ", ".join(self.columns)
        return (
            f"INSERT INTO {self.name} ({columns}) SELECT {columns} FROM "  # noqa: S608 - constant names
            f"(SELECT DISTINCT ON ({key}) * FROM {self.staging} ORDER BY {key}, ordinal DESC) AS staged "
            + on_conflict(self.name, self.key, [column for column in self.columns if column not in self.key])
        )


def on_conflict(table: str, key: Sequence[str], columns: Sequence[str]) -> str:
    """The ON CONFLICT clause that updates `columns` of an existing row, but not where nothing would change."""
    merged = [f"COALESCE(EXCLUDED.{column}, {table}.{column})" for column in columns]
    assignments = ", ".join(f"{column} = {value}" for column, value in zip(columns, merged, strict=True))
    present = ", ".join(f"{table}.{column}" for column in columns)
    return (
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {assignments} "
        f"WHERE ROW({present}) IS DISTINCT FROM ROW({', '.join(merged)})"
    )


READINGS = Table("ev_telemetry", READING_FIELDS, ("battery_id", "time"))
PREDICTIONS = Table("battery_predictions", PREDICTION_FIELDS, ("battery_id", "time", "target", "role"))
BATTERIES = Table("batteries", BATTERY_FIELDS, ("battery_id",))
# A pack that counts whole cycles ends several sessions at the same age: their end time makes the key unique.
CYCLES = Table("battery_cycles", CYCLE_FIELDS, ("battery_id", "cycle_index", "kind", "end_time"))
TABLES: tuple[Table, ...] = (BATTERIES, READINGS, PREDICTIONS, CYCLES)

#: Chunk size of COPY; psycopg2's default of 8 kB makes many small chunks.
_COPY_BUFFER_BYTES = 2**18

#: The champion's RUL and failure probability, in the row of the reading that they were made from.
_MAIN_PREDICTION_COLUMNS = ("rul_prediction", "failure_probability", "prediction_timestamp")
_MAIN_PREDICTIONS_SQL = (
    f"INSERT INTO ev_telemetry (battery_id, time, {', '.join(_MAIN_PREDICTION_COLUMNS)}) "  # noqa: S608 - constant names
    "SELECT battery_id, time, max(value) FILTER (WHERE target = 'rul'), "
    "max(value) FILTER (WHERE target = 'failure'), max(predicted_at) "
    f"FROM {PREDICTIONS.staging} WHERE role = 'champion' GROUP BY battery_id, time ORDER BY battery_id, time "
    + on_conflict("ev_telemetry", ("battery_id", "time"), _MAIN_PREDICTION_COLUMNS)
)
_LATE_SQL = (
    "UPDATE ev_telemetry SET late = true WHERE prediction_timestamp IS NULL AND late IS NOT TRUE "
    "AND (battery_id, time) IN (SELECT * FROM unnest(%s::text[], %s::timestamptz[]))"
)

#: Labels of a session that is written without them come from its readings, as far as these are stored already.
_READINGS_OF_S = "FROM ev_telemetry e WHERE e.battery_id = s.battery_id AND e.time BETWEEN s.start_time AND s.end_time"
_SESSION_LABELS_SQL = (
    f"UPDATE {CYCLES.staging} s SET "  # noqa: S608 - constant names
    f"soh = COALESCE(s.soh, (SELECT e.soh {_READINGS_OF_S} AND e.voltage IS NOT NULL ORDER BY e.time DESC LIMIT 1)), "
    f"warning_level = COALESCE(s.warning_level, (SELECT max(e.warning_level) {_READINGS_OF_S})) "
    "WHERE s.kind IN ('charge', 'discharge') AND (s.soh IS NULL OR s.warning_level IS NULL)"
)


class PostgresStore:
    """Writer with one database connection, which is opened at first use and reopened after it was lost.

    Not thread-safe.  Errors are those of psycopg2, and TypeError or ValueError for a row that cannot be serialized;
    after any of them nothing of the batch is stored.
    """

    def __init__(self, dsn: str) -> None:
        self._connection = StoreConnection(dsn, "battery-twin", statement_timeout_s=None, prepare=_prepare)

    def write(self, batch: Batch) -> None:
        """Store `batch` atomically; return when it is committed."""
        with self.transaction() as transaction:
            transaction.write(batch)

    @contextmanager
    def transaction(self) -> Iterator[StoreTransaction]:
        """Transaction that commits at the end of the `with` block and rolls back on an exception."""
        with self._connection.transaction() as cursor:
            yield StoreTransaction(cursor)

    def count_readings(self, battery_ids: Sequence[str], since: datetime, until: datetime) -> int:
        """Number of stored readings of `battery_ids` with `since` <= time <= `until`."""
        with self._connection.transaction() as cursor:
            cursor.execute(
                "SELECT count(*) FROM ev_telemetry WHERE battery_id = ANY(%s) AND time BETWEEN %s AND %s "
                "AND voltage IS NOT NULL",
                (list(battery_ids), since, until),
            )
            (count,) = cursor.fetchone() or (0,)
            return int(count)

    def newest_time(self, battery_ids: Sequence[str]) -> datetime | None:
        """Time of the newest stored reading among `battery_ids`, also of one ahead of the clock; None without any."""
        with self._connection.transaction() as cursor:
            cursor.execute(
                "SELECT max(t.time) FROM unnest(%s::text[]) AS b (battery_id) CROSS JOIN LATERAL ("
                "SELECT e.time FROM ev_telemetry e WHERE e.battery_id = b.battery_id AND e.voltage IS NOT NULL "
                "ORDER BY e.time DESC LIMIT 1) t",
                (list(battery_ids),),
            )
            (newest,) = cursor.fetchone() or (None,)
            return newest if isinstance(newest, datetime) else None

    def close(self) -> None:
        """Close the connection; the next use opens a new one."""
        self._connection.close()


def _prepare(connection: psycopg2.extensions.connection) -> None:
    """Limit the wait for locks and create the staging tables."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SET lock_timeout TO '30s'")
        # A batch may update readings in compressed chunks; without TimescaleDB the setting has no effect.
        cursor.execute("SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0")
        for table in TABLES:
            cursor.execute(table.staging_sql())


class StoreTransaction:
    """Writes batches within one transaction; `cursor` lets callers write their own tables in the same transaction."""

    def __init__(self, cursor: psycopg2.extensions.cursor) -> None:
        self.cursor = cursor
        self._staged: set[Table] = set()

    def write(self, batch: Batch) -> None:
        """Add `batch`; of rows with the same key, in one batch or several, the last one wins."""
        rows_of = {
            BATTERIES: batch.batteries,
            READINGS: [*batch.readings, *batch.late],
            PREDICTIONS: batch.predictions,
            CYCLES: [{"kind": "cycle", **row} for row in batch.cycles],
        }
        for table, rows in rows_of.items():
            if rows:
                if table in self._staged:
                    self.cursor.execute(f"DELETE FROM {table.staging}")  # noqa: S608 - constant names
                self._staged.add(table)
                self.cursor.copy_expert(table.copy_sql(), copy_text(table.fields, rows), size=_COPY_BUFFER_BYTES)
                if table is CYCLES:
                    self.cursor.execute(_SESSION_LABELS_SQL)
                self.cursor.execute(table.upsert_sql())
        if batch.predictions:
            self.cursor.execute(_MAIN_PREDICTIONS_SQL)
        if batch.late:
            self.cursor.execute(
                _LATE_SQL, ([row["battery_id"] for row in batch.late], [row["time"] for row in batch.late])
            )
