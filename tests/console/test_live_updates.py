"""Poll loop: published snapshots, also with a hung, unavailable or read-only telemetry store."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from console import live_updates as live_module
from console.alerts.alert_store import AlertStore
from console.api.health import ConsoleMetrics
from console.connection_pool import Database, StoreUnavailableError
from console.live_updates import FleetSnapshot, LiveUpdates, polling
from console.pages.components import status_of
from console.queries import Queries
from telemetry.batch import Batch
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore

STATEMENT_S = 0.3


@pytest.fixture(scope="module")
def dsn(postgres_server: str, new_database: Callable[[str], str]) -> str:
    """A store with one overheated battery."""
    dsn = new_database(postgres_server)
    migrate(dsn)
    store = PostgresStore(dsn)
    hot = {"battery_id": "EV-1", "time": datetime.now(UTC), "voltage": 360.0, "current": 1.0, "temperature": 61.0}
    store.write(Batch(readings=[hot]))
    store.close()
    # The next reading is overdue, so that this one counts alone.
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE ev_telemetry SET created_at = now() - interval '1 minute'")
    return dsn


@pytest.fixture
def read_pool(dsn: str) -> Iterator[Database]:
    database = Database(dsn, statement_timeout_s=STATEMENT_S)
    yield database
    database.close()


@pytest.fixture
def write_pool(dsn: str) -> Iterator[Database]:
    database = Database(dsn, read_only=False)
    with database.transaction() as cursor:
        cursor.execute("TRUNCATE battery_alerts")
    yield database
    database.close()


def published(live: LiveUpdates, polls: int) -> list[FleetSnapshot]:
    """The snapshots that subscribers receive during `polls` polls."""
    received: list[FleetSnapshot] = []

    async def run() -> None:
        live.changed.subscribe(lambda snapshot, _: received.append(snapshot))
        for _ in range(polls):
            await live.poll()
        await asyncio.sleep(0)

    asyncio.run(run())
    return received


def backend(database: Database) -> int:
    """Process id of the server backend of the next connection."""
    row = database.fetch_one("SELECT pg_backend_pid() AS pid")
    assert row is not None
    return int(row["pid"])


def test_every_poll_is_published(read_pool: Database, write_pool: Database) -> None:
    received = published(LiveUpdates(Queries(read_pool), AlertStore(write_pool), ConsoleMetrics()), 3)
    assert len(received) == 3
    times = [snapshot.store_time for snapshot in received]
    assert None not in times
    assert times == sorted(set(times))  # type: ignore[type-var]
    assert received[-1].open_alerts == {("EV-1", "thermal"): "CRITICAL"}


def test_stale_is_relative_to_the_database_clock() -> None:
    stored_at = datetime(2026, 1, 1, tzinfo=UTC)
    row: dict[str, Any] = {"created_at": stored_at, "status": "NORMAL"}
    assert status_of(row, stored_at + timedelta(seconds=59)) == "NORMAL"
    assert status_of(row, stored_at + timedelta(seconds=61)) == "STALE"


def test_hung_server_is_reported_and_its_connection_replaced(
    read_pool: Database, write_pool: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "_OVERDUE_S", 0.4)
    live = LiveUpdates(Queries(read_pool), AlertStore(write_pool), ConsoleMetrics())
    published(live, 1)
    pid = backend(read_pool)
    os.kill(pid, signal.SIGSTOP)
    try:
        received = published(live, 1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "has not responded for" in str(received[0].problem)
    assert received[0].rows.keys() == {"EV-1"}  # the last snapshot stays
    assert received[-1].problem is None  # a new connection works


def test_slow_connection_failures_do_not_lengthen_the_poll_interval(
    read_pool: Database, write_pool: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "SLOW_INTERVAL_S", 0.05)

    class Unavailable(Queries):
        def now(self) -> datetime:
            time.sleep(0.5)
            raise StoreUnavailableError("unavailable")

    async def run() -> None:
        live = LiveUpdates(Unavailable(read_pool), AlertStore(write_pool), ConsoleMetrics())
        third, received = asyncio.Event(), []

        def receive(snapshot: FleetSnapshot) -> None:
            received.append(snapshot)
            if len(received) == 3:
                third.set()

        live.changed.subscribe(lambda snapshot, _: receive(snapshot))
        async with polling(live):
            await asyncio.wait_for(third.wait(), 4.5)  # 5 s with pauses of four times the duration of a poll

    asyncio.run(run())


def test_transaction_on_a_hung_server_times_out(dsn: str) -> None:
    database = Database(dsn, statement_timeout_s=0.1, read_only=False)
    pid = backend(database)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailableError, match="the connection failed"), database.transaction() as cursor:
            cursor.execute("SELECT 1")
    finally:
        os.kill(pid, signal.SIGCONT)
        database.close()


def test_read_only_store_still_shows_batteries(dsn: str, read_pool: Database, write_pool: Database) -> None:
    standby = Database(make_dsn(dsn, options="-c default_transaction_read_only=on"), read_only=False)
    (snapshot,) = published(LiveUpdates(Queries(read_pool), AlertStore(standby), ConsoleMetrics()), 1)
    standby.close()
    assert snapshot.problem is None
    assert snapshot.rows["EV-1"]["temperature"] == 61.0
    assert "is read-only" in str(snapshot.alerts_problem)
    (snapshot,) = published(LiveUpdates(Queries(read_pool), AlertStore(write_pool), ConsoleMetrics()), 1)
    assert snapshot.alerts_problem is None


def test_exception_in_a_poll_is_reported_and_polling_continues(read_pool: Database, write_pool: Database) -> None:
    class FailingAlertStore(AlertStore):
        def open_severities(self) -> Any:
            raise ValueError("a bug")

    (snapshot,) = published(LiveUpdates(Queries(read_pool), FailingAlertStore(write_pool), ConsoleMetrics()), 1)
    assert "see its log" in str(snapshot.problem)
