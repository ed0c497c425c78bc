"""REST API on a real telemetry store: responses, downsampling, validation and error responses."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
from starlette.responses import PlainTextResponse

from console.api.routes import EXPECTED
from console.connection_pool import Database, StoreUnavailableError
from console.history import MAX_ROWS, HistoryQueries, HistoryWindow
from console.queries import Queries
from telemetry.batch import Batch
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.console.conftest import SIZE, api_app, served
from tests.hostile import drop_checks

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HORIZON = timedelta(seconds=300)
ONE = "EV-0001"
MakeApi = Callable[[str], httpx.Client]
BATTERY_PATHS = ("status", "detailed", "comparison", "history", "latest", "predictions", "stats")


def get(api: httpx.Client, path: str, **query: object) -> dict[str, Any]:
    response = api.get(path, params=query)  # type: ignore[arg-type]
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def get_error(api: httpx.Client, path: str, status: int, **query: object) -> str:
    response = api.get(path, params=query)  # type: ignore[arg-type]
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "field", "value"}
    assert not any(word in response.text for word in ("SELECT", "Traceback", "psycopg2", "postgresql://"))
    return str(body["error"])


def reading(seconds: float = 0.0, battery_id: str = "EV-1", **fields: object) -> dict[str, object]:
    time = NOW + timedelta(seconds=seconds)
    row = {"battery_id": battery_id, "time": time, "voltage": 360.0, "current": 10.0, "temperature": 25.0}
    return {**row, **fields}


def prediction(target: str, value: float, seconds: float = 0.0, **fields: object) -> dict[str, object]:
    time = NOW + timedelta(seconds=seconds)
    row = {"battery_id": "EV-1", "time": time, "target": target, "value": value, "role": "champion"}
    model = {"model_name": f"battery-{target}", "model_version": "3", "predicted_at": time + timedelta(seconds=1)}
    return {**row, **model, **fields}


@pytest.fixture
def empty(postgres_dsn: str) -> str:
    migrate(postgres_dsn)
    return postgres_dsn


@pytest.fixture
def write(empty: str) -> Callable[[Batch], None]:
    def one(batch: Batch) -> None:
        store = PostgresStore(empty)
        store.write(batch)
        store.close()

    return one


def test_detailed_names_the_event_that_is_missing_and_those_that_are_known(
    api_on: MakeApi, empty: str, write: Callable[[Batch], None]
) -> None:
    write(Batch(readings=[reading(charge_cycles=3.0)], predictions=[prediction("soh", 90.0, cycle_index=900.0)]))
    detailed = get(api_on(empty), "/api/battery/detailed")
    assert detailed["missing_event"].startswith("charge_cycles is 3 and the age 900: enter the event `replaced` or")
    with closing(psycopg2.connect(empty)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO battery_events (battery_id, time, event, source) VALUES (%s, %s, 'bms_reset', 'workshop')",
            ("EV-1", NOW),
        )
    detailed = get(api_on(empty), "/api/battery/detailed")
    assert detailed["missing_event"] is None
    (event,) = detailed["events"]
    assert (event["event"], event["source"], event["value"]) == ("bms_reset", "workshop", None)


def test_detailed_names_the_replacement_that_a_jump_of_capacity_shows(
    api_on: MakeApi, empty: str, write: Callable[[Batch], None]
) -> None:
    def charges(first: int, count: int, charged: float, current: float = 30.0) -> list[dict[str, object]]:
        days = [NOW - timedelta(days=60 - number) for number in range(first, first + count)]
        return [
            {"battery_id": "EV-1", "cycle_index": 900.0 + number, "kind": "charge", "start_time": day, "end_time": day,
             "charge_window_4_ah": charged, "charge_current_mean_a": current}
            for number, day in enumerate(days, start=first)
        ]  # fmt: skip

    def missing() -> str | None:
        found: str | None = get(client, "/api/battery/detailed")["missing_event"]
        return found

    client = api_on(empty)
    battery = {"battery_id": "EV-1", "nominal_capacity_ah": 100.0}
    write(Batch(readings=[reading()], batteries=[battery], cycles=charges(0, 20, 13.0)))
    write(Batch(cycles=charges(20, 4, 16.0)))
    write(Batch(cycles=charges(30, 9, 16.0, current=60.0)))
    assert missing() is None, "four slow charges, and fast ones"
    write(Batch(cycles=charges(40, 5, 16.0)))
    sentence = missing()
    assert sentence is not None
    assert sentence.startswith(f"slow charges show 23 % more capacity since {NOW - timedelta(days=40):%Y-%m-%d}: enter")
    for days, kind, is_missing in ((50, "replaced", True), (41, "bms_reset", True), (40.5, "replaced", False)):
        with closing(psycopg2.connect(empty)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO battery_events (battery_id, time, event) VALUES ('EV-1', %s, %s)",
                (NOW - timedelta(days=days), kind),
            )
        assert (missing() is not None) == is_missing, (days, kind)


def test_status_is_flat_with_the_newest_reading_and_predictions(api: httpx.Client) -> None:
    status = get(api, "/api/battery/status", battery_id=ONE)
    assert status["battery_id"] == ONE
    assert status["soh_predicted"] == pytest.approx(91.0)
    assert {"voltage", "current", "temperature", "soc", "soh", "status", "failure_probability"} <= set(status)
    assert not any(isinstance(value, dict) for value in status.values())


def test_detailed_has_the_documented_parts(api: httpx.Client) -> None:
    detailed = get(api, "/api/battery/detailed", battery_id=ONE)
    parts = {"battery_id", "timestamp", "battery", "vehicle", "health_status", "events", "missing_event"}
    assert set(detailed) == parts
    assert (detailed["events"], detailed["missing_event"]) == ([], None)
    assert detailed["battery"]["actual"]["voltage"] > 0
    soh = detailed["battery"]["predicted"]["soh"]
    assert soh["interval"] == pytest.approx([91 * 0.97, 91 * 1.03])
    assert detailed["vehicle"]["chemistry"] == "NMC"


def test_latest_equals_the_row_of_the_view(api: httpx.Client, filled_dsn: str) -> None:
    row = Database(filled_dsn).fetch_one("SELECT * FROM latest_battery_status WHERE battery_id = %(id)s", {"id": ONE})
    assert row is not None
    latest = get(api, "/api/battery/latest", battery_id=ONE)
    assert set(latest) == set(row)
    assert datetime.fromisoformat(latest["time"]) == row["time"]
    assert {k: v for k, v in latest.items() if isinstance(v, float)} == {
        k: v for k, v in row.items() if isinstance(v, float)
    }


def test_battery_list_is_complete(api: httpx.Client) -> None:
    response = get(api, "/api/batteries/list")
    assert response["count"] == len(response["batteries"]) == SIZE.batteries


def test_alerts_have_reasons_and_critical_comes_first(api: httpx.Client, filled_dsn: str) -> None:
    alerts = get(api, "/api/alerts")["alerts"]
    severities = [alert["reasons"][0]["severity"] for alert in alerts]
    assert severities == sorted(severities)  # CRITICAL before WARNING
    assert "CRITICAL" in severities
    by_id = {alert["battery_id"]: alert for alert in alerts}
    rows = Database(filled_dsn).fetch(
        """SELECT battery_id FROM latest_battery_status WHERE status <> 'NORMAL' OR soc < 20 OR temperature > 60
           OR failure_probability > 0.7 OR rul_prediction < 100"""
    )
    assert rows
    assert {row["battery_id"] for row in rows} <= set(by_id)
    worn = by_id["EV-0006"]
    assert {"poor_health", "short_life", "failure_risk"} <= {reason["rule"] for reason in worn["reasons"]}
    assert "State of health 79.9 % is below 85.0 %" in [reason["reason"] for reason in worn["reasons"]]


def test_low_charge_has_its_own_category(api_on: MakeApi, empty: str, write: Any) -> None:
    write(Batch(readings=[reading(soc=10.0, soh=95.0)]))
    (alert,) = get(api_on(empty), "/api/alerts")["alerts"]
    assert [(reason["rule"], reason["category"]) for reason in alert["reasons"]] == [("low_charge", "charge")]


def test_alert_stays_open_until_the_prediction_of_a_new_reading_arrives(
    api_on: MakeApi, empty: str, write: Any
) -> None:
    write(Batch(readings=[reading(0)], predictions=[prediction("failure", 0.9, 0)]))
    write(Batch(readings=[reading(1)]))  # its prediction has not arrived yet
    client = api_on(empty)
    assert get(client, "/api/battery/latest")["failure_probability"] is None
    assert get(client, "/api/battery/status")["failure_probability"] == 0.9
    assert get(client, "/api/battery/status")["status"] == "CRITICAL"
    assert get(client, "/api/alerts")["count"] == 1


def test_prediction_before_its_reading_does_not_hide_the_newest_reading(
    api_on: MakeApi, empty: str, write: Any
) -> None:
    write(Batch(readings=[reading(0, temperature=65.0)]))
    write(Batch(predictions=[prediction("failure", 0.2, 1), prediction("rul", 400.0, 1)]))
    client = api_on(empty)
    status = get(client, "/api/battery/status")
    assert (status["temperature"], status["status"], status["failure_probability"]) == (65.0, "CRITICAL", 0.2)
    (alert,) = get(client, "/api/alerts")["alerts"]
    assert [reason["rule"] for reason in alert["reasons"]] == ["thermal"]
    assert get(client, "/api/battery/history")["until"] == "2026-01-01T00:00:00Z"


def test_reading_from_the_future_does_not_hide_current_readings(api_on: MakeApi, empty: str, write: Any) -> None:
    now = datetime.now(UTC)
    times = {50.0: now - timedelta(seconds=1), 21.0: now + timedelta(hours=1)}
    write(Batch(readings=[reading(time=time, temperature=temperature) for temperature, time in times.items()]))
    client = api_on(empty)
    assert get(client, "/api/battery/status")["temperature"] == 50.0
    assert get(client, "/api/alerts")["count"] == 1
    assert get(client, "/api/battery/latest")["temperature"] == 50.0
    database = Database(empty, max_future_s=math.inf)  # as for a simulator that runs ahead of the clock
    ahead = Queries(database).snapshot("EV-1")
    database.close()
    assert ahead is not None
    assert ahead["temperature"] == 21.0


def test_old_predictions_expire(api_on: MakeApi, empty: str, write: Any) -> None:
    made = [prediction("failure", 0.9), prediction("soh", 70.0)]
    write(Batch(readings=[reading()], predictions=[*made, prediction("temperature", 31.0, due=NOW + HORIZON)]))
    client = api_on(empty)
    assert get(client, "/api/battery/status")["temperature_predicted"] == 31.0
    write(Batch(readings=[reading(300.0)]))
    status = get(client, "/api/battery/status")
    # The temperature forecast has expired at its due time.
    assert (status["temperature_predicted"], status["failure_probability"]) == (None, 0.9)
    write(Batch(readings=[reading(23 * 3600.0)]))
    assert get(client, "/api/battery/status")["status"] == "CRITICAL"
    write(Batch(readings=[reading(25 * 3600.0, soh=80.0)]))  # no prediction for a day
    status = get(client, "/api/battery/status")
    assert (status["failure_probability"], status["soh_predicted"], status["status"]) == (None, None, "WARNING")
    (alert,) = get(client, "/api/alerts")["alerts"]
    assert [reason["rule"] for reason in alert["reasons"]] == ["poor_health"]
    assert get(client, "/api/battery/comparison")["comparison"][0]["predicted"] is None


def test_late_reading_is_marked_late(api_on: MakeApi, empty: str, write: Any) -> None:
    write(Batch(late=[reading()]))
    client = api_on(empty)
    assert get(client, "/api/battery/status")["late"] is True
    write(Batch(readings=[reading(1)]))
    assert get(client, "/api/battery/status")["late"] is None


def test_nan_falls_back_to_the_prediction_in_alerts_and_status(api_on: MakeApi, empty: str, write: Any) -> None:
    write(Batch(readings=[reading(soh=90.0)], predictions=[prediction("soh", 70.0)]))
    client = api_on(empty)
    assert get(client, "/api/alerts")["count"] == 0  # the reported value has priority
    drop_checks(empty)
    database = Database(empty, read_only=False)
    with database.transaction() as cursor:
        cursor.execute("UPDATE ev_telemetry SET soh = 'NaN'")
    database.close()
    (alert,) = get(client, "/api/alerts")["alerts"]
    assert [reason["rule"] for reason in alert["reasons"]] == ["poor_health"]
    assert alert["reasons"][0]["reason"] == get(client, "/api/battery/status")["reasons"][0]


def test_comparison_uses_the_forecast_that_is_due_at_the_newest_reading(
    api_on: MakeApi, empty: str, write: Any
) -> None:
    due = {"due": NOW + timedelta(seconds=300)}
    later = {"due": NOW + timedelta(seconds=600)}
    write(
        Batch(
            readings=[reading(0, soh=90.0), reading(300, temperature=31.0, soh=90.0)],
            predictions=[
                prediction("temperature", 30.0, 0, **due),
                prediction("temperature", 99.0, 300, **later),
                prediction("soh", 92.0, 300),
                prediction("rul", 500.0, 300),
            ],
        )
    )
    by_name = {entry["name"]: entry for entry in get(api_on(empty), "/api/battery/comparison")["comparison"]}
    assert by_name["temperature"]["predicted"] == 30.0
    assert by_name["temperature"]["error"] == -1.0
    assert by_name["soh"]["error"] == 2.0
    assert by_name["rul"]["actual"] is None
    assert by_name["rul"]["error"] is None
    assert "end of life" in by_name["rul"]["note"]
    assert by_name["failure_probability"]["predicted"] is None


def test_predictions_have_both_roles_and_versions(api_on: MakeApi, empty: str, write: Any) -> None:
    write(
        Batch(
            readings=[reading()],
            predictions=[
                prediction("soh", 92.0, lower=91.0, upper=93.0),
                prediction("soh", 88.0, role="challenger", model_version="4"),
            ],
        )
    )
    response = get(api_on(empty), "/api/battery/predictions")
    found = {(entry["role"], entry["model_version"], entry["value"]) for entry in response["predictions"]}
    assert found == {("champion", "3", 92.0), ("challenger", "4", 88.0)}
    intervals = {entry["role"]: entry["interval"] for entry in response["predictions"]}
    assert intervals == {"champion": [91.0, 93.0], "challenger": None}
    assert response["prediction_timestamp"] == "2026-01-01T00:00:01Z"


def test_stats_cover_only_the_window(api_on: MakeApi, empty: str, write: Any) -> None:
    write(
        Batch(readings=[reading(0, temperature=99.0), reading(7200, temperature=20.0), reading(7300, temperature=24.0)])
    )
    response = get(api_on(empty), "/api/battery/stats", hours=1)
    assert response["readings"] == 2
    assert response["statistics"]["temperature"] == {"avg": 22.0, "min": 20.0, "max": 24.0}
    assert response["statistics"]["soc"] == {"avg": None, "min": None, "max": None}
    assert response["until"] == "2026-01-01T02:01:40Z"


def test_short_history_has_all_rows(api: httpx.Client) -> None:
    response = get(api, "/api/battery/history", battery_id=ONE, hours=24)
    assert response["downsampled"] is False
    assert response["resolution"]["readings"] == {"method": "every row", "interval_s": None}
    times = [row["time"] for row in response["readings"]]
    assert len(times) == pytest.approx(72, abs=1)
    assert times == sorted(times)
    assert response["predictions"][-1]["soh_lower"] == pytest.approx(91 * 0.97)


def test_long_history_is_averaged(api: httpx.Client, filled_dsn: str) -> None:
    response = get(api, "/api/battery/history", battery_id=ONE, hours=24 * 30, points=60)
    assert response["downsampled"] is True
    assert response["resolution"]["readings"] == {"method": "mean", "interval_s": 12 * 3600.0}
    row = response["readings"][5]
    (expected,) = Database(filled_dsn).fetch(
        """SELECT avg(temperature) AS value FROM ev_telemetry
           WHERE battery_id = %(id)s AND time >= %(t)s AND time < %(t)s + interval '12 hours'""",
        {"id": ONE, "t": datetime.fromisoformat(row["time"])},
    )
    assert row["temperature"] == pytest.approx(expected["value"])


def test_means_have_minimum_and_maximum_and_align_with_forecasts(api_on: MakeApi, empty: str, write: Any) -> None:
    minutes = range(0, 24 * 60, 5)
    write(
        Batch(
            readings=[reading(60.0 * m, temperature=62.0 if m == 605 else 20.0 + m / 60) for m in minutes],
            predictions=[
                prediction("temperature", 25.0, 60.0 * m, due=NOW + timedelta(minutes=m) + HORIZON) for m in minutes
            ],
        )
    )
    drop_checks(empty)
    database = Database(empty, read_only=False)
    with database.transaction() as cursor:
        cursor.execute("UPDATE ev_telemetry SET soc = 'NaN' WHERE time = %(t)s", {"t": NOW + timedelta(minutes=600)})
        cursor.execute("UPDATE ev_telemetry SET soc = 50 WHERE time = %(t)s", {"t": NOW + timedelta(minutes=605)})
    database.close()
    client = api_on(empty)
    response = get(client, "/api/battery/history", points=24)
    assert response["resolution"]["readings"]["method"] == "mean"
    (hot,) = (row for row in response["readings"] if row["temperature_highest"] == 62.0)
    assert hot["temperature"] < 34.0
    assert hot["temperature_lowest"] == pytest.approx(30.0)
    assert hot["soc"] == 50.0  # NaN is ignored
    assert response["resolution"]["predictions"]["method"] == "mean"
    for row in response["predictions"]:
        # Start of the interval plus the horizon, for any length of the interval.
        assert datetime.fromisoformat(row["temperature_due"]) - datetime.fromisoformat(row["time"]) == HORIZON
    raw = get(client, "/api/battery/history", hours=1)["readings"]
    assert {row["temperature_highest"] for row in raw} == {None}
    stats = get(client, "/api/battery/stats")["statistics"]
    assert stats["soc"] == {"avg": 50.0, "min": 50.0, "max": 50.0}


def test_status_alerts_and_history_on_timescaledb(api_on: MakeApi, timescaledb_dsn: str, new_database: Any) -> None:
    dsn = new_database(timescaledb_dsn)
    migrate(dsn)
    store, now = PostgresStore(dsn), datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [now - timedelta(hours=h) for h in range(48, 0, -1)]
    old = prediction("failure", 0.9, time=now - timedelta(days=2))
    store.write(Batch(readings=[reading(time=t, temperature=20.0, soc=60.0) for t in hours], predictions=[old]))
    store.write(Batch(predictions=[prediction("rul", 400.0, time=now)]))  # its reading has not arrived yet
    store.close()
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT compress_chunk(c) FROM show_chunks('ev_telemetry') c")
    connection.close()
    client = api_on(dsn)
    status = get(client, "/api/battery/status")
    assert (status["temperature"], status["rul_prediction"], status["failure_probability"]) == (20.0, 400.0, None)
    assert get(client, "/api/alerts")["count"] == 0
    response = get(client, "/api/battery/history", hours=47, points=20)
    assert response["resolution"]["readings"]["method"] == "mean of hourly means"
    assert {row["temperature"] for row in response["readings"]} == {20.0}
    assert {row["temperature_highest"] for row in response["readings"]} == {None}  # the hourly aggregate has means only


def test_dense_history_reads_one_row_per_point(empty: str) -> None:
    database = Database(empty, read_only=False)
    with database.transaction() as cursor:
        cursor.execute("INSERT INTO batteries (battery_id) VALUES ('EV-1')")
        cursor.execute("ALTER TABLE ev_telemetry DISABLE TRIGGER USER")
        cursor.execute(
            """INSERT INTO ev_telemetry (battery_id, time, voltage, current, temperature)
               SELECT 'EV-1', %(t)s + k * interval '1 s', 360, 0, k FROM generate_series(0, %(n)s) k""",
            {"t": NOW, "n": MAX_ROWS + 1000},
        )
        cursor.execute("ANALYZE ev_telemetry")
    window = HistoryWindow("EV-1", NOW, NOW + timedelta(seconds=MAX_ROWS + 1000), points=100)
    series = HistoryQueries(database).readings(window)
    assert series.method == "newest in each interval"
    assert series.interval_s == 70.0
    assert len(series.rows) == pytest.approx(100, abs=2)
    times = [row["time"] for row in series.rows]
    assert times == sorted(set(times))
    assert series.rows[-1]["temperature"] == MAX_ROWS + 1000
    stats = HistoryQueries(database).sampled_stats(window)
    assert stats["temperature_avg"] == pytest.approx((MAX_ROWS + 1000) / 2, rel=0.02)
    plan = "\n".join(
        row["QUERY PLAN"]
        for row in database.fetch("EXPLAIN SELECT * FROM latest_battery_status WHERE battery_id = 'EV-1'")
    )
    assert "Index Scan" in plan
    database.close()


@pytest.mark.parametrize("path", BATTERY_PATHS)
def test_battery_id_is_optional_with_one_battery(path: str, api_on: MakeApi, empty: str, write: Any) -> None:
    client = api_on(empty)
    assert "no battery has sent data" in get_error(client, f"/api/battery/{path}", 404)
    write(Batch(readings=[reading()]))
    assert get(client, f"/api/battery/{path}")["battery_id"] == "EV-1"
    write(Batch(readings=[reading(battery_id="EV-2")]))
    assert "2 batteries" in get_error(client, f"/api/battery/{path}", 409)


@pytest.mark.parametrize("path", BATTERY_PATHS)
def test_unknown_battery_is_404(path: str, api: httpx.Client) -> None:
    assert "EV-404" in get_error(api, f"/api/battery/{path}", 404, battery_id="EV-404")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"battery_id": "a b"}, "battery_id"),
        ({"battery_id": "x" * 51}, "battery_id"),
        ({"battery_id": "a\x00"}, "battery_id"),
        ({"battery_id": ONE, "hours": "nan"}, "hours"),
        ({"battery_id": ONE, "hours": 0}, "hours"),
        ({"battery_id": ONE, "hours": -1}, "hours"),
        ({"battery_id": ONE, "hours": "1e999"}, "hours"),
        ({"battery_id": ONE, "hours": "soon"}, "hours"),
        ({"battery_id": ONE, "points": 10**9}, "points"),
    ],
)
def test_invalid_parameter_is_422_and_named(query: dict[str, object], field: str, api: httpx.Client) -> None:
    message = get_error(api, "/api/battery/history", 422, **query)
    assert message.startswith(f"{field}: {str(query[field])!r}"[:50])
    assert EXPECTED[field] in message


def test_unknown_paths_and_methods_get_json_errors(api: httpx.Client) -> None:
    assert "not found" in get_error(api, "/api/nothing", 404)
    assert "not found" in get_error(api, "/api/battery/unknown", 404)
    assert "not found" in get_error(api, "/nothing", 404)
    assert api.post("/api/alerts").status_code == 405
    assert set(api.post("/api/alerts").json()) == {"error", "field", "value"}


def test_mounted_pages_do_not_shadow_api_paths(postgres_dsn: str, tmp_path: Path) -> None:
    with api_app(postgres_dsn, tmp_path) as app, served(app) as client:
        app.mount("/", PlainTextResponse("a page"))
        assert client.get("/battery/unknown").text == "a page"
        error = get_error(client, "/api/battery/unknown", 404)
        assert error == "GET /api/battery/unknown: not found; /docs has every path"


def test_unavailable_store_is_503_and_liveness_stays_200(api_on: MakeApi, tmp_path: Path) -> None:
    client = api_on(f"postgresql://me:hunter2@/telemetry?host={tmp_path}")
    response = client.get("/api/battery/status")
    assert response.status_code == 503
    assert response.json()["error"] == "Telemetry store unavailable: the connection failed."
    assert "hunter2" not in response.text
    health = client.get("/api/health")
    assert health.status_code == 503
    assert health.json()["dependencies"]["telemetry_store"]["state"] == "down"
    assert get(client, "/health") == {"status": "alive"}


def test_missing_schema_error_names_the_migration_command(api_on: MakeApi, postgres_dsn: str) -> None:
    assert "telemetry.stores.migrate" in get_error(api_on(postgres_dsn), "/api/alerts", 503)


def test_slow_statement_is_cancelled(postgres_dsn: str) -> None:
    database = Database(postgres_dsn, statement_timeout_s=0.1)
    with pytest.raises(StoreUnavailableError, match=r"longer than 0\.1 s"):
        database.fetch("SELECT pg_sleep(5)")
    assert database.fetch_one("SELECT 1 AS one") == {"one": 1}
    database.close()


def test_default_pool_is_read_only(empty: str) -> None:
    database = Database(empty)
    with pytest.raises(StoreUnavailableError):
        database.fetch("INSERT INTO batteries (battery_id) VALUES ('EV-1') RETURNING 1")
    assert database.fetch("SELECT * FROM batteries") == []
    database.close()


def test_lost_connections_are_replaced(empty: str) -> None:
    database = Database(empty)
    database.fetch("SELECT 1")
    with psycopg2.connect(empty) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'battery-twin-console' AND query = 'SELECT 1'"
        )
    connection.close()
    assert database.fetch_one("SELECT 2 AS two") == {"two": 2}
    database.close()


def test_nan_in_the_store_is_null_in_responses(api_on: MakeApi, empty: str) -> None:
    drop_checks(empty)
    database = Database(empty, read_only=False)
    with database.transaction() as cursor:
        cursor.execute(
            """INSERT INTO ev_telemetry (battery_id, time, voltage, current, temperature, soc, soh)
               VALUES ('EV-1', now(), 360, 1, 25, 'NaN', 'Infinity')"""
        )
    database.close()
    client = api_on(empty)
    for path in BATTERY_PATHS:
        get(client, f"/api/battery/{path}")
    status = get(client, "/api/battery/status")
    assert status["soc"] is None
    assert status["soh"] is None
    assert status["status"] == "NORMAL"


def test_metrics_count_requests_by_path(api: httpx.Client) -> None:
    get(api, "/api/alerts")
    api.get("/api/unknown-path")
    text = api.get("/metrics").text
    assert re.search(r'^console_requests_total{path="/api/alerts",status="200"} [1-9]', text, re.MULTILINE)
    assert "unknown-path" not in text


def test_docs_page_loads_nothing_from_other_hosts(api: httpx.Client) -> None:
    page = api.get("/docs").text
    assert "swagger-ui-bundle.js" in page
    assert "://" not in page
