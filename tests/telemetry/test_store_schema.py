"""Database schema: migrations, health status, views, roles and the embedded server."""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from telemetry.contract import BATTERY_FIELDS, CYCLE_FIELDS, READING_FIELDS, Field
from telemetry.embedded.postgres import embedded_postgres
from telemetry.health import battery_health
from telemetry.stores.migrate import MIGRATIONS, MigrationError, migrate, statements_digest
from telemetry.stores.postgres import PREDICTION_FIELDS
from telemetry.stores.retention import delete_old_rows

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SQL_TYPES = {
    "text": "text",
    "time": "timestamp with time zone",
    "float": "double precision",
    "bool": "boolean",
}


@pytest.fixture(scope="module", params=["postgres_server", "postgres15_dsn", "timescaledb_dsn"])
def dsn(request: pytest.FixtureRequest, new_database: Callable[[str], str]) -> str:
    """A migrated database on each server that the project supports."""
    database = new_database(request.getfixturevalue(request.param))
    migrate(database)
    return database


def query(dsn: str, sql: str, values: Any = None) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def test_repeated_migration_applies_nothing(dsn: str) -> None:
    recorded = query(dsn, "SELECT * FROM schema_migrations ORDER BY name")
    assert migrate(dsn) == []
    assert query(dsn, "SELECT * FROM schema_migrations ORDER BY name") == recorded
    assert [row[0] for row in recorded] == sorted(file.name for file in MIGRATIONS.glob("0*.sql"))


def test_every_table_and_column_has_a_comment(dsn: str) -> None:
    tables = "SELECT c.oid, c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'"
    assert len(query(dsn, tables)) >= 18
    missing = query(
        dsn,
        f"""SELECT t.relname, a.attname FROM ({tables}) t
            JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum >= 0 AND NOT a.attisdropped
            WHERE col_description(t.oid, a.attnum) IS NULL
            UNION SELECT t.relname, '' FROM ({tables}) t WHERE obj_description(t.oid, 'pg_class') IS NULL""",
    )
    assert missing == [], "add COMMENT ON statements to the migration"


def test_changed_or_missing_applied_migration_is_refused(postgres_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "0001_first.sql"
    file.write_text("CREATE TABLE first (x int)")
    assert migrate(postgres_dsn, tmp_path) == ["0001_first.sql"]
    file.write_text("CREATE TABLE first (x int, y int)")
    with pytest.raises(MigrationError, match="have changed since"):
        migrate(postgres_dsn, tmp_path)
    file.unlink()
    with pytest.raises(MigrationError, match="newer version"):
        migrate(postgres_dsn, tmp_path)


FUNCTION = """-- Doubles.
CREATE FUNCTION double(x int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    -- It's twice as much.

    RETURN 2 * x;  -- not 3
END
$$;
COMMENT ON FUNCTION double IS 'isn''t -- a comment';
"""


def test_comments_and_blank_lines_of_an_applied_migration_may_change(postgres_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "0001_double.sql"
    file.write_text(FUNCTION)
    assert migrate(postgres_dsn, tmp_path) == [file.name]
    code = [line.split("  --")[0] for line in FUNCTION.splitlines() if line and not line.strip().startswith("--")]
    file.write_text("\n".join(["-- Multiplies by two: 'x'.", "", *code]))
    assert migrate(postgres_dsn, tmp_path) == []


@pytest.mark.parametrize(
    "change", [("2 * x", "3 * x"), ("-- a comment", "-- another comment"), ("RETURN 2", "--RETURN 2"), ("BEGIN\n", "")]
)
def test_statements_digest_covers_all_code(change: tuple[str, str]) -> None:
    assert statements_digest(FUNCTION.replace(*change)) != statements_digest(FUNCTION)


def released() -> dict[str, tuple[str, str]]:
    """File name -> digests of the full text and of the statements, as released before comments could change."""
    rows = (line.split() for line in (MIGRATIONS / "released.sha256").read_text().splitlines())
    return {name: (full_text, statements) for full_text, statements, name in rows}


def test_statements_of_released_migrations_are_unchanged() -> None:
    files = [file for file in sorted(MIGRATIONS.glob("0*.sql")) if file.name < "0015"]
    assert {file.name: statements_digest(file.read_text()) for file in files} == {
        name: statements for name, (_, statements) in released().items()
    }


def test_database_recorded_with_full_text_digests_migrates(postgres_dsn: str, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    assert len(migrate(postgres_dsn, folder)) >= 14
    for name, (full_text, _) in released().items():
        query(postgres_dsn, "UPDATE schema_migrations SET sha256 = %s WHERE name = %s", (full_text, name))
    assert migrate(postgres_dsn, folder) == []
    changed = folder / "0003_views.sql"
    changed.write_text(changed.read_text().replace("avg(soc) AS avg_soc", "max(soc) AS avg_soc"))
    with pytest.raises(MigrationError, match=r"0003_views\.sql have changed since"):
        migrate(postgres_dsn, folder)


def test_full_text_digest_of_an_unknown_text_is_refused(postgres_dsn: str) -> None:
    migrate(postgres_dsn)
    other = hashlib.sha256(b"another text").hexdigest()
    query(postgres_dsn, "UPDATE schema_migrations SET sha256 = %s WHERE name = '0001_tables.sql'", (other,))
    with pytest.raises(MigrationError, match="have changed since"):
        migrate(postgres_dsn)


def test_failed_migration_is_rolled_back_and_can_be_repeated(postgres_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "0001_first.sql"
    file.write_text("CREATE TABLE first (x int); SELECT 1 / 0")
    with pytest.raises(psycopg2.Error):
        migrate(postgres_dsn, tmp_path)
    assert query(postgres_dsn, "SELECT to_regclass('first')") == [(None,)]
    file.write_text("CREATE TABLE first (x int)")
    assert migrate(postgres_dsn, tmp_path) == ["0001_first.sql"]


def test_no_migration_drops_a_table() -> None:
    for file in MIGRATIONS.glob("*.sql"):
        text = file.read_text()
        assert not re.search(r"drop\s+table|truncate", text, re.IGNORECASE), file.name
        if re.search(r"delete\s+from", text, re.IGNORECASE):
            assert "INSERT INTO quarantined_rows" in text, f"{file.name} deletes rows that are stored nowhere else"


@pytest.mark.parametrize(
    ("table", "fields"),
    [
        ("ev_telemetry", READING_FIELDS),
        ("battery_cycles", CYCLE_FIELDS),
        ("batteries", BATTERY_FIELDS),
        ("battery_predictions", PREDICTION_FIELDS),
    ],
)
def test_table_columns_match_the_contract(dsn: str, table: str, fields: tuple[Field, ...]) -> None:
    stored = dict(
        query(dsn, "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s", (table,))
    )
    assert {field.name: SQL_TYPES[field.kind] for field in fields}.items() <= stored.items()
    additional = set(stored) - {field.name for field in fields}
    expected = {"status", "rul_prediction", "failure_probability", "prediction_timestamp", "created_at", "late"}
    assert additional == (expected if table == "ev_telemetry" else set())


def test_latest_view_has_every_column_of_a_reading(dsn: str) -> None:
    columns = "SELECT column_name FROM information_schema.columns WHERE table_name = %s ORDER BY 1"
    assert query(dsn, columns, ("latest_battery_status",)) == query(dsn, columns, ("ev_telemetry",))


def expected_health(soc: float | None, soh: float | None, temperature: float | None, failure: float | None) -> str:
    """Independent implementation of the contract's rule."""

    def worse(soc_limit: float, soh_limit: float, hot: float, risky: float) -> bool:
        return any(
            (
                soc is not None and soc < soc_limit,
                soh is not None and soh < soh_limit,
                temperature is not None and temperature > hot,
                failure is not None and failure > risky,
            )
        )

    return "CRITICAL" if worse(15, 75, 60, 0.7) else "WARNING" if worse(30, 85, 45, 0.3) else "NORMAL"


def test_health_status_truth_table(dsn: str) -> None:
    """Each value below, at and above both limits, and missing; all combinations, computed by the trigger."""
    cases = list(
        itertools.product(
            (None, 14.9, 15.0, 29.9, 30.0),
            (None, 74.9, 75.0, 84.9, 85.0),
            (None, 45.0, 45.1, 60.0, 60.1),
            (None, 0.3, 0.31, 0.7, 0.71),
        )
    )
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        for number, (soc, soh, temperature, failure) in enumerate(cases):
            cursor.execute(
                "INSERT INTO ev_telemetry (battery_id, time, voltage, current, temperature, soc, soh, "
                "failure_probability, prediction_timestamp) VALUES ('truth', %s, 1, 1, %s, %s, %s, %s, now())",
                (NOW + timedelta(seconds=number), temperature, soc, soh, failure),
            )
        cursor.execute("SELECT status FROM ev_telemetry WHERE battery_id = 'truth' ORDER BY time")
        statuses = [status for (status,) in cursor.fetchall()]
    connection.close()
    assert statuses == [expected_health(*case) for case in cases]
    assert statuses == [battery_health(*case) for case in cases]
    assert set(statuses) == {"NORMAL", "WARNING", "CRITICAL"}


def test_nan_matches_no_rule_and_updates_recompute_the_status(dsn: str) -> None:
    assert query(dsn, "SELECT get_battery_health('NaN', 'NaN', 'NaN', 'NaN')") == [("NORMAL",)]
    key = "battery_id = 'renewed'"
    query(
        dsn,
        "INSERT INTO ev_telemetry (battery_id, time, voltage, current, temperature) VALUES ('renewed', %s, 1, 1, 20)",
        (NOW,),
    )
    assert query(dsn, f"SELECT status FROM ev_telemetry WHERE {key}") == [("NORMAL",)]
    query(dsn, f"UPDATE ev_telemetry SET failure_probability = 0.9 WHERE {key}")
    assert query(dsn, f"SELECT status FROM ev_telemetry WHERE {key}") == [("CRITICAL",)]


def test_reading_without_required_values_is_refused(dsn: str) -> None:
    with pytest.raises(psycopg2.errors.CheckViolation):
        query(dsn, "INSERT INTO ev_telemetry (battery_id, time, voltage) VALUES ('half', %s, 1)", (NOW,))


def fill(dsn: str, battery_id: str, rows: int, start: datetime) -> None:
    query(
        dsn,
        "INSERT INTO ev_telemetry (battery_id, time, voltage, current, temperature) "
        "SELECT %s, %s + n * interval '1 second', n, 1, 20 FROM generate_series(0, %s) AS n",
        (battery_id, start, rows - 1),
    )


def test_latest_view_skips_a_prediction_stored_before_its_reading(dsn: str) -> None:
    fill(dsn, "early", 10, NOW)
    query(
        dsn,
        "INSERT INTO ev_telemetry (battery_id, time, failure_probability, prediction_timestamp) "
        "VALUES ('early', %s, 0.01, now())",
        (NOW + timedelta(seconds=10),),
    )
    newest = "SELECT voltage, failure_probability FROM latest_battery_status WHERE battery_id = 'early'"
    assert query(dsn, newest) == [(9.0, None)]
    fill(dsn, "early", 1, NOW + timedelta(seconds=11))
    assert query(dsn, newest) == [(0.0, None)]


def test_latest_view_uses_the_index_and_keeps_stale_batteries(dsn: str) -> None:
    fill(dsn, "active", 20_000, NOW)
    fill(dsn, "stale", 10, NOW - timedelta(days=60))
    query(dsn, "ANALYZE ev_telemetry")
    latest = dict(query(dsn, "SELECT battery_id, voltage FROM latest_battery_status"))
    assert latest["active"] == 19_999.0
    assert latest["stale"] == 9.0
    plan = "\n".join(row[0] for row in query(dsn, "EXPLAIN SELECT * FROM latest_battery_status"))
    assert "ev_telemetry_battery_time" in plan
    assert "Seq Scan on ev_telemetry" not in plan

    deleted = delete_old_rows(dsn, NOW - timedelta(days=30))
    assert deleted["ev_telemetry"] == 10
    latest = dict(query(dsn, "SELECT battery_id, voltage FROM latest_battery_status"))
    assert latest["active"] == 19_999.0
    assert latest["stale"] is None


def test_hourly_view_has_buckets_of_utc_hours(dsn: str) -> None:
    fill(dsn, "hourly", 7200, NOW)
    rows = query(
        dsn,
        "SET timezone = 'Asia/Kolkata'; SELECT bucket, avg_voltage FROM ev_telemetry_hourly "
        "WHERE battery_id = 'hourly' ORDER BY bucket",
    )
    assert rows == [(NOW, 1799.5), (NOW + timedelta(hours=1), 5399.5)]


def test_roles_have_least_privilege(dsn: str) -> None:
    def as_role(role: str, sql: str) -> None:
        query(dsn, f"SET ROLE {role}; {sql}")

    insert = "INSERT INTO batteries (battery_id) VALUES ('role') ON CONFLICT DO NOTHING"
    as_role("twin_writer", insert)
    as_role("twin_writer", "INSERT INTO twin_consumers (consumer) VALUES ('role') ON CONFLICT DO NOTHING")
    as_role("twin_writer", "INSERT INTO drift_models VALUES ('soh', 'battery-soh', '1', now(), now())")
    as_role("twin_writer", "DELETE FROM drift_status WHERE target = 'soh'")  # of a replaced champion
    as_role("twin_reader", "SELECT * FROM latest_battery_status")
    for role, sql in (
        ("twin_reader", insert),
        ("twin_reader", "SELECT * FROM twin_states"),
        ("twin_writer", "DELETE FROM ev_telemetry"),
        ("twin_writer", "DELETE FROM drift_windows"),
        ("twin_writer", "ALTER TABLE ev_telemetry ADD COLUMN x int"),
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            as_role(role, sql)


def test_embedded_server_is_shared_and_stopped_by_the_last_user(server_folders: Path) -> None:
    folder = server_folders / "shared"
    pid_file = folder / "data" / "postmaster.pid"
    with embedded_postgres(folder) as dsn:
        first = pid_file.read_text()
        with embedded_postgres(folder) as again:
            assert again == dsn
            assert query(again, "SHOW listen_addresses") == [("",)]
        assert pid_file.read_text() == first
        query(dsn, "CREATE TABLE kept (x int)")
    assert not pid_file.exists()
    with embedded_postgres(folder) as dsn:
        assert query(dsn, "SELECT to_regclass('kept')") == [("kept",)]


def test_killed_user_of_the_embedded_server_does_not_keep_it_running(server_folders: Path) -> None:
    folder = server_folders / "killed user"
    script = f"""
import os, signal
from pathlib import Path
from telemetry.embedded.postgres import embedded_postgres
with embedded_postgres(Path({str(folder)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == -9
    pid_file = folder / "data" / "postmaster.pid"
    assert pid_file.exists(), "the server still runs after its user was killed"
    with embedded_postgres(folder) as dsn:
        assert query(dsn, "SELECT 1") == [(1,)]
    assert not pid_file.exists()
