"""Alerts: the rules are the contract's, they have a life of their own, and two consoles remember each of them once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.alerts.alert_lifecycle import Key, step
from console.alerts.alert_store import AlertChangedError, AlertStore, Chosen
from console.alerts.rules import RULES, Rule, Severity, reasons
from console.connection_pool import Database
from console.live_updates import Snapshot
from telemetry.errors import TwinError
from telemetry.stores.migrate import migrate

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
    (alert,) = store.alerts(Chosen("EV-1"))
    assert alert["cleared_at"] == NOW + timedelta(seconds=60)
    assert store.open_severities() == {}
    store.apply(step({}, [row(120, temperature=50.0)]))
    assert [one["severity"] for one in store.alerts()] == ["WARNING", "CRITICAL"]


def test_somebody_who_knows_is_told_again_when_it_gets_worse(store: AlertStore) -> None:
    store.apply(step({}, [row(temperature=50.0)]))
    (alert,) = store.alerts()
    assert store.acknowledge({alert["alert_id"]: "WARNING"}, by="ada", note="on my way") == 1
    (alert,) = store.alerts()
    assert (alert["acknowledged_by"], alert["note"]) == ("ada", "on my way")
    store.apply(step(store.open_severities(), [row(1, temperature=70.0)]))
    (alert,) = store.alerts()
    assert alert["severity"] == "CRITICAL"
    assert alert["acknowledged_by"] is None


def test_an_alert_within_its_margin_is_not_said_to_be_beyond_its_threshold() -> None:
    said = {
        (rule, value, severity): RULES[rule].reason(value, severity)
        for rule, value, severity in (
            ("thermal", 61.0, "CRITICAL"), ("thermal", 44.0, "WARNING"), ("thermal", 59.0, "CRITICAL"),
            ("low_charge", 31.0, "WARNING"), ("low_charge", 29.0, "WARNING"), ("failure_risk", 0.27, "WARNING"),
        )
    }  # fmt: skip
    assert list(said.values()) == [
        "Temperature 61.0 °C is above 60.0 °C",
        "Temperature 44.0 °C is not back to 43.0 °C yet",
        "Temperature 59.0 °C is not back to 58.0 °C yet",
        "State of charge 31.0 % is not back to 33.0 % yet",
        "State of charge 29.0 % is below 30.0 %",
        "Failure probability 0.27 is not back to 0.25 yet",
    ]
    opened = {("EV-1", "thermal"): "CRITICAL"}
    (milder,) = step(opened, [row(temperature=44.0)])  # type: ignore[arg-type]
    assert (milder.kind, milder.severity, milder.reason) == ("change", "WARNING", said["thermal", 44.0, "WARNING"])


def test_only_what_was_seen_is_acknowledged(store: AlertStore) -> None:
    store.apply(step({}, [row(temperature=50.0)]))
    (alert,) = store.alerts()
    seen = {alert["alert_id"]: alert["severity"]}
    store.acknowledge(seen, by="ada", note="on my way")
    with pytest.raises(AlertChangedError, match="ada has acknowledged it already: on my way"):
        store.acknowledge(seen, by="bob", note="")
    assert store.alerts()[0]["acknowledged_by"] == "ada"
    store.apply(step(store.open_severities(), [row(1, temperature=70.0)]))
    with pytest.raises(AlertChangedError, match="CRITICAL now and was WARNING"):
        store.acknowledge(seen, by="bob", note="")
    (alert,) = store.alerts()
    assert (alert["acknowledged_by"], alert["note"]) == (None, None)
    store.apply(step({}, [row(2, battery_id="EV-2", temperature=50.0)]))
    seen |= {one["alert_id"]: one["severity"] for one in store.alerts(Chosen("EV-2"))}
    assert store.acknowledge(seen, by="bob", note="both") == 1
    store.apply(step(store.open_severities(), [row(3, temperature=20.0)]))
    with pytest.raises(AlertChangedError, match="over since 2026-01-01 00:00:03 UTC"):
        store.acknowledge({alert["alert_id"]: "CRITICAL"}, by="bob", note="")
    with pytest.raises(AlertChangedError, match="All of these"):
        store.acknowledge(seen, by="bob", note="")


def test_rare_alerts_that_are_over_are_not_crowded_out_and_many_are_counted(store: AlertStore) -> None:
    store.apply(step({}, [row(temperature=50.0)]))
    store.apply(step(store.open_severities(), [row(1, temperature=20.0)]))
    for second in range(2, 26, 2):
        store.apply(step({}, [row(second, soc=20.0)]))
        store.apply(step(store.open_severities(), [row(second + 1, soc=90.0)]))
    safety = Chosen(rules=("thermal", "failure_risk"))
    assert [alert["rule"] for alert in store.alerts(safety, most=5)] == ["thermal"]
    assert len(store.alerts(most=5)) == 5
    store.apply(step({}, [row(30, battery_id=f"EV-{k}", soc=20.0 - k) for k in range(12)]))
    open_ones = [alert for alert in store.alerts(most=5) if alert["state"] == "open"]
    assert (len(open_ones), open_ones[0]["of_state"]) == (5, 12)
    assert {alert["severity"] for alert in open_ones} == {"CRITICAL"}


def test_alerts_are_found_by_battery_and_fleet(store: AlertStore, database: Database) -> None:
    with database.transaction() as cursor:
        cursor.execute("TRUNCATE batteries")
        cursor.execute("INSERT INTO batteries (battery_id, fleet) VALUES ('EV-1', 'Taxi'), ('EV_1', NULL)")
    store.apply(step({}, [row(battery_id=battery_id, soc=20.0) for battery_id in ("EV-1", "EV_1", "EV-22")]))
    found = {text: {alert["battery_id"] for alert in store.alerts(Chosen(text=text))} for text in ("taxi", "ev_", "2 ")}
    assert found == {"taxi": {"EV-1"}, "ev_": {"EV_1"}, "2 ": {"EV-22"}}


def test_a_mute_of_every_battery_is_listed_and_ends(store: AlertStore) -> None:
    store.apply(step({}, [row(battery_id=f"EV-{k}", soc=20.0) for k in range(3)]))
    store.mute(None, "low_charge", hours=1, by="ada", reason="night")
    muted = store.alerts()
    assert [(alert["state"], alert["muted_by"], alert["mute_battery_id"]) for alert in muted] == [
        ("muted", "ada", None)
    ] * 3
    (mute,) = store.mutes()
    assert (mute["muted_by"], mute["battery_id"], mute["rule"]) == ("ada", None, "low_charge")
    store.unmute(mute["battery_id"], mute["rule"])
    assert store.mutes() == []
    assert {alert["state"] for alert in store.alerts()} == {"open"}


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
        store.acknowledge({99: "WARNING"}, by="ada", note="")
    with pytest.raises(TwinError, match="no rule weather"):
        store.mute("EV-1", "weather", hours=1, by="ada", reason="rain")
    with pytest.raises(TwinError, match="30 days"):
        store.mute("EV-1", "thermal", hours=1e6, by="ada", reason="for ever")
    with pytest.raises(TwinError, match="reason is empty"):
        store.mute("EV-1", "thermal", hours=1, by="ada", reason=" ")
