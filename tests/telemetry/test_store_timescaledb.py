"""The store on TimescaleDB: policies, compressed chunks, late readings, Apache-licensed features, least privilege."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest

from deploy.servers.install import DEBIAN
from deploy.servers.postgres import missing_timescaledb, postgres
from telemetry.batch import Batch
from telemetry.sinks.postgres import StoreSink
from telemetry.stores.migrate import MIGRATIONS, MigrationError, migrate
from telemetry.stores.postgres import PostgresStore
from telemetry.stores.retention import delete_old_rows
from tests.needs import need

#: Wall-clock time, which the policies use.
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
#: Chunks are days of UTC: tests that count chunks begin at a fixed hour of a day, in the past.
NOON = (NOW - timedelta(days=1)).replace(hour=12)
OWN_JOBS = "timescaledb_information.jobs WHERE owner = USER::text::regrole"
HOURLY_COLUMNS = [
    "bucket", "battery_id", "avg_soc", "avg_soh", "avg_temperature", "avg_voltage", "avg_current", "max_cycles",
    "avg_rul", "avg_failure_prob",
]  # fmt: skip


def query(dsn: str, sql: str, values: Any = None) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def new_login(server: str, database: str) -> str:
    """DSN of `database` for a new login without privileges."""
    name, password = f"login_{secrets.token_hex(4)}", secrets.token_hex(16)
    query(server, f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    parts = urlsplit(database)
    return parts._replace(netloc=f"{name}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


def login_name(dsn: str) -> str:
    return str(urlsplit(dsn).username)


@pytest.fixture(scope="module")
def owned_database(timescaledb_dsn: str, new_database: Callable[[str], str]) -> Callable[[], str]:
    """Creates a database as compose does: the owner is not a superuser, and no other login may connect."""
    query(
        timescaledb_dsn,
        # Without twin_console: a missing role must not prevent the grants to the others.
        "DO $$ BEGIN CREATE ROLE twin_writer; CREATE ROLE twin_reader; EXCEPTION WHEN duplicate_object THEN END $$",
    )

    def create() -> str:
        database = new_database(timescaledb_dsn)
        owner = new_login(timescaledb_dsn, database)
        name = urlsplit(database).path.removeprefix("/")
        query(timescaledb_dsn, f"ALTER DATABASE {name} OWNER TO {login_name(owner)}")
        query(timescaledb_dsn, f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        return owner

    return create


@pytest.fixture
def dsn(owned_database: Callable[[], str]) -> str:
    """A migrated database with an owner, whose jobs run only when a test runs them."""
    database = owned_database()
    migrate(database)
    stop_jobs(database)
    return database


def stop_jobs(dsn: str) -> None:
    query(dsn, f"SELECT alter_job(job_id, scheduled => false) FROM {OWN_JOBS}")


def run_job(dsn: str, procedure: str, table: str) -> None:
    ((job,),) = query(
        dsn,
        "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = %s AND hypertable_name = %s",
        (procedure, table),
    )
    query(dsn, f"CALL run_job({job})")


def refresh_hourly(dsn: str) -> None:
    ((job,),) = query(
        dsn,
        "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_refresh_continuous_aggregate'",
    )
    query(dsn, f"CALL run_job({job})")


def readings(battery_id: str, start: datetime, rows: int, *, every_s: float = 600.0) -> list[dict[str, Any]]:
    """`rows` readings whose voltage is their index."""
    return [
        {
            "battery_id": battery_id,
            "time": start + timedelta(seconds=n * every_s),
            "voltage": float(n),
            "current": 1.0,
            "temperature": 20.0,
        }
        for n in range(rows)
    ]


def rul(row: dict[str, Any]) -> dict[str, Any]:
    key = {name: row[name] for name in ("battery_id", "time")}
    return {**key, "target": "rul", "value": 7.0, "role": "champion", "predicted_at": NOW}


def write(dsn: str, batch: Batch) -> None:
    store = PostgresStore(dsn)
    try:
        store.write(batch)
    finally:
        store.close()


def compress(dsn: str, table: str = "ev_telemetry") -> None:
    run_job(dsn, "policy_compression", table)
    compressed = "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = %s AND is_compressed"
    assert query(dsn, compressed, (table,)) != [(0,)]


def test_policies_match_the_contract(dsn: str) -> None:
    assert query(dsn, "SELECT rolsuper, rolcreaterole FROM pg_roles WHERE rolname = USER") == [(False, False)]
    jobs = query(
        dsn,
        "SELECT proc_name, hypertable_name, schedule_interval, config->>'compress_after', config->>'drop_after' "
        f"FROM {OWN_JOBS}",
    )
    for table in ("ev_telemetry", "battery_predictions"):
        assert ("policy_compression", table, timedelta(hours=12), "7 days", None) in jobs
        assert ("policy_retention", table, timedelta(days=1), None, "30 days") in jobs
    (refreshed,) = [job for job in jobs if job[0] == "policy_refresh_continuous_aggregate"]
    assert refreshed[2] == timedelta(minutes=30)
    segments = "SELECT hypertable::text, segmentby FROM timescaledb_information.hypertable_compression_settings"
    assert (
        dict(query(dsn, segments)).items()
        >= {"ev_telemetry": "battery_id", "battery_predictions": "battery_id"}.items()
    )
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'ev_telemetry_hourly'::regclass ORDER BY attnum"
    assert [name for (name,) in query(dsn, columns)] == HOURLY_COLUMNS
    assert migrate(dsn) == []
    assert len(query(dsn, f"SELECT job_id FROM {OWN_JOBS}")) == len(jobs)


def test_latest_view_uses_the_index_of_each_chunk(dsn: str) -> None:
    write(
        dsn,
        Batch(
            readings=readings("active", NOW - timedelta(days=10), 1440) + readings("new", NOW - timedelta(hours=2), 10)
        ),
    )
    write(dsn, Batch(readings=readings("stale", NOW - timedelta(days=9), 10)))
    query(dsn, "ANALYZE ev_telemetry")
    plan = "\n".join(row[0] for row in query(dsn, "EXPLAIN SELECT * FROM latest_battery_status"))
    assert "chunk_ev_telemetry_battery_time" in plan
    assert "Seq Scan on _hyper" not in plan
    assert "Sort" not in plan
    compress(dsn)
    latest = dict(query(dsn, "SELECT battery_id, voltage FROM latest_battery_status"))
    assert latest == {"active": 1439.0, "new": 9.0, "stale": 9.0}


def test_writes_to_compressed_chunks_are_idempotent(dsn: str) -> None:
    old = readings("EV-1", NOW - timedelta(days=9), 500, every_s=1.0)
    write(dsn, Batch(readings=old))
    compress(dsn)
    late = readings("EV-2", NOW - timedelta(days=9), 500, every_s=1.0)
    # A limit that ordinary clients exceed; the store lifts it for its batches.
    query(dsn, f"ALTER ROLE {login_name(dsn)} SET timescaledb.max_tuples_decompressed_per_dml_transaction = 10")
    with pytest.raises(psycopg2.Error, match="decompression limit exceeded"):
        query(dsn, "UPDATE ev_telemetry SET soc = 50 WHERE battery_id = 'EV-1'")
    for _ in range(2):
        write(dsn, Batch(readings=old + late, predictions=[rul(row) for row in old + late]))
    counts = (
        "SELECT count(*), count(voltage), count(rul_prediction), count(DISTINCT (battery_id, time)) FROM ev_telemetry"
    )
    assert query(dsn, counts) == [(1000, 1000, 1000, 1000)]
    assert query(dsn, "SELECT count(*) FROM battery_predictions") == [(1000,)]
    assert query(dsn, "SELECT DISTINCT status FROM ev_telemetry") == [("NORMAL",)]


def test_late_readings_are_added_to_the_hourly_aggregate(dsn: str) -> None:
    hours = "SELECT bucket, avg_voltage FROM ev_telemetry_hourly WHERE battery_id = 'EV-1' ORDER BY bucket"
    write(dsn, Batch(readings=readings("EV-1", NOW - timedelta(hours=3), 6)))
    refresh_hourly(dsn)
    late = NOW - timedelta(days=20)
    write(dsn, Batch(readings=readings("EV-1", late, 6)))
    assert query(dsn, hours) == [(NOW - timedelta(hours=3), 2.5)]
    refresh_hourly(dsn)
    assert query(dsn, hours) == [(late, 2.5), (NOW - timedelta(hours=3), 2.5)]


def test_retention_keeps_a_stale_battery_in_the_latest_view(dsn: str) -> None:
    write(
        dsn,
        Batch(
            readings=readings("stale", NOW - timedelta(days=60), 10) + readings("active", NOW - timedelta(hours=2), 10)
        ),
    )
    hours = "SELECT count(*) FROM ev_telemetry_hourly WHERE battery_id = 'stale'"
    query(dsn, "CALL refresh_continuous_aggregate('ev_telemetry_hourly', NULL, NULL)")
    assert query(dsn, hours) == [(2,)]
    run_job(dsn, "policy_retention", "ev_telemetry")
    refresh_hourly(dsn)
    assert query(dsn, "SELECT DISTINCT battery_id FROM ev_telemetry") == [("active",)]
    assert query(dsn, "SELECT battery_id, voltage FROM latest_battery_status ORDER BY 1") == [
        ("active", 9.0),
        ("stale", None),
    ]
    assert query(dsn, hours) == [(2,)], "the hourly aggregate has no retention"


def test_database_with_compressed_chunks_can_be_migrated(owned_database: Callable[[], str], tmp_path: Path) -> None:
    dsn = owned_database()
    for file in (*sorted(MIGRATIONS.glob("000[123]_*.sql")), MIGRATIONS / "repeatable_1_timescaledb.sql"):
        shutil.copy(file, tmp_path)
    migrate(dsn, tmp_path)
    stop_jobs(dsn)
    query(
        dsn,
        "INSERT INTO battery_predictions (battery_id, time, target, value) SELECT 'EV-1', %s + n * interval '1 min', "
        "'soh', n FROM generate_series(0, 99) AS n",
        (NOW - timedelta(days=9),),
    )
    compress(dsn, "battery_predictions")
    assert migrate(dsn)
    assert query(dsn, "SELECT count(*), count(cycle_index), sum(value) FROM battery_predictions") == [(100, 0, 4950.0)]


def test_writer_and_reader_logins_have_least_privilege(timescaledb_dsn: str, dsn: str) -> None:
    writer, reader, other = (new_login(timescaledb_dsn, dsn) for _ in range(3))
    query(timescaledb_dsn, f"GRANT twin_writer TO {login_name(writer)}; GRANT twin_reader TO {login_name(reader)}")
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(other)
    sink = StoreSink(writer)
    sink.setup()
    # Days without a chunk, and one with a compressed chunk.
    write(dsn, Batch(readings=readings("EV-1", NOW - timedelta(days=9), 10)))
    compress(dsn)
    rows = readings("EV-1", NOW - timedelta(days=9), 60, every_s=6 * 3600.0)
    for _ in range(2):
        sink.write(
            Batch(
                readings=rows,
                predictions=[rul(row) for row in rows],
                batteries=[{"battery_id": "EV-1", "nominal_capacity_ah": 150.0}],
                cycles=[{"battery_id": "EV-1", "cycle_index": 1.0}],
            )
        )
    sink.close()
    for name in ("ev_telemetry", "latest_battery_status", "ev_telemetry_hourly", "battery_predictions", "batteries"):
        assert query(reader, f"SELECT count(*) FROM {name}") != [(0,)], name
    for login, sql in (
        (reader, "INSERT INTO batteries (battery_id) VALUES ('x')"),
        (writer, "DELETE FROM ev_telemetry"),
        (writer, "SELECT drop_chunks('ev_telemetry', older_than => interval '1 day')"),
        (writer, "CREATE TABLE mine (x int)"),
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            query(login, sql)


def test_login_without_create_privilege_gets_an_error_that_names_the_missing_migration(
    timescaledb_dsn: str, dsn: str, owned_database: Callable[[], str], tmp_path: Path
) -> None:
    writer = new_login(timescaledb_dsn, dsn)
    query(timescaledb_dsn, f"GRANT twin_writer TO {login_name(writer)}")
    assert migrate(writer) == []
    shutil.copytree(MIGRATIONS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "9999_next.sql").write_text("SELECT 1")
    with pytest.raises(MigrationError, match=r"lacks 9999_next\.sql and this login may not apply it"):
        migrate(writer, tmp_path)
    empty = owned_database()
    unprivileged = new_login(timescaledb_dsn, empty)
    query(empty, f"GRANT CONNECT ON DATABASE {urlsplit(empty).path.removeprefix('/')} TO {login_name(unprivileged)}")
    with pytest.raises(MigrationError, match=r"lacks 0001_tables\.sql"):
        migrate(unprivileged)


@pytest.fixture(scope="module")
def apache(server_folders: Path, new_database: Callable[[str], str]) -> Iterator[str]:
    """A migrated database on a TimescaleDB with its Apache-licensed features only."""
    need(DEBIAN["postgresql-15"])
    if reason := missing_timescaledb():
        pytest.skip(reason)
    with postgres(server_folders / "timescaledb-apache", durable=False, timescaledb="apache") as server:
        database = new_database(server.dsn)
        migrate(database)
        yield database


def test_apache_licensed_features_suffice(apache: str) -> None:
    assert query(apache, "SHOW timescaledb.license") == [("apache",)]
    assert migrate(apache) == []
    hypertables = "SELECT hypertable_name FROM timescaledb_information.hypertables ORDER BY 1"
    assert query(apache, hypertables) == [("battery_predictions",), ("ev_telemetry",)]
    # From noon to 21:10 of the next day, and 90 minutes of yesterday.
    old, new = readings("EV-1", NOON - timedelta(days=40), 200), readings("EV-1", NOON, 10)
    write(apache, Batch(readings=old + new, predictions=[rul(row) for row in old + new]))
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'ev_telemetry_hourly'::regclass ORDER BY attnum"
    assert [name for (name,) in query(apache, columns)] == HOURLY_COLUMNS
    assert query(apache, "SELECT count(*) FROM ev_telemetry_hourly") == [(36,)]

    chunks = "SELECT count(*) FROM show_chunks('ev_telemetry')"
    assert query(apache, chunks) == [(3,)]
    # In the middle of a chunk: complete chunks are dropped, of this one only the old rows are deleted.
    assert delete_old_rows(apache, old[190]["time"]) == {"ev_telemetry": 190, "battery_predictions": 190}
    assert query(apache, chunks) == [(2,)]
    assert query(apache, "SELECT voltage FROM latest_battery_status") == [(9.0,)]
    assert delete_old_rows(apache, NOON + timedelta(days=3)) == {"ev_telemetry": 20, "battery_predictions": 20}
    assert query(apache, chunks) == [(0,)]


def test_plain_database_with_rows_is_converted_when_timescaledb_is_installed(server_folders: Path) -> None:
    need(DEBIAN["postgresql-15"])
    if reason := missing_timescaledb():
        pytest.skip(reason)
    folder = server_folders / "plain first"
    rows = readings("EV-1", NOON - timedelta(days=20), 500)
    hours = "SELECT count(*), sum(avg_voltage) FROM ev_telemetry_hourly"
    with postgres(folder, durable=False) as server:
        migrate(server.dsn)
        write(server.dsn, Batch(readings=rows, predictions=[rul(row) for row in rows]))
        plain = query(server.dsn, hours)
    with postgres(folder, durable=False, timescaledb="timescale") as server:
        assert migrate(server.dsn) == []
        stop_jobs(server.dsn)
        assert query(server.dsn, "SELECT count(*) FROM show_chunks('ev_telemetry')") == [(4,)]
        assert query(server.dsn, "SELECT count(*) FROM battery_predictions") == [(500,)]
        refresh_hourly(server.dsn)
        assert query(server.dsn, hours) == plain
        assert query(server.dsn, "SELECT voltage FROM latest_battery_status") == [(499.0,)]


def test_checks_are_added_to_compressed_chunks(owned_database: Callable[[], str], tmp_path: Path) -> None:
    """The migration that quarantines invalid values reaches the rows of a store that has compressed its history."""
    dsn = owned_database()
    before = tmp_path / "before"
    shutil.copytree(MIGRATIONS, before)
    (before / "0016_checks.sql").unlink()
    for later in (*before.glob("001[7-9]_*.sql"), before / "repeatable_2_roles.sql"):
        later.unlink()
    migrate(dsn, before)
    time = NOW - timedelta(days=10)
    # By SQL, because the store writes columns that later migrations add.
    query(dsn, "INSERT INTO batteries (battery_id) VALUES ('EV-1')")
    query(
        dsn,
        "INSERT INTO ev_telemetry (battery_id, time, voltage, current, temperature, soc) "
        "SELECT 'EV-1', %s + n * interval '1 minute', 360, 1, 20, 50 FROM generate_series(0, 99) n",
        (time,),
    )
    query(dsn, "UPDATE ev_telemetry SET soc = 'NaN' WHERE time = %s", (time,))
    query(dsn, "UPDATE ev_telemetry SET voltage = 'Infinity' WHERE time = %s", (time + timedelta(minutes=1),))
    compressed = query(dsn, "SELECT compress_chunk(c) FROM show_chunks('ev_telemetry') c")
    assert compressed
    migrate(dsn)
    assert query(dsn, "SELECT count(*), count(soc) FROM ev_telemetry") == [(99, 98)]
    assert query(dsn, "SELECT reason FROM quarantined_rows ORDER BY 1") == [("soc",), ("voltage",)]
    with pytest.raises(psycopg2.errors.CheckViolation):
        query(dsn, "UPDATE ev_telemetry SET soc = 'NaN'")
