"""Deletes old readings and predictions where no retention policy of TimescaleDB does.

python -m telemetry.stores.retention --days 30    # the database of TWIN_TELEMETRY_DSN
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg2
import psycopg2.extensions

from telemetry.settings import Settings
from telemetry.stores.connection import connect

RETENTION_DAYS = 30
_TABLES = ("ev_telemetry", "battery_predictions")


def delete_old_rows(dsn: str, older_than: datetime) -> dict[str, int]:
    """Delete rows before `older_than` and return how many, by table.

    Whole chunks of a hypertable are dropped.  Other rows are deleted battery by battery: each statement uses the index
    (battery_id, time) and holds its locks only briefly.  Batteries and cycles are never deleted.
    """
    deleted = dict.fromkeys(_TABLES, 0)
    connection = connect(dsn, "battery-twin-retention")
    connection.autocommit = True
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0")
        for table in _hypertables(cursor):
            deleted[table] += _drop_chunks(cursor, table, older_than)
        cursor.execute("SELECT battery_id FROM batteries ORDER BY battery_id")
        batteries = [battery_id for (battery_id,) in cursor.fetchall()]
        for battery_id in batteries:
            for table in _TABLES:
                sql = f"DELETE FROM {table} WHERE battery_id = %s AND time < %s"  # noqa: S608 - constant names
                cursor.execute(sql, (battery_id, older_than))
                deleted[table] += cursor.rowcount
    return deleted


def _hypertables(cursor: psycopg2.extensions.cursor) -> list[str]:
    cursor.execute("SELECT to_regclass('timescaledb_information.hypertables') IS NOT NULL")
    if cursor.fetchone() != (True,):
        return []
    cursor.execute(
        "SELECT hypertable_name FROM timescaledb_information.hypertables "
        "WHERE hypertable_schema = current_schema() AND hypertable_name = ANY(%s)",
        (list(_TABLES),),
    )
    return [str(name) for (name,) in cursor.fetchall()]


def _drop_chunks(cursor: psycopg2.extensions.cursor, table: str, older_than: datetime) -> int:
    """Drop the chunks of `table` that end before `older_than` and return the number of their rows."""
    cursor.execute("SELECT show_chunks(%s::regclass, older_than => %s)::text", (table, older_than))
    rows = 0
    for (chunk,) in cursor.fetchall():
        cursor.execute(f"SELECT count(*) FROM {chunk}")  # noqa: S608 - a name that TimescaleDB has quoted
        (count,) = cursor.fetchone() or (0,)
        rows += int(count)
    cursor.execute("SELECT drop_chunks(%s::regclass, older_than => %s)", (table, older_than))
    return rows


def main() -> int:
    """Delete rows older than `--days`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=RETENTION_DAYS)
    days = parser.parse_args().days
    dsn = Settings().telemetry_dsn
    if dsn is None:
        print("TWIN_TELEMETRY_DSN is not set: name the database to clean.", file=sys.stderr)
        return 2
    for table, count in delete_old_rows(dsn.get_secret_value(), datetime.now(UTC) - timedelta(days=days)).items():
        print(f"{table}: {count} rows older than {days:g} days deleted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
