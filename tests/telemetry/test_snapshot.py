"""Snapshots of the telemetry store: content, reproducibility, sampling, and external tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg2
import pytest

from telemetry.batch import Batch
from telemetry.contract import CYCLE_FIELDS, READING_FIELDS
from telemetry.errors import TwinError
from telemetry.field_map import FieldMap, parse_field_map
from telemetry.sources import Telemetry, read_source
from telemetry.stores import snapshot
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from telemetry.stores.snapshot import SnapshotParams, take_snapshot

NOW = datetime(2026, 1, 10, tzinfo=UTC)
EVERYTHING = SnapshotParams(days=1000.0, every_s=0.0)


def reading(battery_id: str, second: float, **fields: Any) -> dict[str, Any]:
    return {
        "battery_id": battery_id,
        "time": NOW - timedelta(seconds=second),
        "voltage": 360.0 + second / 7.0,
        "current": 12.5,
        "temperature": 25.0,
        **fields,
    }


SESSIONS: list[dict[str, Any]] = [
    {
        "battery_id": "EV-1",
        "cycle_index": 100.0 + i // 2,  # a pack that counts whole cycles
        "kind": "discharge",
        "start_time": NOW - timedelta(days=200 - i, hours=1),
        "end_time": NOW - timedelta(days=200 - i),
        "soh": 95.0 - i / 10.0,
        "temperature_mean_c": 20.0 + i,
    }
    for i in range(6)
]


@pytest.fixture(scope="module")
def dsn(postgres_server: str, new_database: Callable[[str], str]) -> str:
    """A store with an active battery, one that stopped reporting a month ago, old sessions, and an external table."""
    database = new_database(postgres_server)
    migrate(database)
    active = [reading("EV-1", second, soh=93.5, is_charging=False) for second in range(0, 3000, 3)]
    active[500] |= {"warning_level": 3.0}
    stale = [reading("EV-2", 30 * 86_400 + second) for second in range(0, 600, 20)]
    store = PostgresStore(database)
    store.write(Batch(readings=[*active, *stale], cycles=SESSIONS, batteries=[{"battery_id": "EV-1", "model": "m"}]))
    store.write(Batch(predictions=[prediction("EV-3")]))
    store.close()
    connection = psycopg2.connect(database)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            """CREATE SCHEMA plant;
               CREATE TABLE plant."pack log"
                   (id int, "at %" timestamp, volt float8, milliamp int, degf float8, note text);
               INSERT INTO plant."pack log" SELECT 7, timestamp '2026-01-05 10:00:00' + n * interval '10 seconds',
                   350 + n / 3.0, -1000 * n, 77, CASE n % 2 WHEN 0 THEN 'fault 100%' END
                   FROM generate_series(0, 99) AS n;
               UPDATE plant."pack log" SET volt = NULL WHERE milliamp = 0"""
        )
    connection.close()
    return database


def prediction(battery_id: str) -> dict[str, Any]:
    return {
        "battery_id": battery_id,
        "time": NOW,
        "target": "rul",
        "value": 1.0,
        "role": "champion",
        "predicted_at": NOW,
    }


def read_snapshot(dsn: str, folder: Path, params: SnapshotParams = EVERYTHING, **more: Any) -> Telemetry:
    return read_source("timescale", take_snapshot(dsn, folder, params, **more))


def test_snapshot_round_trip_preserves_all_rows(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_CHUNK_ROWS", 7)
    telemetry = read_snapshot(dsn, tmp_path)
    stored = pd.DataFrame(query(dsn, f"SELECT {', '.join(f.name for f in READING_FIELDS)} FROM ev_telemetry "
                                     "WHERE voltage IS NOT NULL ORDER BY battery_id, time"))  # fmt: skip
    stored.columns = [f.name for f in READING_FIELDS]
    got = telemetry.readings[[f.name for f in READING_FIELDS]]
    assert len(got) == 1030
    pd.testing.assert_frame_equal(got, stored.astype(got.dtypes.to_dict()))
    assert telemetry.cycles["soh"].tolist() == [session["soh"] for session in SESSIONS]
    assert telemetry.cycles["end_time"].tolist() == [pd.Timestamp(session["end_time"]) for session in SESSIONS]
    assert list(telemetry.cycles)[: len(CYCLE_FIELDS)] == [f.name for f in CYCLE_FIELDS]
    assert telemetry.batteries["battery_id"].tolist() == ["EV-1", "EV-2", "EV-3"]
    assert telemetry.batteries["model"].tolist()[0] == "m"


def test_unchanged_store_gives_the_same_snapshot_folder(postgres_dsn: str, tmp_path: Path) -> None:
    migrate(postgres_dsn)
    store = PostgresStore(postgres_dsn)
    store.write(Batch(readings=[reading("EV-1", second) for second in range(50)]))
    first = take_snapshot(postgres_dsn, tmp_path, EVERYTHING)
    content = {path.name: path.read_bytes() for path in first.iterdir()}
    assert take_snapshot(postgres_dsn, tmp_path, EVERYTHING) == first
    store.write(Batch(readings=[reading("EV-1", -5.0)]))
    store.close()
    second = take_snapshot(postgres_dsn, tmp_path, EVERYTHING)
    assert second != first
    assert {path.name: path.read_bytes() for path in first.iterdir()} == content, "an existing snapshot is not changed"
    assert take_snapshot(postgres_dsn, tmp_path, EVERYTHING, until=NOW) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([first.name, second.name]), "no temporary files"
    assert not [name for name, data in content.items() if b"postgres" in data], "no address and no password"


def test_days_count_from_the_newest_reading_of_each_battery_and_all_cycles_are_copied(dsn: str, tmp_path: Path) -> None:
    telemetry = read_snapshot(dsn, tmp_path, SnapshotParams(days=600 / 86_400, every_s=0.0))
    assert telemetry.readings["battery_id"].value_counts().to_dict() == {"EV-1": 200, "EV-2": 30}
    assert len(telemetry.cycles) == len(SESSIONS)
    assert "days of each battery" in telemetry.notes[0]


def test_thinning_keeps_every_alarm_change(dsn: str, tmp_path: Path) -> None:
    readings = read_snapshot(dsn, tmp_path, SnapshotParams(days=1000.0, every_s=30.0)).readings
    active = readings[readings["battery_id"] == "EV-1"]
    assert len(active) == pytest.approx(100, abs=4)
    assert active["warning_level"].max() == 3.0
    intervals = active["time"].astype("int64") // 30_000_000
    with_alarm = set(intervals[active["warning_level"] == 3.0])
    assert set(intervals.value_counts()[lambda count: count > 1].index) == with_alarm


def test_readings_are_of_a_stable_sample_and_cycles_of_all_batteries(dsn: str, tmp_path: Path) -> None:
    one = SnapshotParams(days=1000.0, every_s=0.0, batteries=1)
    telemetry = read_snapshot(dsn, tmp_path, one)
    (first,) = sorted(["EV-1", "EV-2"], key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:1]
    assert set(telemetry.readings["battery_id"]) == {first}
    assert len(telemetry.cycles) == len(SESSIONS)
    assert len(telemetry.batteries) == 3, "a battery without readings is not part of the sample"
    assert set(read_snapshot(dsn, tmp_path).readings["battery_id"]) == {"EV-1", "EV-2"}


@pytest.mark.parametrize("stopping_call", [1, 3, 6])
def test_stopped_copy_leaves_no_files(stopping_call: int, dsn: str, tmp_path: Path) -> None:
    calls = iter(range(1, 100))

    def check() -> None:
        if next(calls) == stopping_call:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        take_snapshot(dsn, tmp_path, EVERYTHING, check=check)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", ["days", "every_s", "batteries"])
def test_invalid_snapshot_parameters_are_refused(field: str) -> None:
    with pytest.raises(TwinError, match=rf"snapshot\.{field}"):
        SnapshotParams.of({"snapshot": {field: -1}})


def test_modified_snapshot_is_refused(dsn: str, tmp_path: Path) -> None:
    folder = take_snapshot(dsn, tmp_path, EVERYTHING)
    file = folder / snapshot.CYCLES
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(TwinError, match=r"cycles\.parquet has changed"):
        read_source("timescale", folder)


def test_snapshot_errors_do_not_contain_the_password(postgres_dsn: str, tmp_path: Path) -> None:
    with pytest.raises(TwinError, match=r"telemetry\.stores\.migrate"):
        take_snapshot(postgres_dsn, tmp_path, EVERYTHING)
    migrate(postgres_dsn)
    with pytest.raises(TwinError, match="nothing to copy yet"):
        take_snapshot(postgres_dsn, tmp_path, EVERYTHING)
    with pytest.raises(TwinError) as caught:
        take_snapshot("postgresql://me:hunter2@127.0.0.1:1/none", tmp_path, EVERYTHING)
    assert "hunter2" not in caught.value.sentence
    assert not list(tmp_path.iterdir())


def site_map(**where: str) -> FieldMap:
    columns = {
        "at %": {"to": "time", "zone": "+02:00"},
        "volt": "voltage",
        "milliamp": {"to": "current", "unit": "mA", "sign": -1},
        "degf": {"to": "temperature", "unit": "degF"},
        "id": {"to": "battery_id", "values": {7: "EV-7"}},
    }
    return parse_field_map({"columns": columns, **where}, "site.yaml")


@pytest.mark.parametrize(
    "where",
    [
        {"relation": "plant.pack log"},
        {"query": "SELECT * FROM plant.\"pack log\" WHERE note LIKE '%100%' OR note IS NULL -- %s; all of it\n;"},
    ],
    ids=["relation", "query"],
)
def test_external_table_is_copied_and_converted(
    where: dict[str, str], dsn: str, tmp_path: Path, monkeypatch: Any
) -> None:
    field_map = site_map(**where)
    folder = take_snapshot(dsn, tmp_path, EVERYTHING, field_map=field_map)
    monkeypatch.setattr("telemetry.sources.load_field_map", lambda _: field_map)
    telemetry = read_source("timescale", folder, field_map="site.yaml")
    assert telemetry.rows_read == 100 + len(SESSIONS)
    readings = telemetry.readings
    assert len(readings) == 100
    assert readings["voltage"].isna().sum() == 1, "validation quarantines it"
    assert readings["time"].iloc[0] == pd.Timestamp("2026-01-05T08:00:00Z")
    assert readings["current"].tolist()[:2] == [0.0, 1.0]
    assert readings["temperature"].iloc[0] == pytest.approx(25.0)
    assert set(readings["battery_id"]) == {"EV-7"}
    assert "EV-7" in telemetry.batteries["battery_id"].tolist()


def test_snapshot_is_read_with_a_field_map_only_if_taken_with_one(dsn: str, tmp_path: Path) -> None:
    with pytest.raises(TwinError, match="without a field map"):
        read_source("timescale", take_snapshot(dsn, tmp_path, EVERYTHING), field_map="eviot")
    external = take_snapshot(dsn, tmp_path, EVERYTHING, field_map=site_map(relation="plant.pack log"))
    with pytest.raises(TwinError, match=r"set source\.field_map"):
        read_source("timescale", external)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({}, "add `relation:`"),
        ({"relation": "plant.nothing"}, "does not exist"),
        ({"relation": "batteries"}, "column at % does not exist"),
        ({"query": "SELECT 1 FROM"}, "syntax error"),
        ({"query": "WITH gone AS (DELETE FROM batteries RETURNING *) SELECT * FROM gone"}, "cannot be read"),
    ],
)
def test_unreadable_external_table_is_an_error_in_one_sentence(
    where: dict[str, str], message: str, dsn: str, tmp_path: Path
) -> None:
    with pytest.raises(TwinError, match=message) as caught:
        take_snapshot(dsn, tmp_path, EVERYTHING, field_map=site_map(**where))
    assert "\n" not in caught.value.sentence
    assert query(dsn, "SELECT count(*) FROM batteries") == [(3,)]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"relation": "a", "query": "SELECT 1"}, "exclude each other"),
        ({"query": "DELETE FROM batteries"}, "must be a SELECT"),
        ({"relation": 3}, "it should be a valid string"),
    ],
)
def test_invalid_relation_or_query_is_refused(where: Any, message: str) -> None:
    with pytest.raises(TwinError, match=message):
        site_map(**where)


def query(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
        cursor.execute(statement)
        rows = cursor.fetchall()
    connection.close()
    return rows


def test_manifest_describes_the_snapshot(dsn: str, tmp_path: Path) -> None:
    manifest = json.loads((take_snapshot(dsn, tmp_path, EVERYTHING) / snapshot.MANIFEST).read_text())
    assert manifest["readings"]["rows"] == 1030
    assert manifest["readings"]["until"] == "2026-01-10T00:00:00+00:00"
    assert manifest["cycles"] == {
        "rows": 6,
        "from": SESSIONS[0]["end_time"].isoformat(),
        "until": SESSIONS[-1]["end_time"].isoformat(),
    }
    assert set(manifest["sha256"]) == {snapshot.READINGS, snapshot.CYCLES, snapshot.BATTERIES, snapshot.EVENTS}
