"""Alert rules, lifecycle with hysteresis, storage, acknowledgement and mutes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.alerts.alert_lifecycle import Key, find_transitions
from console.alerts.alert_store import AlertChangedError, AlertFilter, AlertStore
from console.alerts.rules import RULES, AlertRule, Severity, triggered_rules
from console.connection_pool import Database
from console.live_updates import FleetSnapshot
from telemetry.errors import TwinError
from telemetry.stores.migrate import migrate

NOW = datetime(2026, 1, 1, tzinfo=UTC)
THERMAL = RULES["thermal"]


def row(seconds: float = 0.0, **values: object) -> dict[str, Any]:
    known = {"battery_id": "EV-1", "time": NOW + timedelta(seconds=seconds)}
    return {**dict.fromkeys(column for rule in RULES.values() for column in rule.columns), **known, **values}


def transition_kinds(rule: AlertRule, values: list[float | None]) -> list[str]:
    """Kinds of the transitions of one battery with the successive `values`."""
    open_alerts: dict[tuple[str, str], Severity] = {}
    kinds = []
    for second, value in enumerate(values):
        for transition in find_transitions(open_alerts, [row(second, **{rule.columns[0]: value})]):
            kinds.append(transition.kind)
            key = (transition.battery_id, transition.rule)
            if transition.kind == "clear":
                del open_alerts[key]
            else:
                open_alerts[key] = transition.severity
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


def test_thresholds_equal_those_of_get_battery_health(database: Database) -> None:
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
            triggered = triggered_rules(row(**arguments))
            assert found["status"] == (triggered[0].severity if triggered else "NORMAL"), (column, value)


def test_alert_clears_only_beyond_its_hysteresis_margin() -> None:
    assert transition_kinds(THERMAL, [44.0, 45.1, 44.9, 45.1, 43.1, 42.9]) == ["open", "clear"]
    assert transition_kinds(THERMAL, [44.0, 61.0, 59.0, 57.9, 61.0]) == ["open", "change", "change"]


def test_missing_value_does_not_clear_an_alert() -> None:
    assert transition_kinds(THERMAL, [50.0, None, None, 50.0, 20.0]) == ["open", "clear"]


@given(st.lists(st.floats(40.0, 65.0) | st.none(), max_size=60))
def test_open_and_clear_alternate(values: list[float | None]) -> None:
    turns = [kind for kind in transition_kinds(THERMAL, values) if kind != "change"]
    assert turns == ["open", "clear"] * (len(turns) // 2) + ["open"] * (len(turns) % 2)


@given(st.lists(st.floats(43.01, 45.0), min_size=1, max_size=60))
def test_no_flapping_within_the_margin(values: list[float]) -> None:
    assert transition_kinds(THERMAL, [46.0, *values]) == ["open"]
    assert transition_kinds(THERMAL, values) == []


def test_low_charge_is_the_only_rule_of_its_category() -> None:
    assert {rule.category for rule in RULES.values() if "soc" in rule.columns} == {"charge"}
    assert [rule.name for rule in RULES.values() if rule.category == "charge"] == ["low_charge"]


def test_muted_alerts_are_not_counted_and_low_charge_is_counted_separately() -> None:
    open_alerts: dict[Key, Severity] = {
        ("EV-1", "low_charge"): "CRITICAL",
        ("EV-1", "poor_health"): "WARNING",
        ("EV-2", "thermal"): "CRITICAL",
        ("EV-3", "thermal"): "CRITICAL",
    }
    snapshot = FleetSnapshot(open_alerts=open_alerts, muted=frozenset({("EV-2", "thermal")}))
    assert list(snapshot.alerts_of("safety", "health")) == [("EV-3", "thermal"), ("EV-1", "poor_health")]
    assert list(snapshot.alerts_of("charge")) == [("EV-1", "low_charge")]


def test_applying_transitions_twice_stores_them_once(store: AlertStore) -> None:
    opened = find_transitions({}, [row(temperature=61.0)])
    store.apply(opened)
    store.apply(opened)
    (alert,) = store.alerts()
    assert (alert["severity"], alert["rule"], alert["cleared_at"]) == ("CRITICAL", "thermal", None)
    assert alert["evidence"]["temperature"] == 61.0
    assert store.open_severities() == {("EV-1", "thermal"): "CRITICAL"}
    store.apply(find_transitions(store.open_severities(), [row(60, temperature=20.0)]))
    (alert,) = store.alerts(AlertFilter("EV-1"))
    assert alert["cleared_at"] == NOW + timedelta(seconds=60)
    assert store.open_severities() == {}
    store.apply(find_transitions({}, [row(120, temperature=50.0)]))
    assert [one["severity"] for one in store.alerts()] == ["WARNING", "CRITICAL"]


def test_alert_that_becomes_critical_loses_its_acknowledgement(store: AlertStore) -> None:
    store.apply(find_transitions({}, [row(temperature=50.0)]))
    (alert,) = store.alerts()
    assert store.acknowledge({alert["alert_id"]: "WARNING"}, by="ada", note="on my way") == 1
    (alert,) = store.alerts()
    assert (alert["acknowledged_by"], alert["note"]) == ("ada", "on my way")
    store.apply(find_transitions(store.open_severities(), [row(1, temperature=70.0)]))
    (alert,) = store.alerts()
    assert alert["severity"] == "CRITICAL"
    assert alert["acknowledged_by"] is None


def test_reason_within_the_margin_names_the_clear_threshold() -> None:
    reasons = {
        (rule, value, severity): RULES[rule].reason(value, severity)
        for rule, value, severity in (
            ("thermal", 61.0, "CRITICAL"), ("thermal", 44.0, "WARNING"), ("thermal", 59.0, "CRITICAL"),
            ("low_charge", 31.0, "WARNING"), ("low_charge", 29.0, "WARNING"), ("failure_risk", 0.27, "WARNING"),
        )
    }  # fmt: skip
    assert list(reasons.values()) == [
        "Temperature 61.0 °C is above 60.0 °C",
        "Temperature 44.0 °C has not returned to 43.0 °C yet",
        "Temperature 59.0 °C has not returned to 58.0 °C yet",
        "State of charge 31.0 % has not returned to 33.0 % yet",
        "State of charge 29.0 % is below 30.0 %",
        "Failure probability 0.27 has not returned to 0.25 yet",
    ]
    opened = {("EV-1", "thermal"): "CRITICAL"}
    (milder,) = find_transitions(opened, [row(temperature=44.0)])  # type: ignore[arg-type]
    assert (milder.kind, milder.severity, milder.reason) == ("change", "WARNING", reasons["thermal", 44.0, "WARNING"])


def test_acknowledge_skips_alerts_that_changed_since_they_were_shown(store: AlertStore) -> None:
    store.apply(find_transitions({}, [row(temperature=50.0)]))
    (alert,) = store.alerts()
    seen = {alert["alert_id"]: alert["severity"]}
    store.acknowledge(seen, by="ada", note="on my way")
    with pytest.raises(AlertChangedError, match="Already acknowledged by ada: on my way"):
        store.acknowledge(seen, by="bob", note="")
    assert store.alerts()[0]["acknowledged_by"] == "ada"
    store.apply(find_transitions(store.open_severities(), [row(1, temperature=70.0)]))
    with pytest.raises(AlertChangedError, match="now CRITICAL, was WARNING"):
        store.acknowledge(seen, by="bob", note="")
    (alert,) = store.alerts()
    assert (alert["acknowledged_by"], alert["note"]) == (None, None)
    store.apply(find_transitions({}, [row(2, battery_id="EV-2", temperature=50.0)]))
    seen |= {one["alert_id"]: one["severity"] for one in store.alerts(AlertFilter("EV-2"))}
    assert store.acknowledge(seen, by="bob", note="both") == 1
    store.apply(find_transitions(store.open_severities(), [row(3, temperature=20.0)]))
    with pytest.raises(AlertChangedError, match="resolved at 2026-01-01 00:00:03 UTC"):
        store.acknowledge({alert["alert_id"]: "CRITICAL"}, by="bob", note="")
    with pytest.raises(AlertChangedError, match="All of these"):
        store.acknowledge(seen, by="bob", note="")


def test_frequent_resolved_alerts_do_not_hide_rare_ones_and_open_alerts_are_counted(store: AlertStore) -> None:
    store.apply(find_transitions({}, [row(temperature=50.0)]))
    store.apply(find_transitions(store.open_severities(), [row(1, temperature=20.0)]))
    for second in range(2, 26, 2):
        store.apply(find_transitions({}, [row(second, soc=20.0)]))
        store.apply(find_transitions(store.open_severities(), [row(second + 1, soc=90.0)]))
    safety = AlertFilter(rules=("thermal", "failure_risk"))
    assert [alert["rule"] for alert in store.alerts(safety, limit=5)] == ["thermal"]
    assert len(store.alerts(limit=5)) == 5
    store.apply(find_transitions({}, [row(30, battery_id=f"EV-{k}", soc=20.0 - k) for k in range(12)]))
    open_alerts = [alert for alert in store.alerts(limit=5) if alert["state"] == "open"]
    assert (len(open_alerts), open_alerts[0]["state_total"]) == (5, 12)
    assert {alert["severity"] for alert in open_alerts} == {"CRITICAL"}


def test_filter_by_battery_and_fleet(store: AlertStore, database: Database) -> None:
    with database.transaction() as cursor:
        cursor.execute("TRUNCATE batteries")
        cursor.execute("INSERT INTO batteries (battery_id, fleet) VALUES ('EV-1', 'Taxi'), ('EV_1', NULL)")
    store.apply(
        find_transitions({}, [row(battery_id=battery_id, soc=20.0) for battery_id in ("EV-1", "EV_1", "EV-22")])
    )
    found = {
        text: {alert["battery_id"] for alert in store.alerts(AlertFilter(text=text))} for text in ("taxi", "ev_", "2 ")
    }
    assert found == {"taxi": {"EV-1"}, "ev_": {"EV_1"}, "2 ": {"EV-22"}}


def test_mute_of_all_batteries_is_listed_and_removed(store: AlertStore) -> None:
    store.apply(find_transitions({}, [row(battery_id=f"EV-{k}", soc=20.0) for k in range(3)]))
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


def test_mute_of_one_battery_and_its_removal(store: AlertStore) -> None:
    store.apply(find_transitions({}, [row(temperature=50.0, soc=10.0)]))
    store.mute("EV-1", "thermal", hours=2, by="ada", reason="on the test bench")
    muted = {alert["rule"]: alert["mute_reason"] for alert in store.alerts()}
    assert muted == {"thermal": "on the test bench", "low_charge": None}
    assert store.muted() == {("EV-1", "thermal")}
    store.unmute("EV-1", "thermal")
    assert store.muted() == frozenset()
    assert [alert["mute_until"] for alert in store.alerts()] == [None, None]
    store.mute(None, "low_charge", hours=1, by="ada", reason="night")
    assert {alert["rule"]: alert["mute_reason"] for alert in store.alerts()}["low_charge"] == "night"


def test_invalid_acknowledgements_and_mutes_are_rejected(store: AlertStore) -> None:
    with pytest.raises(TwinError, match="no alert 99"):
        store.acknowledge({99: "WARNING"}, by="ada", note="")
    with pytest.raises(TwinError, match="no rule weather"):
        store.mute("EV-1", "weather", hours=1, by="ada", reason="rain")
    with pytest.raises(TwinError, match="30 days"):
        store.mute("EV-1", "thermal", hours=1e6, by="ada", reason="for ever")
    with pytest.raises(TwinError, match="reason is empty"):
        store.mute("EV-1", "thermal", hours=1, by="ada", reason=" ")
