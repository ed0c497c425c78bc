"""Hostile rows in the store, in a table of the site and in Kafka: every good battery keeps all its predictions.

Each bad row is counted with a reason, and no process ends.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.database.row_source import SiteRowSource, StoreRowSource
from serving.predictor import Predictor
from serving.scorer import Scorer
from serving.stream.message_parser import Message, ParserLimits, parse_messages
from telemetry.batch import Batch, rows_of
from telemetry.contract import BATTERY_FIELDS, READING_FIELDS
from telemetry.field_map import parse_field_map
from telemetry.stores.connection import StoreConnection
from telemetry.stores.migrate import migrate
from tests import hostile
from tests.features.conftest_features import drive
from tests.serving.test_database_predictor import PACK, Site, drain, drop_checks, offline

GOOD = tuple(range(10))
TIMES_S = np.arange(0, 1_200, 20.0)
#: A valid reading, whose fields the hostile ones replace.
ROW = {"voltage": 360.0, "current": 10.0, "temperature": 25.0}


def good_readings() -> pd.DataFrame:
    return pd.concat([drive(TIMES_S, seed) for seed in GOOD], ignore_index=True)


@pytest.fixture
def site(postgres_dsn: str) -> Iterator[Site]:
    """A store with ten good batteries and their readings, without check constraints."""
    migrate(postgres_dsn)
    made = Site(postgres_dsn)
    made.store.write(Batch(batteries=[{"battery_id": f"EV-{seed}", **PACK} for seed in GOOD]))
    made.store.write(Batch(readings=rows_of(good_readings())))
    drop_checks(made)
    yield made
    made.store.close()


def insert(site: Site, table: str, **values: Any) -> None:
    names = ", ".join(values)
    site.query(f"INSERT INTO {table} ({names}) VALUES ({', '.join(['%s'] * len(values))})", list(values.values()))


def test_database_predictor_survives_every_hostile_value(site: Site, predictor: Predictor) -> None:
    for i, (name, value) in enumerate(hostile.READINGS):
        time = pd.Timestamp("2026-01-01", tz="UTC") + pd.Timedelta(seconds=i)
        reading = {"battery_id": "BAD-1", "time": time, **ROW, "prediction_timestamp": time, name: value}
        insert(site, "ev_telemetry", **reading)
    for time in hostile.TIMES:
        insert(site, "ev_telemetry", battery_id="BAD-2", time=time, **ROW)
    insert(site, "ev_telemetry", battery_id="BAD-2", time="2026-01-01", **ROW)
    for i, (name, value) in enumerate(hostile.BATTERIES):
        insert(site, "batteries", battery_id=f"BAD-B{i}", **{"nominal_capacity_ah": 100.0, name: value})
        insert(site, "ev_telemetry", battery_id=f"BAD-B{i}", time="2026-01-01", **ROW)
    for i, time in enumerate(hostile.TIMES):
        insert(site, "batteries", battery_id=f"BAD-T{i}", in_service_since=time, nominal_capacity_ah=100.0)
        insert(site, "ev_telemetry", battery_id=f"BAD-T{i}", time="2026-01-01", **ROW)
    worker = site.worker(StoreRowSource(300.0))
    drain(worker, Scorer(predictor))
    good = {key: value for key, value in site.predictions().items() if key[0].startswith("EV-")}
    assert good == offline(predictor, good_readings())
    predicted = {battery_id for battery_id, _, _ in site.predictions()}
    # At the bounds of the contract the battery is implausible with the reading: all its predictions are withheld.
    bounds = {(field.name, bound) for field in BATTERY_FIELDS for bound in (field.minimum, field.maximum)}
    plausible = {f"BAD-B{i}" for i, case in enumerate(hostile.BATTERIES) if case not in bounds}
    assert plausible <= predicted
    assert site.query("SELECT count(*) FROM twin_states WHERE state IS NULL") == [(0,)]
    assert {"BAD-1", "BAD-2", *(f"BAD-T{i}" for i in range(len(hostile.TIMES)))} <= predicted
    for name in ("voltage", "current", "temperature"):
        assert site.counted("database_rows_refused_total", field=name) >= 4
    for field in READING_FIELDS:
        if field.kind == "float" and not field.required:
            assert site.counted("values_out_of_range_total", field=field.name) >= 3, field.name
    for name in ("nominal_capacity_ah", "cells_in_series"):
        assert site.counted("battery_values_invalid_total", field=name) >= 3
    # The states are replayed from the same rows.
    site.query("UPDATE twin_states SET state = NULL")
    later = drive(TIMES_S + TIMES_S[-1] + 20.0, 0)
    site.store.write(Batch(readings=rows_of(later)))
    drain(worker, Scorer(predictor))
    both = pd.concat([drive(TIMES_S, 0), later])
    assert {key: value for key, value in site.predictions().items() if key[0] == "EV-0"} == offline(predictor, both)


@pytest.mark.parametrize("sql_type", ["timestamptz", "text"])
def test_hostile_times_in_a_table_of_the_site_stop_no_battery(site: Site, predictor: Predictor, sql_type: str) -> None:
    site.query(f'CREATE TABLE log (pack text, "when" {sql_type}, u float8, i float8, t float8)')
    site.query('CREATE INDEX ON log (pack, "when")')
    readings = drive(TIMES_S, 0)
    first, second = readings.iloc[:30], readings.iloc[30:]

    def write(rows: pd.DataFrame) -> None:
        for row in rows_of(rows):
            values = (row["battery_id"], row["time"].isoformat(), row["voltage"], row["current"], row["temperature"])  # type: ignore[attr-defined]
            site.query("INSERT INTO log VALUES (%s, %s, %s, %s, %s)", values)

    write(first)
    for time in hostile.TIMES:
        site.query("INSERT INTO log VALUES ('EV-0', %s, 360, 10, 25)", (time,))
        site.query("INSERT INTO log VALUES ('EV-1', %s, 360, 10, 25)", (time,))
    columns = {"pack": "battery_id", "when": "time", "u": "voltage", "i": "current", "t": "temperature"}
    source = SiteRowSource(site.dsn, parse_field_map({"columns": columns, "relation": "log"}, "site.yaml"), 300.0)
    worker = site.worker(source)
    drain(worker, Scorer(predictor))
    write(second)
    drain(worker, Scorer(predictor))
    bare = readings[["battery_id", "time", "voltage", "current", "temperature"]]
    bare = bare.reindex(columns=readings.columns)
    got = {key: value for key, value in site.predictions().items() if key[0] == "EV-0"}
    if sql_type == "timestamptz":
        assert got == offline(predictor, bare)
    assert site.counted("database_rows_refused_total", field="time") >= 4
    source.close()


def test_hostile_values_cannot_enter_the_store(postgres_dsn: str) -> None:
    migrate(postgres_dsn)
    site = Site(postgres_dsn)
    insert(site, "ev_telemetry", battery_id="EV-1", time="2026-01-01", **ROW)
    refused = [
        *(("ev_telemetry", {"battery_id": "B", "time": time, **ROW}) for time in hostile.TIMES),
        *(
            ("ev_telemetry", {"battery_id": "B", "time": "2026-01-01", **ROW, name: value})
            for name, value in hostile.READINGS
            if value is not None and not math.isfinite(value)
        ),
        *(
            ("batteries", {"battery_id": "B", name: value})
            for name, value in hostile.BATTERIES
            if value is not None and not 0.0 < value < math.inf
        ),
        *(("batteries", {"battery_id": "B", "in_service_since": time}) for time in hostile.TIMES),
        *(("battery_cycles", {"battery_id": "B", "cycle_index": 1, "end_time": time}) for time in hostile.TIMES),
        ("battery_cycles", {"battery_id": "B", "cycle_index": math.nan}),
        ("battery_predictions", {"battery_id": "B", "time": "2026-01-01", "target": "soh", "value": math.nan}),
    ]
    for table, row in refused:
        with pytest.raises(psycopg2.errors.CheckViolation):
            insert(site, table, **row)
    site.store.close()


def test_migration_quarantines_what_is_there(postgres_dsn: str) -> None:
    migrate(postgres_dsn)
    site = Site(postgres_dsn)
    drop_checks(site)
    site.query("DROP TABLE quarantined_rows; DELETE FROM schema_migrations WHERE name LIKE '0016%'")
    insert(site, "ev_telemetry", battery_id="EV-1", time="2026-01-01", **ROW, soc=math.nan)
    insert(site, "ev_telemetry", battery_id="EV-1", time="2026-01-02", **ROW | {"voltage": math.inf})
    insert(site, "ev_telemetry", battery_id="EV-1", time="infinity", **ROW)
    insert(site, "batteries", battery_id="EV-2", nominal_capacity_ah=0, in_service_since="0001-01-01", model="M")
    migrate(postgres_dsn)
    assert site.query("SELECT battery_id, soc FROM ev_telemetry") == [("EV-1", None)]
    assert site.query(
        "SELECT nominal_capacity_ah, in_service_since, model FROM batteries WHERE battery_id = 'EV-2'"
    ) == [(None, None, "M")]
    assert site.query("SELECT table_name, reason FROM quarantined_rows ORDER BY 1, 2") == [
        ("batteries", "in_service_since"),
        ("batteries", "nominal_capacity_ah"),
        ("ev_telemetry", "soc"),
        ("ev_telemetry", "time"),
        ("ev_telemetry", "voltage"),
    ]
    site.store.close()


@pytest.mark.parametrize("time", hostile.TIMES)
def test_time_that_no_reader_can_use_is_read_as_missing(postgres_dsn: str, time: str) -> None:
    connection = StoreConnection(postgres_dsn, "test")
    with connection.transaction() as cursor:
        cursor.execute("SELECT %s::timestamptz, timestamptz '2026-01-01 00:00:00+00'", (time,))
        (row,) = cursor.fetchall()
    connection.close()
    assert row == (None, pd.Timestamp("2026-01-01", tz="UTC"))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wrong=st.lists(hostile.changes(), min_size=1, max_size=5))
def test_hostile_messages_leave_the_others_in_the_batch(wrong: list[dict[str, Any]]) -> None:
    """What the stream scorer makes of a batch; test_stream.py has invalid messages with a broker."""
    now = pd.Timestamp("2026-03-01", tz="UTC").to_pydatetime()
    good = {"battery_id": "EV-7", "timestamp": "2026-01-01T00:00:00Z", **ROW}
    contents = [json.dumps(good), *(json.dumps(good | change) for change in wrong), json.dumps(good)]
    messages = [Message(b"EV-7", content.encode(), len(content)) for content in contents]
    readings, dead_letters = parse_messages(messages, ParserLimits(65_536, 300.0), now)
    assert {0, len(messages) - 1} <= set(readings.message_index.tolist())
    assert len(readings.message_index) + len(dead_letters) == len(messages)
    for change, index in zip(wrong, range(1, len(messages) - 1), strict=True):
        is_optional = not change.keys() & {"voltage", "current", "temperature"}
        assert (index in readings.message_index) or not is_optional, "an optional value never costs the reading"
    assert np.isfinite(readings.batch.matrix[:, :4]).all()
