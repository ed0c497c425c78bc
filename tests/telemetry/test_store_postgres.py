"""PostgresStore: idempotent and order-independent upserts, missing values, transactions and session labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetry.batch import Batch, merge
from telemetry.contract import READING_FIELDS
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
READING = {"battery_id": "EV-1", "time": NOW, "voltage": 360.0, "current": 12.5, "temperature": 25.0, "soc": 80.0}


@pytest.fixture(scope="module")
def dsn(postgres_server: str, new_database: Callable[[str], str]) -> str:
    database = new_database(postgres_server)
    migrate(database)
    return database


@pytest.fixture
def store(dsn: str) -> Iterator[PostgresStore]:
    query(dsn, "TRUNCATE ev_telemetry, battery_predictions, battery_cycles, batteries")
    store = PostgresStore(dsn)
    yield store
    store.close()


def query(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def prediction(target: str, value: float, **more: object) -> dict[str, object]:
    return {
        "battery_id": "EV-1",
        "time": NOW,
        "target": target,
        "value": value,
        "model_name": f"battery-{target}",
        "model_version": "3",
        "role": "champion",
        "predicted_at": NOW + timedelta(seconds=1),
        **more,
    }


FORECAST = [prediction("soh", 92.0), prediction("rul", 700.0, lower=600.0, upper=800.0), prediction("failure", 0.8)]


def everything(dsn: str) -> list[list[tuple[Any, ...]]]:
    """All rows with the id of the transaction that wrote them, which a rewrite would change."""
    tables = ("ev_telemetry", "battery_predictions", "batteries", "battery_cycles")
    return [query(dsn, f"SELECT xmin::text, t.* FROM {table} t ORDER BY 2, 3") for table in tables]


def test_writing_twice_changes_nothing(dsn: str, store: PostgresStore) -> None:
    batch = Batch(
        readings=[READING, {**READING, "time": NOW + timedelta(seconds=1), "is_charging": True}],
        predictions=FORECAST,
        batteries=[{"battery_id": "EV-1", "nominal_capacity_ah": 150.0, "chemistry": "NMC"}],
        cycles=[{"battery_id": "EV-1", "cycle_index": 12.5, "soh": 91.0}],
    )
    store.write(batch)
    once = everything(dsn)
    assert [len(rows) for rows in once] == [2, 3, 1, 1]
    store.write(batch)
    store.write(merge([batch, batch]))
    assert everything(dsn) == once


@pytest.mark.parametrize("readings_first", [True, False])
def test_readings_and_predictions_meet_in_one_row_in_any_order(
    dsn: str, store: PostgresStore, readings_first: bool
) -> None:
    parts = [Batch(readings=[READING]), Batch(predictions=FORECAST)]
    for part in parts if readings_first else reversed(parts):
        store.write(part)
    rows = query(
        dsn,
        "SELECT voltage, soc, rul_prediction, failure_probability, prediction_timestamp, status FROM ev_telemetry",
    )
    assert rows == [(360.0, 80.0, 700.0, 0.8, NOW + timedelta(seconds=1), "CRITICAL")]


def test_challenger_predictions_are_stored_only_in_battery_predictions(dsn: str, store: PostgresStore) -> None:
    store.write(Batch(readings=[READING], predictions=[prediction("failure", 0.9, role="challenger")]))
    assert query(dsn, "SELECT failure_probability, prediction_timestamp FROM ev_telemetry") == [(None, None)]
    assert query(dsn, "SELECT role, value FROM battery_predictions") == [("challenger", 0.9)]


def test_nan_none_and_absent_values_become_null(dsn: str, store: PostgresStore) -> None:
    frame = pd.DataFrame([{**READING, "soc": math.nan, "soh": None, "is_charging": 1.0}])
    frame["time"] = frame["time"].astype("datetime64[us, UTC]")
    store.write(Batch(readings=frame.to_dict("records")))
    rows = query(dsn, "SELECT time, voltage, soc, soh, odometer_km, is_charging, status FROM ev_telemetry")
    assert rows == [(NOW, 360.0, None, None, None, True, "NORMAL")]


def test_missing_value_does_not_overwrite_a_known_one(dsn: str, store: PostgresStore) -> None:
    store.write(Batch(readings=[READING], batteries=[{"battery_id": "EV-1", "chemistry": "LFP"}]))
    store.write(Batch(readings=[{**READING, "soc": None, "soh": 90.0}], batteries=[{"battery_id": "EV-1"}]))
    assert query(dsn, "SELECT soc, soh FROM ev_telemetry") == [(80.0, 90.0)]
    assert query(dsn, "SELECT chemistry FROM batteries") == [("LFP",)]


def test_text_with_special_characters_round_trips(dsn: str, store: PostgresStore) -> None:
    awkward = 'a "quoted", comma\nnew line \\. \t ü 電池'
    store.write(Batch(batteries=[{"battery_id": "EV-1", "model": awkward}]))
    assert query(dsn, "SELECT model FROM batteries") == [(awkward,)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_any_text_round_trips(dsn: str, store: PostgresStore, text: str) -> None:
    query(dsn, "TRUNCATE batteries")
    store.write(Batch(batteries=[{"battery_id": "EV-1", "model": text, "chemistry": "null"}]))
    assert query(dsn, "SELECT model, chemistry FROM batteries") == [(text, "null")]


@pytest.mark.parametrize(
    "wrong", [{"model": "\ud800"}, {"cells_in_series": {"a": 1, "b": 2}}, {"cells_in_series": "x"}]
)
def test_value_of_an_unsupported_type_is_an_error(dsn: str, store: PostgresStore, wrong: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError, psycopg2.DataError)):
        store.write(Batch(readings=[READING], batteries=[{"battery_id": "EV-1", **wrong}]))
    assert query(dsn, "SELECT count(*) FROM ev_telemetry") == [(0,)]


def test_writing_readings_registers_their_batteries(dsn: str, store: PostgresStore) -> None:
    rows = [{**READING, "battery_id": f"EV-{n % 3}", "time": NOW + timedelta(seconds=n)} for n in range(9)]
    store.write(Batch(readings=rows))
    assert query(dsn, "SELECT battery_id FROM batteries ORDER BY 1") == [("EV-0",), ("EV-1",), ("EV-2",)]
    query(dsn, "DELETE FROM batteries")
    values = "(battery_id, time, voltage, current, temperature) VALUES ('EV-9', now(), 1, 1, 1)"
    query(
        dsn,
        f"BEGIN; SAVEPOINT s; INSERT INTO ev_telemetry {values}; ROLLBACK TO SAVEPOINT s; "
        f"INSERT INTO ev_telemetry {values}; COMMIT",
    )
    assert query(dsn, "SELECT battery_id FROM batteries") == [("EV-9",)], "a rollback also clears the cached battery id"


def test_batch_is_written_atomically(dsn: str, store: PostgresStore) -> None:
    incomplete = {"battery_id": "EV-2", "time": NOW, "voltage": 1.0}
    with pytest.raises(psycopg2.errors.CheckViolation):
        store.write(Batch(readings=[READING, incomplete]))
    assert query(dsn, "SELECT count(*) FROM ev_telemetry") == [(0,)]
    store.write(Batch(readings=[READING]))
    assert query(dsn, "SELECT count(*) FROM ev_telemetry") == [(1,)]


def test_transaction_is_written_atomically(dsn: str, store: PostgresStore) -> None:
    def interrupted() -> None:
        with store.transaction() as transaction:
            transaction.write(Batch(readings=[READING]))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert query(dsn, "SELECT count(*) FROM ev_telemetry") == [(0,)]
    later = {**READING, "time": NOW + timedelta(seconds=1)}
    with store.transaction() as transaction:
        transaction.write(Batch(readings=[READING], predictions=FORECAST))
        transaction.write(Batch(readings=[later], predictions=[{**one, "time": later["time"]} for one in FORECAST]))
        transaction.cursor.execute("SELECT count(*) FROM ev_telemetry")
        assert transaction.cursor.fetchone() == (2,)
    assert query(dsn, "SELECT voltage, rul_prediction FROM ev_telemetry") == [(360.0, 700.0)] * 2


SESSION = {
    "battery_id": "EV-1",
    "cycle_index": 12.0,
    "kind": "discharge",
    "start_time": NOW,
    "end_time": NOW + timedelta(seconds=20),
}


def test_sessions_with_the_same_cycle_index_are_separate_rows(dsn: str, store: PostgresStore) -> None:
    second = {**SESSION, "start_time": NOW + timedelta(hours=1), "end_time": NOW + timedelta(hours=2)}
    store.write(Batch(cycles=[SESSION, second, {"battery_id": "EV-1", "cycle_index": 12.0, "capacity_ah": 140.0}]))
    store.write(Batch(cycles=[{**SESSION, "temperature_mean_c": 21.0}]))
    store.write(Batch(cycles=[{"battery_id": "EV-1", "cycle_index": 12.0, "soh": 93.0}]))
    rows = query(dsn, "SELECT kind, temperature_mean_c, capacity_ah, soh FROM battery_cycles ORDER BY end_time")
    assert rows == [("discharge", 21.0, None, None), ("discharge", None, None, None), ("cycle", None, 140.0, 93.0)]


def test_session_labels_are_filled_from_its_readings(dsn: str, store: PostgresStore) -> None:
    alarms = {0: 1.0, 10: 3.0, 20: 0.0, 30: 5.0}
    readings = [
        {**READING, "time": NOW + timedelta(seconds=second), "soh": 90.0 - second / 10, "warning_level": alarm}
        for second, alarm in alarms.items()
    ]
    store.write(Batch(readings=readings))
    unlabelled = {**SESSION, "kind": "charge", "end_time": NOW + timedelta(seconds=25)}
    store.write(Batch(cycles=[unlabelled, {**SESSION, "soh": 77.0}, {**SESSION, "kind": "cycle"}]))
    rows = query(dsn, "SELECT kind, soh, warning_level FROM battery_cycles ORDER BY kind")
    assert rows == [("charge", 88.0, 3.0), ("cycle", None, None), ("discharge", 77.0, 3.0)]


def test_store_reconnects_after_its_connection_was_terminated(dsn: str, store: PostgresStore) -> None:
    store.write(Batch(readings=[READING]))
    query(
        dsn,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'battery-twin' AND datname = current_database()",
    )
    with pytest.raises(psycopg2.OperationalError):
        store.write(Batch(predictions=FORECAST))
    store.write(Batch(predictions=FORECAST))
    assert query(dsn, "SELECT voltage, rul_prediction FROM ev_telemetry") == [(360.0, 700.0)]


def test_count_and_newest_time_ignore_predictions_without_a_reading(store: PostgresStore) -> None:
    assert store.newest_time(["EV-1"]) is None
    store.write(Batch(predictions=FORECAST))
    assert store.count_readings(["EV-1"], NOW, NOW) == 0
    store.write(Batch(readings=[READING]))
    assert store.count_readings(["EV-1"], NOW, NOW) == 1
    assert store.count_readings(["EV-2"], NOW, NOW) == 0
    assert store.newest_time(["EV-1", "EV-2"]) == NOW


NUMBERS = st.one_of(st.none(), st.floats(allow_infinity=False, width=64))
OPTIONAL = [field.name for field in READING_FIELDS if field.kind == "float" and not field.required]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(st.sampled_from(OPTIONAL), NUMBERS))
def test_floats_round_trip_exactly(dsn: str, store: PostgresStore, values: dict[str, float | None]) -> None:
    query(dsn, "TRUNCATE ev_telemetry")
    store.write(Batch(readings=[{**READING, "soc": None, **values}]))
    (row,) = query(dsn, f"SELECT {', '.join(OPTIONAL)} FROM ev_telemetry")
    expected = [values.get(name) for name in OPTIONAL]
    assert list(row) == [None if value is None or math.isnan(value) else value for value in expected]


def test_late_reading_is_flagged_unless_a_prediction_from_it_exists(dsn: str, store: PostgresStore) -> None:
    late = {**READING, "time": NOW - timedelta(seconds=10)}
    store.write(Batch(predictions=FORECAST, late=[late, READING]))
    before = everything(dsn)
    store.write(Batch(late=[late, READING]))
    assert everything(dsn) == before
    assert query(dsn, "SELECT time, voltage, late FROM ev_telemetry ORDER BY time") == [
        (late["time"], 360.0, True),
        (NOW, 360.0, None),
    ]
