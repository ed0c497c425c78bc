"""Looking at the store for everybody: what is told, also when it hangs or cannot be written to."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg2.extensions import make_dsn

from console import live_updates as live_module
from console.alerts.alert_store import AlertStore
from console.api.health import Metrics
from console.connection_pool import Database, StoreUnavailableError
from console.live_updates import Live, Snapshot, looking
from console.pages.components import status_of
from console.queries import Queries
from telemetry.batch import Batch
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore

STATEMENT_S = 0.3


@pytest.fixture(scope="module")
def dsn(postgres_server: str, new_database: Callable[[str], str]) -> str:
    """A store with one battery that is hot."""
    dsn = new_database(postgres_server)
    migrate(dsn)
    store = PostgresStore(dsn)
    hot = {"battery_id": "EV-1", "time": datetime.now(UTC), "voltage": 360.0, "current": 1.0, "temperature": 61.0}
    store.write(Batch(readings=[hot]))
    store.close()
    return dsn


@pytest.fixture
def reading(dsn: str) -> Iterator[Database]:
    database = Database(dsn, statement_timeout_s=STATEMENT_S)
    yield database
    database.close()


@pytest.fixture
def writing(dsn: str) -> Iterator[Database]:
    database = Database(dsn, read_only=False)
    with database.transaction() as cursor:
        cursor.execute("TRUNCATE battery_alerts")
    yield database
    database.close()


def told(live: Live, looks: int) -> list[Snapshot]:
    """What subscribers hear during so many looks."""
    heard: list[Snapshot] = []

    async def look() -> None:
        live.changed.subscribe(lambda snapshot, _: heard.append(snapshot))
        for _ in range(looks):
            await live.look()
        await asyncio.sleep(0)

    asyncio.run(look())
    return heard


def backend(database: Database) -> int:
    """The process that serves the connection which is used next."""
    row = database.fetch_one("SELECT pg_backend_pid() AS pid")
    assert row is not None
    return int(row["pid"])


def test_every_look_is_told_because_ages_go_on(reading: Database, writing: Database) -> None:
    heard = told(Live(Queries(reading, math.inf), AlertStore(writing), Metrics()), 3)
    assert len(heard) == 3
    times = [snapshot.store_time for snapshot in heard]
    assert None not in times
    assert times == sorted(set(times))  # type: ignore[type-var]
    assert heard[-1].open_alerts == {("EV-1", "thermal"): "CRITICAL"}


def test_silence_is_told_by_the_stores_clock() -> None:
    heard = datetime(2026, 1, 1, tzinfo=UTC)
    row: dict[str, Any] = {"created_at": heard, "status": "NORMAL"}
    assert status_of(row, heard + timedelta(seconds=59)) == "NORMAL"
    assert status_of(row, heard + timedelta(seconds=61)) == "SILENT"


def test_a_hung_server_is_said_and_left(reading: Database, writing: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_OVERDUE_S", 0.4)
    live = Live(Queries(reading, math.inf), AlertStore(writing), Metrics())
    told(live, 1)
    pid = backend(reading)
    os.kill(pid, signal.SIGSTOP)
    try:
        heard = told(live, 1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "has not answered for" in str(heard[0].problem)
    assert heard[0].rows.keys() == {"EV-1"}  # what was seen last stays
    assert heard[-1].problem is None  # another connection answers


def test_a_store_that_takes_long_to_be_away_is_looked_for_again_soon(
    reading: Database, writing: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "SLOW_INTERVAL_S", 0.05)

    class Away(Queries):
        def now(self) -> datetime:
            time.sleep(0.5)
            raise StoreUnavailableError("away")

    async def look() -> None:
        live, third, heard = Live(Away(reading, math.inf), AlertStore(writing), Metrics()), asyncio.Event(), []

        def hear(snapshot: Snapshot) -> None:
            heard.append(snapshot)
            if len(heard) == 3:
                third.set()

        live.changed.subscribe(lambda snapshot, _: hear(snapshot))
        async with looking(live):
            await asyncio.wait_for(third.wait(), 4.5)  # with pauses four times as long as a look it would be 5 s

    asyncio.run(look())


def test_a_transaction_on_a_hung_server_ends(dsn: str) -> None:
    database = Database(dsn, statement_timeout_s=0.1, read_only=False)
    pid = backend(database)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailableError, match="cannot be reached"), database.transaction() as cursor:
            cursor.execute("SELECT 1")
    finally:
        os.kill(pid, signal.SIGCONT)
        database.close()


def test_batteries_are_seen_where_alerts_cannot_be_kept(dsn: str, reading: Database, writing: Database) -> None:
    standby = Database(make_dsn(dsn, options="-c default_transaction_read_only=on"), read_only=False)
    (snapshot,) = told(Live(Queries(reading, math.inf), AlertStore(standby), Metrics()), 1)
    standby.close()
    assert snapshot.problem is None
    assert snapshot.rows["EV-1"]["temperature"] == 61.0
    assert "can only be read" in str(snapshot.alerts_problem)
    (snapshot,) = told(Live(Queries(reading, math.inf), AlertStore(writing), Metrics()), 1)
    assert snapshot.alerts_problem is None


def test_a_look_that_fails_does_not_end_looking(reading: Database, writing: Database) -> None:
    class Broken(AlertStore):
        def open_severities(self) -> Any:
            raise ValueError("a mistake of ours")

    (snapshot,) = told(Live(Queries(reading, math.inf), Broken(writing), Metrics()), 1)
    assert "its log says why" in str(snapshot.problem)
