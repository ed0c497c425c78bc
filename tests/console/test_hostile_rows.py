"""One bad row costs no other battery its page, its REST answer or its alerts, and one odd reading opens no alert."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import hypothesis
import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.alerts.alert_store import AlertStore
from console.api.health import ConsoleMetrics
from console.connection_pool import Database
from console.live_updates import LiveUpdates
from console.queries import Queries
from telemetry.batch import Batch
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.hostile import drop_checks, insert_hostile, stored_rows
from tests.monitoring.store_rows import query
from tests.monitoring.test_hostile_rows import HOSTILE

GOOD = [f"EV-{k}" for k in range(3)]


def row(battery_id: str, time: datetime, **values: object) -> dict[str, object]:
    return {"battery_id": battery_id, "time": time, "voltage": 360.0, "current": 40.0, "temperature": 25.0,
            "soc": 68.0, "soh": 95.0, **values}  # fmt: skip


class Store:
    """A telemetry store, and a console's poll loop on it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._writer = PostgresStore(dsn)
        self._pools = (Database(dsn), Database(dsn, read_only=False))
        self.alerts = AlertStore(self._pools[1])
        self.live = self.new_console()

    def new_console(self) -> LiveUpdates:
        return LiveUpdates(Queries(self._pools[0]), self.alerts, ConsoleMetrics())

    def write(self, *readings: dict[str, object], **tables: Any) -> None:
        self._writer.write(Batch(readings=list(readings), **tables))

    def poll(self) -> dict[tuple[str, str], str]:
        """Open alerts after a poll, as `write` has stored them."""
        asyncio.run(self.live.poll())
        assert self.live.snapshot.problem is None, self.live.snapshot.problem
        assert self.live.snapshot.alerts_problem is None
        return dict(self.live.snapshot.open_alerts)

    def close(self) -> None:
        self._writer.close()
        for pool in self._pools:
            pool.close()


@pytest.fixture
def store(postgres_dsn: str) -> Iterator[Store]:
    migrate(postgres_dsn)
    opened = Store(postgres_dsn)
    yield opened
    opened.close()


ODD = (("temperature", 25.0, 85.0, "thermal"), ("soc", 68.0, 0.0, "low_charge"))


@pytest.mark.parametrize(("column", "usual", "odd", "rule"), ODD)
def test_one_odd_reading_opens_nothing_and_its_status_says_it(
    store: Store, column: str, usual: float, odd: float, rule: str
) -> None:
    now = datetime.now(UTC)
    for second, value in enumerate([usual, odd, usual, usual]):
        store.write(row("EV-1", now + timedelta(seconds=second), **{column: value}))
        for _ in range(3):  # more polls than readings
            assert store.poll() == {}
        assert store.live.snapshot.rows["EV-1"]["status"] == ("NORMAL" if value == usual else "CRITICAL")
    assert store.alerts.alerts() == []


@pytest.mark.parametrize(("column", "usual", "odd", "rule"), ODD)
def test_lasting_value_opens_and_one_usual_reading_does_not_close(
    store: Store, column: str, usual: float, odd: float, rule: str
) -> None:
    now = datetime.now(UTC)
    readings = {"thermal": 2, "low_charge": 3}[rule]
    found = []
    for second, value in enumerate([usual] + [odd] * readings + [usual] + [odd] + [usual] * readings):
        store.write(row("EV-1", now + timedelta(seconds=second), **{column: value}))
        found.append(store.poll().get(("EV-1", rule)))
    opened = [None] * readings + ["CRITICAL"] * (readings + 2)
    assert found == [*opened, None]
    (alert,) = store.alerts.alerts()
    assert alert["cleared_at"] is not None


def test_last_reading_counts_alone_once_the_next_is_overdue(store: Store) -> None:
    now = datetime.now(UTC)
    store.write(row("EV-1", now - timedelta(seconds=20)))
    store.poll()
    store.write(row("EV-1", now, temperature=85.0))
    assert store.poll() == {}
    # Readings came every 20 s: 11 s of silence say nothing yet, 31 s do.
    for silent_s, expected in ((11, {}), (31, {("EV-1", "thermal"): "CRITICAL"})):
        query(store.dsn, "UPDATE ev_telemetry SET created_at = now() - make_interval(secs => %s)", (silent_s,))
        assert store.poll() == expected
    # A console that starts later has seen nothing of this, and keeps it open.
    store.live = store.new_console()
    assert store.poll() == {("EV-1", "thermal"): "CRITICAL"}


def test_reading_of_the_future_hides_no_alert(store: Store) -> None:
    now = datetime.now(UTC)
    store.write(row("EV-1", now + timedelta(days=3653), temperature=20.0))
    for second in range(2):
        store.write(row("EV-1", now + timedelta(seconds=second), temperature=70.0))
        alerts = store.poll()
    assert alerts == {("EV-1", "thermal"): "CRITICAL"}
    assert store.live.snapshot.rows["EV-1"]["temperature"] == 70.0


@pytest.mark.parametrize("damage", HOSTILE.values(), ids=HOSTILE)
def test_good_batteries_keep_pages_and_alerts(store: Store, api_on: Callable[[str], httpx.Client], damage: str) -> None:
    drop_checks(store.dsn)
    now = datetime.now(UTC)
    due = now + timedelta(seconds=300)
    names = ["BAD", *GOOD]
    store.write(
        *[row(name, now) for name in names],
        batteries=[{"battery_id": name, "nominal_capacity_ah": 150.0, "in_service_since": now} for name in names],
        predictions=[
            {"battery_id": name, "time": now, "target": target, "value": 1.0, "lower": 0.5, "upper": 2.0,
             "due": due if target == "temperature" else None, "cycle_index": 500.0, "model_name": f"battery-{target}",
             "model_version": "1", "role": "champion", "predicted_at": now}
            for name in names for target in ("soh", "temperature", "rul", "failure")
        ],
        cycles=[{"battery_id": name, "cycle_index": 499.0, "kind": "cycle", "start_time": now, "end_time": now,
                 "soh": 90.0} for name in names],
    )  # fmt: skip
    query(store.dsn, damage)
    for second in range(1, 3):
        store.write(*[row(name, now + timedelta(seconds=second), temperature=80.0) for name in GOOD])
        alerts = store.poll()
    assert {(name, "thermal") for name in GOOD} <= alerts.keys()
    client = api_on(store.dsn)
    response = client.get("/api/alerts")
    assert response.status_code == 200, response.text
    assert {alert["battery_id"] for alert in response.json()["alerts"]} >= set(GOOD)
    for path in ("status", "detailed", "comparison", "history", "latest", "predictions", "stats"):
        for name in names:
            response = client.get(f"/api/battery/{path}", params={"battery_id": name})
            assert response.status_code == 200, (path, name, response.text)
            assert "NaN" not in response.text
    assert client.get("/api/batteries/list").json()["count"] == len(names)


def test_generated_rows_cost_no_page_and_no_alert(store: Store, api_on: Callable[[str], httpx.Client]) -> None:
    """Rows with any combination of hostile values, more with each example; the good batteries overheat in between."""
    drop_checks(store.dsn)
    client, numbers = api_on(store.dsn), itertools.count()
    bad = [f"BAD-{k}" for k in range(5)]

    @hypothesis.settings(max_examples=20, deadline=None, phases=(hypothesis.Phase.generate,))
    @given(rows=st.lists(stored_rows(), min_size=1, max_size=20))
    def arrive(rows: list[tuple[str, dict[str, Any]]]) -> None:
        for position, (table, values) in enumerate(rows):
            insert_hostile(store.dsn, bad[position % 5], table, values)
        is_hot = next(numbers) % 2 == 0
        for _ in range(3):
            now = datetime.now(UTC)
            store.write(*[row(name, now, temperature=80.0 if is_hot else 25.0) for name in GOOD])
            alerts = store.poll()
        assert {(name, "thermal") in alerts for name in GOOD} == {is_hot}
        for path in ("status", "detailed", "comparison", "history", "latest", "predictions", "stats"):
            for name in GOOD:
                response = client.get(f"/api/battery/{path}", params={"battery_id": name})
                assert response.status_code == 200, (path, name, response.text)
            for name in bad:  # 404: no reading of it can be read
                response = client.get(f"/api/battery/{path}", params={"battery_id": name})
                assert response.status_code in {200, 404}, (path, name, response.text)
                assert "NaN" not in response.text
        assert client.get("/api/alerts").status_code == client.get("/api/batteries/list").status_code == 200

    arrive()


def test_missing_values_are_null(store: Store, api_on: Callable[[str], httpx.Client]) -> None:
    store.write(row("EV-1", datetime.now(UTC), soc=None, soh=None))
    client = api_on(store.dsn)
    for path in ("status", "detailed", "comparison", "latest"):
        response = client.get(f"/api/battery/{path}")
        assert "None" not in response.text
        assert "null" in response.text
    token = {"authorization": "Bearer a token of the tests of the console"}
    refused = client.post("/api/alerts/mute", json={"battery_id": None, "rule": None, "hours": None}, headers=token)
    assert refused.status_code == 422
    assert "None" not in refused.text


def test_unreachable_store_is_no_hostile_row() -> None:
    """Negative control of `Store.poll`: a problem of the store fails the assertion."""
    pools = Database("postgresql://127.0.0.1:1/none"), Database("postgresql://127.0.0.1:1/none", read_only=False)
    live = LiveUpdates(Queries(pools[0]), AlertStore(pools[1]), ConsoleMetrics())
    asyncio.run(live.poll())
    assert live.snapshot.problem is not None
    with pytest.raises(psycopg2.OperationalError):
        query("postgresql://127.0.0.1:1/none", "SELECT 1")
