"""REST paths that change alerts, mutes and the model registry, on a real store and a real registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest

from console.alerts.alert_lifecycle import find_transitions
from console.alerts.alert_store import AlertStore
from console.alerts.rules import RULES
from console.connection_pool import Database, StoreUnavailableError
from console.events import BatteryEvents
from telemetry.batch import Batch
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.console.conftest import TOKEN, api_app, served
from tests.openapi import check_against_openapi

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
ROW: dict[str, Any] = {
    **dict.fromkeys(column for rule in RULES.values() for column in rule.columns),
    "battery_id": "EV-1",
    "time": datetime(2026, 1, 1, tzinfo=UTC),
}
POSTS: dict[str, dict[str, Any]] = {
    "/api/alerts/1/acknowledge": {"severity": "WARNING", "by": "ada"},
    "/api/alerts/mute": {"rule": "thermal", "hours": 1, "by": "ada", "reason": "bench"},
    "/api/alerts/unmute": {"rule": "thermal"},
    "/api/battery/events": {"battery_id": "EV-1", "time": "2026-01-01T00:00:00Z", "kind": "replaced"},
    "/api/models/promote": {"versions": {"soh": 1}, "by": "ada", "reason": "better"},
    "/api/models/rollback": {"by": "ada", "reason": "alarms"},
}


@pytest.fixture(scope="module")
def dsn(postgres_server: str, new_database: Callable[[str], str]) -> str:
    dsn = new_database(postgres_server)
    migrate(dsn)
    return dsn


@pytest.fixture
def store(dsn: str) -> Iterator[AlertStore]:
    database = Database(dsn, read_only=False)
    with database.transaction() as cursor:
        cursor.execute("TRUNCATE battery_alerts, alert_mutes")
    yield AlertStore(database)
    database.close()


@pytest.fixture(scope="module")
def client(dsn: str, three_releases: Settings) -> Iterator[httpx.Client]:
    with ExitStack() as stack:
        yield stack.enter_context(served(stack.enter_context(api_app(dsn, three_releases.var))))


def write_battery(dsn: str) -> None:
    store = PostgresStore(dsn)
    store.write(Batch(batteries=[{"battery_id": "EV-1"}]))
    store.close()


def post(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    response = client.post(path, json=body, headers=HEADERS)
    assert response.status_code == 200, response.text
    content: dict[str, Any] = response.json()
    return content


def refused(client: httpx.Client, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    response = client.post(path, json=body, headers=HEADERS)
    content = response.json()
    assert set(content) == {"error", "field", "value"}, content
    return response.status_code, content


@pytest.mark.parametrize("path", POSTS)
def test_change_without_the_token_is_401_and_changes_nothing(
    path: str, client: httpx.Client, store: AlertStore
) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        response = client.post(path, json=POSTS[path], headers=headers)
        assert response.status_code == 401, response.text
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["field"] == "token"
    assert store.mutes() == []


def test_alert_is_acknowledged_once_and_only_at_the_severity_seen(client: httpx.Client, store: AlertStore) -> None:
    store.apply(find_transitions({}, [{**ROW, "temperature": 50.0}]))
    (alert,) = client.get("/api/alerts/stored").json()["alerts"]
    assert (alert["state"], alert["severity"], alert["acknowledged_by"]) == ("open", "WARNING", None)
    path = f"/api/alerts/{alert['alert_id']}/acknowledge"
    status, error = refused(client, path, severity="CRITICAL", by="ada")
    assert (status, "now WARNING" in error["error"]) == (409, True)
    post(client, path, severity="WARNING", by=" ada ", note="on its way")
    (alert,) = client.get("/api/alerts/stored", params={"battery_id": "EV-1"}).json()["alerts"]
    assert (alert["acknowledged_by"], alert["note"]) == ("ada", "on its way")
    status, error = refused(client, path, severity="WARNING", by="bob")
    assert (status, error["error"]) == (409, "Already acknowledged by ada: on its way.")
    status, error = refused(client, "/api/alerts/99999/acknowledge", severity="WARNING", by="ada")
    assert (status, error["field"], error["value"]) == (404, "alert_id", 99999)
    assert client.get("/api/alerts/stored", params={"battery_id": "EV-2"}).json() == {"alerts": [], "count": 0}


def test_mute_hides_the_alert_until_it_is_ended(client: httpx.Client, store: AlertStore) -> None:
    store.apply(find_transitions({}, [{**ROW, "temperature": 50.0}]))
    mutes = post(client, "/api/alerts/mute", battery_id="EV-1", rule="thermal", hours=1, by="ada", reason="bench")
    assert [(mute["battery_id"], mute["rule"], mute["muted_by"]) for mute in mutes["mutes"]] == [
        ("EV-1", "thermal", "ada")
    ]
    (alert,) = client.get("/api/alerts/stored").json()["alerts"]
    assert (alert["state"], alert["mute_reason"]) == ("muted", "bench")
    status, error = refused(client, "/api/alerts/unmute", rule="thermal")  # that of all batteries
    assert status == 404
    assert "/api/alerts/mutes" in error["error"]
    assert post(client, "/api/alerts/unmute", battery_id="EV-1", rule="thermal") == {"mutes": [], "count": 0}
    assert client.get("/api/alerts/mutes").json() == {"mutes": [], "count": 0}


def test_event_is_entered_once_and_listed(client: httpx.Client, dsn: str) -> None:
    write_battery(dsn)
    test = {"battery_id": "EV-1", "time": "2026-01-01T01:00:00+01:00", "kind": "capacity_test", "value": 130.5}
    entered = post(client, "/api/battery/events", **test, by=" ada ")
    status, error = refused(client, "/api/battery/events", **test, by="bob")
    assert (status, error["field"], error["value"]) == (409, "time", test["time"])
    assert "was entered before" in error["error"]
    both = post(client, "/api/battery/events", **POSTS["/api/battery/events"])
    assert entered["events"] == [event for event in both["events"] if event["event"] == "capacity_test"]
    assert [(one["event"], one["time"], one["value"], one["source"]) for one in both["events"]] == [
        ("capacity_test", "2026-01-01T00:00:00Z", 130.5, "ada"),
        ("replaced", "2026-01-01T00:00:00Z", None, "REST"),
    ]
    detailed = client.get("/api/battery/detailed", params={"battery_id": "EV-1"}).json()
    assert detailed["events"] == both["events"]


@pytest.mark.parametrize(
    ("status", "field", "value", "allowed"),
    [
        (404, "battery_id", "EV-404", "/api/batteries/list"),
        (422, "battery_id", "EV 1", "1 to 50 letters"),
        (422, "kind", "stolen", "'replaced', 'bms_reset', 'capacity_test' or 'failed'"),
        (422, "time", "1767225600", "must be a time with zone such as 2026-01-01T00:00:00Z"),
        (422, "time", "2026-01-01T00:00:00", "timezone"),
        (422, "time", "1969-12-31T23:59:59Z", "1970"),
        (422, "time", "2199-01-01T00:00:00+00:00", "between 1970 and now"),
        (422, "value", 130.0, "an event of another kind has none"),
        (422, "value", 0, "greater than or equal to 0.001"),
        (422, "value", "130", "number"),
        (422, "by", " ", "pattern"),
        (422, "reason", "broken", "not permitted"),
    ],
)
def test_invalid_event_names_the_field_the_value_and_what_is_allowed(
    client: httpx.Client, dsn: str, status: int, field: str, value: object, allowed: str
) -> None:
    write_battery(dsn)
    body = POSTS["/api/battery/events"] | {"time": "2026-02-01T00:00:00Z"}
    found, error = refused(client, "/api/battery/events", **body | {field: value})
    assert (found, error["field"], error["value"]) == (status, field, value)
    assert allowed in error["error"]
    found, error = refused(client, "/api/battery/events", **body | {"kind": "capacity_test"})
    assert (found, error["field"], error["value"]) == (422, "value", None)
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM battery_events WHERE time = %s", (body["time"],))
        assert cursor.fetchone() == (0,)


def test_role_of_the_console_enters_events_and_changes_no_other_table(dsn: str) -> None:
    write_battery(dsn)
    as_console = f"{dsn}&options=-c%20role%3Dtwin_console"
    pools = Database(as_console), Database(as_console, read_only=False)
    events = BatteryEvents(*pools)
    events.enter("EV-1", datetime(2025, 1, 1, tzinfo=UTC), "failed", None, "ada")
    assert events.listed("EV-1")[-1]["event"] == "failed"
    assert events.missing("EV-1") is None
    for change in (
        "UPDATE battery_events SET source = 'bob'", "DELETE FROM batteries", "UPDATE ev_telemetry SET soc = 1",
        "INSERT INTO battery_cycles (battery_id, cycle_index) VALUES ('EV-1', 1)",
    ):  # fmt: skip
        with pytest.raises(StoreUnavailableError), pools[1].transaction() as cursor:
            cursor.execute(change)
    for pool in pools:
        pool.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [("hours", 721), ("hours", 0), ("rule", "noise"), ("reason", "  "), ("by", ""), ("battery_id", "a b"), ("x", 1)],
)
def test_invalid_change_is_422_and_names_the_field(field: str, value: object, client: httpx.Client) -> None:
    body = {**POSTS["/api/alerts/mute"], field: value}
    status, error = refused(client, "/api/alerts/mute", **body)
    assert (status, error["field"], error["value"]) == (422, field, value)


def test_any_version_is_promoted_and_a_moved_release_is_409(client: httpx.Client) -> None:
    models = client.get("/api/models").json()
    assert (models["release"], models["previous_release_version"]) == ("battery-twin/3", 2)
    (soh,) = models["targets"]
    assert [(one["version"], one["role"], one["gate"]) for one in soh["versions"]] == [
        (3, "champion", "passed"), (2, None, "passed"), (1, None, "passed"),
    ]  # fmt: skip
    reason = {"by": "ada", "reason": "alarms at night"}
    outcome = post(client, "/api/models/rollback", **reason, expected_release=3)
    assert (outcome["release"], outcome["changed"]) == (2, True)
    for path, body in (("rollback", {}), ("promote", {"versions": {"soh": 3}})):
        status, error = refused(client, f"/api/models/{path}", **reason, **body, expected_release=3)
        assert (status, error["field"], error["value"]) == (409, "release", 3)
        assert "no longer release 3, release 2 is" in error["error"]
    status, error = refused(client, "/api/models/promote", **reason, versions={"soh": 9}, expected_release=2)
    assert (status, error["field"], error["value"]) == (404, "version", 9)
    outcome = post(client, "/api/models/promote", **reason, versions={"soh": 3}, expected_release=2)
    assert (outcome["release"], outcome["changed"]) == (4, True)
    outcome = post(client, "/api/models/promote", **reason, versions={"soh": 1}, expected_release=4)
    assert (outcome["release"], outcome["changed"]) == (4, False)
    assert "fails the gate" in " ".join(outcome["messages"])
    history = client.get("/api/models").json()["history"]
    assert [(event["kind"], event["by"]) for event in history[:2]] == [("promote", "ada"), ("rollback", "ada")]


def test_registry_that_is_unavailable_is_503(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with api_app(dsn, tmp_path) as app, served(app) as client:
        response = client.get("/api/models")
        assert response.status_code == 503
        assert "unavailable" in response.json()["error"]
        assert client.get("/api/alerts/mutes").status_code == 200


def test_changes_conform_to_the_openapi_document(client: httpx.Client, store: AlertStore) -> None:
    store.apply(find_transitions({}, [{**ROW, "temperature": 50.0}]))
    url = f"{client.base_url}/openapi.json"
    assert {f"POST {path.replace('/1/', '/{alert_id}/')}" for path in POSTS} <= set(
        check_against_openapi(url, examples=6, headers=HEADERS, method="POST")
    )
