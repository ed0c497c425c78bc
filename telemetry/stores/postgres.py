"""Write batches to PostgreSQL: COPY into a staging table, then one upsert, in one transaction a batch.

Readings and predictions meet in one row of `ev_telemetry` and may arrive in any order: each upserts its own
columns only, a missing value never erases a known one, and writing the same rows twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg2
import psycopg2.extensions

from telemetry.batch import Batch
from telemetry.contract import BATTERY_FIELDS, CYCLE_FIELDS, READING_FIELDS, Field, names
from telemetry.stores.copy_text import COPY_OPTIONS, copy_text
from telemetry.stores.liveness import NOTICE_LOST_SERVER

PREDICTION_FIELDS: tuple[Field, ...] = (
    Field("battery_id", kind="text", required=True),
    Field("time", "UTC", "of the reading it was made from", "time", True),
    Field("target", "", "soh, temperature, rul or failure", "text", True),
    Field("value", required=True),
    Field("lower"),
    Field("upper"),
    Field("due", "UTC", "when its truth can be known", "time"),
    Field("cycle_index", "equivalent full cycles", "age of the battery at `time`"),
    Field("model_name", kind="text"),
    Field("model_version", kind="text"),
    Field("role", "", "champion or challenger", "text", True),
    Field("predicted_at", "UTC", "wall clock", "time", True),
)


@dataclass(frozen=True)
class Table:
    """A table that is upserted by `key`; `fields` are the columns that a writer owns."""

    name: str
    fields: tuple[Field, ...]
    key: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """Names of the owned columns, the key among them."""
        return names(self.fields)

    @property
    def staging(self) -> str:
        """Name of the temporary table that COPY fills."""
        return f"staging_{self.name}"

    def staging_sql(self) -> str:
        """Create the staging table; it is emptied by every commit."""
        columns = ", ".join(self.columns)
        return (
            f"CREATE TEMP TABLE IF NOT EXISTS {self.staging} ON COMMIT DELETE ROWS AS "  # noqa: S608 - our own names
            f"SELECT 0::bigint AS ordinal, {columns} FROM {self.name} WITH NO DATA"
        )

    def copy_sql(self) -> str:
        """Fill the staging table from what `copy_text` writes."""
        return f"COPY {self.staging} (ordinal, {', '.join(self.columns)}) FROM STDIN WITH {COPY_OPTIONS}"

    def upsert_sql(self) -> str:
        """Move the staged rows over; of rows with one key the last wins.

        The order by key makes concurrent writers take their locks in the same order.
        """
        key, columns = ", ".join(self.key), ", ".join(self.columns)
        return (
            f"INSERT INTO {self.name} ({columns}) SELECT {columns} FROM "  # noqa: S608 - our own names
            f"(SELECT DISTINCT ON ({key}) * FROM {self.staging} ORDER BY {key}, ordinal DESC) AS staged "
            + on_conflict(self.name, self.key, [column for column in self.columns if column not in self.key])
        )


def on_conflict(table: str, key: Sequence[str], columns: Sequence[str]) -> str:
    """The clause that fills `columns` of an existing row and leaves it alone where nothing would change."""
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
# A pack that counts whole cycles ends several sessions at one age: the time of their end tells them apart.
CYCLES = Table("battery_cycles", CYCLE_FIELDS, ("battery_id", "cycle_index", "kind", "end_time"))
TABLES: tuple[Table, ...] = (BATTERIES, READINGS, PREDICTIONS, CYCLES)

#: Sent to the server at once; psycopg2's own 8 kB are many small steps.
_COPY_BUFFER_BYTES = 2**18

#: The champion's two headline predictions, beside the reading they were made from.
_HEADLINE_COLUMNS = ("rul_prediction", "failure_probability", "prediction_timestamp")
_HEADLINE_SQL = (
    f"INSERT INTO ev_telemetry (battery_id, time, {', '.join(_HEADLINE_COLUMNS)}) "  # noqa: S608 - our own names
    "SELECT battery_id, time, max(value) FILTER (WHERE target = 'rul'), "
    "max(value) FILTER (WHERE target = 'failure'), max(predicted_at) "
    f"FROM {PREDICTIONS.staging} WHERE role = 'champion' GROUP BY battery_id, time ORDER BY battery_id, time "
    + on_conflict("ev_telemetry", ("battery_id", "time"), _HEADLINE_COLUMNS)
)
_LATE_SQL = (
    "UPDATE ev_telemetry SET late = true WHERE prediction_timestamp IS NULL AND late IS NOT TRUE "
    "AND (battery_id, time) IN (SELECT * FROM unnest(%s::text[], %s::timestamptz[]))"
)

#: A session whose writer did not know the labels gets them from its readings, as far as they are here already.
_ITS_READINGS = "FROM ev_telemetry e WHERE e.battery_id = s.battery_id AND e.time BETWEEN s.start_time AND s.end_time"
_SESSION_LABELS_SQL = (
    f"UPDATE {CYCLES.staging} s SET "  # noqa: S608 - our own names
    f"soh = COALESCE(s.soh, (SELECT e.soh {_ITS_READINGS} AND e.voltage IS NOT NULL ORDER BY e.time DESC LIMIT 1)), "
    f"warning_level = COALESCE(s.warning_level, (SELECT max(e.warning_level) {_ITS_READINGS})) "
    "WHERE s.kind IN ('charge', 'discharge') AND (s.soh IS NULL OR s.warning_level IS NULL)"
)


class PostgresStore:
    """One connection to the telemetry store, opened when first needed and again after it was lost.

    Not for use by two threads at once.  Errors are those of psycopg2, and TypeError or ValueError for a row that
    cannot be written; after any of them nothing of the batch is stored.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg2.extensions.connection | None = None

    def write(self, batch: Batch) -> None:
        """Store all of `batch` or nothing of it; return when it is committed."""
        with self.transaction() as transaction:
            transaction.write(batch)

    @contextmanager
    def transaction(self) -> Iterator[StoreTransaction]:
        """Everything that is written within is stored at once when the block ends well, and not at all otherwise."""
        with self._transaction() as cursor:
            yield StoreTransaction(cursor)

    def count_readings(self, battery_ids: Sequence[str], since: datetime, until: datetime) -> int:
        """How many readings of `battery_ids` are stored with `since` <= time <= `until`."""
        with self._transaction() as cursor:
            cursor.execute(
                "SELECT count(*) FROM ev_telemetry WHERE battery_id = ANY(%s) AND time BETWEEN %s AND %s "
                "AND voltage IS NOT NULL",
                (list(battery_ids), since, until),
            )
            (count,) = cursor.fetchone() or (0,)
            return int(count)

    def newest_time(self, battery_ids: Sequence[str]) -> datetime | None:
        """Time of the newest stored reading among `battery_ids`; None where there is none."""
        with self._transaction() as cursor:
            cursor.execute(
                "SELECT max(time) FROM latest_battery_status WHERE battery_id = ANY(%s)", (list(battery_ids),)
            )
            (newest,) = cursor.fetchone() or (None,)
            return newest if isinstance(newest, datetime) else None

    def close(self) -> None:
        """Close the connection; the store opens a new one when it is used again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _transaction(self) -> _Transaction:
        if self._connection is None or self._connection.closed:
            self._connection = _connect(self._dsn)
        return _Transaction(self._connection)


def _connect(dsn: str) -> psycopg2.extensions.connection:
    """A connection with its staging tables, on which no call waits for ever."""
    connection: psycopg2.extensions.connection = psycopg2.connect(
        dsn,
        application_name="battery-twin",
        connect_timeout=5,
        **NOTICE_LOST_SERVER,
    )
    try:
        connection.set_client_encoding("UTF8")
        with connection, connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'; SET lock_timeout TO '30s'")
            # A batch may update readings of any age; without TimescaleDB the setting means nothing.
            cursor.execute("SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0")
            for table in TABLES:
                cursor.execute(table.staging_sql())
    except BaseException:
        connection.close()
        raise
    return connection


class StoreTransaction:
    """What belongs together in the store; `cursor` is for what a caller keeps in tables of its own."""

    def __init__(self, cursor: psycopg2.extensions.cursor) -> None:
        self.cursor = cursor
        self._staged: set[Table] = set()

    def write(self, batch: Batch) -> None:
        """Add `batch`; of rows with one key, in one batch or several, the last wins."""
        rows_of = {
            BATTERIES: batch.batteries,
            READINGS: [*batch.readings, *batch.late],
            PREDICTIONS: batch.predictions,
            CYCLES: [{"kind": "cycle", **row} for row in batch.cycles],
        }
        for table, rows in rows_of.items():
            if rows:
                if table in self._staged:
                    self.cursor.execute(f"DELETE FROM {table.staging}")  # noqa: S608 - our own names
                self._staged.add(table)
                self.cursor.copy_expert(table.copy_sql(), copy_text(table.fields, rows), size=_COPY_BUFFER_BYTES)
                if table is CYCLES:
                    self.cursor.execute(_SESSION_LABELS_SQL)
                self.cursor.execute(table.upsert_sql())
        if batch.predictions:
            self.cursor.execute(_HEADLINE_SQL)
        if batch.late:
            self.cursor.execute(
                _LATE_SQL, ([row["battery_id"] for row in batch.late], [row["time"] for row in batch.late])
            )


class _Transaction:
    """`with` block that commits, or rolls back, and never leaves a broken connection behind."""

    def __init__(self, connection: psycopg2.extensions.connection) -> None:
        self._connection = connection
        self._cursor: psycopg2.extensions.cursor = connection.cursor()

    def __enter__(self) -> psycopg2.extensions.cursor:
        return self._cursor

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._cursor.close()
        if kind is None:
            self._connection.commit()
        elif issubclass(kind, psycopg2.OperationalError | psycopg2.InterfaceError):
            self._connection.close()
        else:
            self._connection.rollback()
