"""Alerts: the rules are the contract's, they have a life of their own, and two consoles remember each of them once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import TwinError
from data.stores.migrate import migrate
from monitoring.console.alerts.life import Key, step
from monitoring.console.alerts.rules import RULES, Rule, Severity, reasons
from monitoring.console.alerts.store import AlertStore
from monitoring.console.database import Database
from monitoring.console.live import Snapshot

NOW = datetime(2026, 1, 1, tzinfo=UTC)
THERMAL = RULES["thermal"]


def row(seconds: float = 0.0, **values: object) -> dict[str, Any]:
    known = {"battery_id": "EV-1", "time": NOW + timedelta(seconds=seconds)}
    return {**dict.fromkeys(column for rule in RULES.values() for column in rule.columns), **known, **values}


def lived(rule: Rule, values: list[float | None]) -> list[str]:
    """Kinds of what happens to one battery whose value goes through `values`."""
    held: dict[tuple[str, str], Severity] = {}
    kinds = []
    for second, value in enumerate(values):
        for transition in step(held, [row(second, **{rule.columns[0]: value})]):
            kinds.append(transition.kind)
            key = (transition.battery_id, transition.rule)
            if transition.kind == "clear":
                del held[key]
            else:
                held[key] = transition.severity
    return kinds


@pytest.fixture(scope="module")
def database(postgres_server: str, new_database: Any) -> Iterator[Database]:
    dsn = new_database(postgres_server)
    migrate(dsn)
    database = Database(dsn, read_only=False)
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> AlertStore:
    with database.transaction() as cursor:
        cursor.execute("TRUNCATE battery_alerts, alert_mutes")
    return AlertStore(database)


def test_thresholds_are_those_of_the_stores_health(database: Database) -> None:
    values = {
        "soc": [None, 14.9, 15.0, 29.9, 30.0, 80.0],
        "soh": [None, 74.9, 75.0, 84.9, 85.0, 99.0],
        "temperature": [None, 20.0, 45.0, 45.1, 60.0, 60.1],
        "failure_probability": [None, 0.0, 0.3, 0.31, 0.7, 0.71],
    }
    for column, tried in values.items():
        for value in tried:
            arguments = {name: value if name == column else None for name in values}
            (found,) = database.fetch(
                "SELECT get_battery_health(%(soc)s, %(soh)s, %(temperature)s, %(failure_probability)s) AS status",
                arguments,
            )
            held = reasons(row(**arguments))
            assert found["status"] == (held[0].severity if held else "NORMAL"), (column, value)


def test_an_alert_ends_only_beyond_its_margin() -> None:
    assert lived(THERMAL, [44.0, 45.1, 44.9, 45.1, 43.1, 42.9]) == ["open", "clear"]
    assert lived(THERMAL, [44.0, 61.0, 59.0, 57.9, 61.0]) == ["open", "change", "change"]


def test_a_silent_sensor_does_not_end_an_alert() -> None:
    assert lived(THERMAL, [50.0, None, None, 50.0, 20.0]) == ["open", "clear"]


@given(st.lists(st.floats(40.0, 65.0) | st.none(), max_size=60))
def test_an_alert_opens_and_clears_in_turn(values: list[float | None]) -> None:
    turns = [kind for kind in lived(THERMAL, values) if kind != "change"]
    assert turns == ["open", "clear"] * (len(turns) // 2) + ["open"] * (len(turns) % 2)


@given(st.lists(st.floats(43.01, 45.0), min_size=1, max_size=60))
def test_within_the_margin_nothing_flaps(values: list[float]) -> None:
    assert lived(THERMAL, [46.0, *values]) == ["open"]
    assert lived(THERMAL, values) == []


def test_charge_is_never_mixed_with_health() -> None:
    assert {rule.category for rule in RULES.values() if "soc" in rule.columns} == {"charge"}
    assert [rule.name for rule in RULES.values() if rule.category == "charge"] == ["low_charge"]


def test_what_is_muted_is_not_counted_and_an_empty_battery_counts_apart() -> None:
    open_alerts: dict[Key, Severity] = {
        ("EV-1", "low_charge"): "CRITICAL",
        ("EV-1", "poor_health"): "WARNING",
        ("EV-2", "thermal"): "CRITICAL",
        ("EV-3", "thermal"): "CRITICAL",
    }
    snapshot = Snapshot(open_alerts=open_alerts, muted=frozenset({("EV-2", "thermal")}))
    assert list(snapshot.alerts_of("safety", "health")) == [("EV-3", "thermal"), ("EV-1", "poor_health")]
    assert list(snapshot.alerts_of("charge")) == [("EV-1", "low_charge")]


def test_it_is_remembered_once_by_two_consoles(store: AlertStore) -> None:
    opened = step({}, [row(temperature=61.0)])
    store.apply(opened)
    store.apply(opened)
    (alert,) = store.alerts()
    assert (alert["severity"], alert["rule"], alert["cleared_at"]) == ("CRITICAL", "thermal", None)
    assert alert["evidence"]["temperature"] == 61.0
    assert store.open_severities() == {("EV-1", "thermal"): "CRITICAL"}
    store.apply(step(store.open_severities(), [row(60, temperature=20.0)]))
    (alert,) = store.alerts("EV-1")
    assert alert["cleared_at"] == NOW + timedelta(seconds=60)
    assert store.open_severities() == {}
    store.apply(step({}, [row(120, temperature=50.0)]))
    assert [one["severity"] for one in store.alerts()] == ["WARNING", "CRITICAL"]


def test_somebody_who_knows_is_told_again_when_it_gets_worse(store: AlertStore) -> None:
    store.apply(step({}, [row(temperature=50.0)]))
    (alert,) = store.alerts()
    store.acknowledge(alert["alert_id"], by="ada", note="on my way")
    (alert,) = store.alerts()
    assert (alert["acknowledged_by"], alert["note"]) == ("ada", "on my way")
    store.apply(step(store.open_severities(), [row(1, temperature=70.0)]))
    (alert,) = store.alerts()
    assert alert["severity"] == "CRITICAL"
    assert alert["acknowledged_by"] is None


def test_a_mute_hides_and_ends(store: AlertStore) -> None:
    store.apply(step({}, [row(temperature=50.0, soc=10.0)]))
    store.mute("EV-1", "thermal", hours=2, by="ada", reason="on the test bench")
    muted = {alert["rule"]: alert["mute_reason"] for alert in store.alerts()}
    assert muted == {"thermal": "on the test bench", "low_charge": None}
    assert store.muted() == {("EV-1", "thermal")}
    store.unmute("EV-1", "thermal")
    assert store.muted() == frozenset()
    assert [alert["mute_until"] for alert in store.alerts()] == [None, None]
    store.mute(None, "low_charge", hours=1, by="ada", reason="night")
    assert {alert["rule"]: alert["mute_reason"] for alert in store.alerts()}["low_charge"] == "night"


def test_what_cannot_be_is_refused(store: AlertStore) -> None:
    with pytest.raises(TwinError, match="no alert 99"):
        store.acknowledge(99, by="ada", note="")
    with pytest.raises(TwinError, match="no rule weather"):
        store.mute("EV-1", "weather", hours=1, by="ada", reason="rain")
    with pytest.raises(TwinError, match="30 days"):
        store.mute("EV-1", "thermal", hours=1e6, by="ada", reason="for ever")
    with pytest.raises(TwinError, match="reason is empty"):
        store.mute("EV-1", "thermal", hours=1, by="ada", reason=" ")
