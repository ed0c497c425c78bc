"""The database predictor stores the offline predictions once for each reading, also if processes are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import psycopg2
import pytest
from psycopg2.extras import execute_values

from deploy.servers.process import unused_port
from features import state as s
from features import state_update
from features.labels import LabelParams
from features.table import build
from serving.database import state_tables
from serving.database.batch import BatchLimits, BatchWorker
from serving.database.batch_loop import run_worker
from serving.database.late_rows import LateRowDetector
from serving.database.predictor_metrics import DatabaseMetrics
from serving.database.row_source import RowSource, SiteRowSource, StoreRowSource
from serving.feature_snapshots import update_each
from serving.predictor import Predictor
from serving.scorer import Scorer
from serving.state_restore import StateRestorer
from telemetry.batch import Batch, Row, rows_of
from telemetry.contract import CYCLE_FIELDS
from telemetry.errors import TwinError
from telemetry.field_map import FieldMap, parse_field_map
from telemetry.settings import Settings
from telemetry.stores.connection import StoreConnection
from telemetry.stores.migrate import MIGRATIONS, migrate
from telemetry.stores.postgres import PostgresStore
from tests.features.conftest_features import drive, empty_frame

ROOT = Path(__file__).resolve().parents[2]
#: Two drives with a charge each, and a gap in between that closes a session.
TIMES_S = np.concatenate([np.arange(0, 9_000, 30.0), np.arange(90_000, 97_000, 30.0)])
PACK: dict[str, Any] = {"nominal_capacity_ah": 100.0, "cells_in_series": 96.0, "chemistry": "NMC"}
SEEDS = (0, 1, 2)


def history(seed: int) -> pd.DataFrame:
    """Readings of one battery with some missing values."""
    readings = drive(TIMES_S, seed)
    holes = np.random.default_rng(seed).random(len(readings))
    readings.loc[holes < 0.1, ["soc", "ambient_temperature"]] = np.nan
    return readings.assign(soh=97.0 - seed - readings.index / 1e4)


def all_readings() -> pd.DataFrame:
    return pd.concat([history(seed) for seed in SEEDS], ignore_index=True).sort_values("time", kind="stable")


def packs() -> list[Row]:
    return [{"battery_id": f"EV-{seed}", **PACK} for seed in SEEDS]


@dataclass
class Site:
    """A migrated store with battery descriptions, and queries of its contents."""

    dsn: str

    def __post_init__(self) -> None:
        self.store = PostgresStore(self.dsn)
        self.metrics = DatabaseMetrics()

    def worker(self, row_source: RowSource | None = None, **options: Any) -> BatchWorker:
        store = PostgresStore(self.dsn)
        options = {"limits": BatchLimits(rows=400, batteries=2, discover_s=0.0), "predict_past": True} | options
        return BatchWorker(
            store,
            StateRestorer(StoreConnection(self.dsn, "test")),
            row_source or StoreRowSource(float("inf")),
            self.metrics,
            **options,
        )

    def query(self, statement: str, values: Any = None) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self.dsn)
        with connection, connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
            cursor.execute(statement, values)
            rows = cursor.fetchall() if cursor.description else []
        connection.close()
        return rows

    def predictions(self, role: str = "champion") -> dict[tuple[str, datetime, str], tuple[Any, ...]]:
        rows = self.query(
            "SELECT battery_id, time, target, value, due, cycle_index, model_name, model_version "
            "FROM battery_predictions WHERE role = %s",
            (role,),
        )
        return {(battery, time, target): tuple(rest) for battery, time, target, *rest in rows}

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


SERVERS = ["embedded", "postgresql-15", "timescaledb"]
_FIXTURES = {"embedded": "postgres_server", "postgresql-15": "postgres15_dsn", "timescaledb": "timescaledb_dsn"}


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest, new_database: Callable[[str], str]) -> Iterator[Site]:
    """A separate store on each server."""
    dsn = new_database(request.getfixturevalue(_FIXTURES[request.param]))
    migrate(dsn)
    site = Site(dsn)
    site.store.write(Batch(batteries=packs()))
    yield site
    site.store.close()


@pytest.fixture
def embedded(postgres_dsn: str) -> Iterator[Site]:
    """A separate store on the embedded server."""
    migrate(postgres_dsn)
    site = Site(postgres_dsn)
    site.store.write(Batch(batteries=packs()))
    yield site
    site.store.close()


def drain(worker: BatchWorker, scorer: Scorer) -> None:
    """Run batches until there are no more rows."""
    while worker.run_batch(scorer):
        pass


def offline(predictor: Predictor, readings: pd.DataFrame) -> dict[tuple[str, datetime, str], tuple[Any, ...]]:
    """Predictions after each of `readings`, from an offline state update."""
    ids = sorted(set(readings["battery_id"]))
    states = s.new_states(len(ids))
    for state in states:
        s.set_battery(state, **PACK)
    ordered = readings.sort_values(["battery_id", "time"], kind="stable")
    snapshots, applied = update_each(
        states, np.searchsorted(ids, ordered["battery_id"]), state_update.readings_matrix(ordered)
    )
    assert applied.all()
    rows = Scorer(predictor).score(list(ordered["battery_id"]), snapshots, datetime.now(UTC)).rows
    keys = ("value", "due", "cycle_index", "model_name", "model_version")
    return {(row["battery_id"], row["time"], row["target"]): tuple(row.get(key) for key in keys) for row in rows}  # type: ignore[misc]


def sessions_of(readings: pd.DataFrame) -> pd.DataFrame:
    """Closed sessions of `readings`, from the offline feature pipeline."""
    rows, no_cycles = readings.assign(warning_level=np.nan), empty_frame(CYCLE_FIELDS)
    return build(rows, no_cycles, pd.DataFrame(packs()), LabelParams()).cycles.sort_values(["battery_id", "end_time"])


def test_predictions_equal_the_offline_ones_for_any_batches(site: Site, predictor: Predictor) -> None:
    readings = all_readings()
    worker, scorer = site.worker(), Scorer(predictor)
    cuts = np.sort(np.random.default_rng(0).integers(0, len(readings), 7))
    for part in np.split(np.arange(len(readings)), cuts):
        site.store.write(Batch(readings=rows_of(readings.iloc[part])))
        drain(worker, scorer)
    expected = offline(predictor, readings)
    assert site.predictions() == expected
    assert {target for _, _, target in expected} == {"soh", "temperature"}, "too few sessions for the other two"
    headline = site.query(
        "SELECT count(*) FROM ev_telemetry WHERE prediction_timestamp IS NOT NULL AND voltage IS NOT NULL"
    )
    assert headline == [(len(readings),)]
    assert site.counted("database_rows_read_total") == len(readings)
    counts = [site.counted("predictions_total", target=target, role="champion") for target in ("temperature", "soh")]
    assert sum(counts) == len(expected)
    assert site.counted("predictions_withheld_total", target="rul") == len(readings)


def test_closed_sessions_are_stored_with_their_soh(embedded: Site, predictor: Predictor) -> None:
    readings = all_readings()
    worker = embedded.worker()
    for part in np.split(np.arange(len(readings)), [100, 101, 700]):
        embedded.store.write(Batch(readings=rows_of(readings.iloc[part])))
        drain(worker, Scorer(predictor))
    expected = sessions_of(readings)
    stored = embedded.query(
        "SELECT battery_id, kind, end_time, throughput_ah, discharge_voltage_mean_v, soh FROM battery_cycles "
        "ORDER BY battery_id, end_time"
    )
    assert len(stored) == len(expected) >= 9
    for row, (_, session) in zip(stored, expected.iterrows(), strict=True):
        assert row[:2] == (session["battery_id"], session["kind"])
        assert row[2] == session["end_time"]
        assert row[3] == session["throughput_ah"]
        assert row[4] == pytest.approx(session["discharge_voltage_mean_v"], abs=0.0, nan_ok=True) or row[4] is None
        assert row[5] == pytest.approx(session["soh"], abs=1e-4)
    assert embedded.counted("database_cycles_total") == len(stored)


def test_role_twin_writer_is_sufficient(
    postgres_server: str, new_database: Callable[[str], str], predictor: Predictor
) -> None:
    owner = Site(new_database(postgres_server))
    migrate(owner.dsn)
    owner.store.write(Batch(readings=rows_of(history(0)), batteries=packs()))
    writer = Site(f"{owner.dsn}&options=-c%20role%3Dtwin_writer")
    assert migrate(writer.dsn) == []
    drain(writer.worker(), Scorer(predictor))
    assert owner.predictions() == offline(predictor, history(0))
    owner.query("UPDATE twin_states SET state = '\\x00'")
    owner.store.write(Batch(readings=rows_of(history(0).tail(1).assign(time=pd.Timestamp("2026-02-01", tz="UTC")))))
    drain(writer.worker(), Scorer(predictor))
    assert writer.counted("database_replays_total") == 1
    owner.store.close()


def test_existing_rows_are_applied_without_predictions_and_new_rows_predicted(
    embedded: Site, predictor: Predictor
) -> None:
    readings = all_readings()
    existing, new = readings.iloc[:600], readings.iloc[600:]
    embedded.store.write(Batch(readings=rows_of(existing)))
    worker = embedded.worker(predict_past=False)
    worker.run_batch(Scorer(predictor))  # the first batch does not read all existing rows
    embedded.store.write(Batch(readings=rows_of(new)))
    drain(worker, Scorer(predictor))
    expected = offline(predictor, readings)
    begin = new["time"].min()
    assert embedded.predictions() == {key: value for key, value in expected.items() if key[1] >= begin}
    assert embedded.counted("database_rows_past_total") == len(existing)
    sessions = embedded.query("SELECT count(*) FROM battery_cycles WHERE end_time < %s", (begin,))
    assert sessions[0][0] > 0, "sessions of the existing rows are stored"
    # All rows of a battery that is discovered later are predicted.
    later = history(0).assign(battery_id="EV-9").head(50)
    embedded.store.write(Batch(readings=rows_of(later), batteries=[{"battery_id": "EV-9", **PACK}]))
    drain(worker, Scorer(predictor))
    assert len({key[1] for key in embedded.predictions() if key[0] == "EV-9"}) == len(later)


def test_state_of_another_version_is_restored_from_the_store(embedded: Site, predictor: Predictor) -> None:
    readings = all_readings()
    worker, scorer = embedded.worker(), Scorer(predictor)
    embedded.store.write(Batch(readings=rows_of(readings.iloc[:500])))
    drain(worker, scorer)
    sessions = embedded.query("SELECT * FROM battery_cycles ORDER BY battery_id, end_time")
    embedded.query("UPDATE twin_states SET state = '\\x00' || substring(state FROM 2)")
    embedded.store.write(Batch(readings=rows_of(readings.iloc[500:])))
    drain(embedded.worker(), scorer)
    assert embedded.predictions() == offline(predictor, readings)
    assert embedded.counted("database_replays_total") == len(SEEDS)
    after = embedded.query("SELECT * FROM battery_cycles ORDER BY battery_id, end_time")
    assert [row for row in after if row in sessions] == sessions, "no session is stored twice"
    assert len(after) == len({(row[0], row[4]) for row in after})


def test_new_state_starts_with_the_sessions_whose_readings_were_deleted(embedded: Site, predictor: Predictor) -> None:
    readings = history(1)
    first_day = readings[readings["time"] < readings["time"].min() + pd.Timedelta(days=1)]
    second_day = readings.iloc[len(first_day) :]
    embedded.store.write(Batch(readings=rows_of(first_day)))
    drain(embedded.worker(), Scorer(predictor))
    ended = embedded.query("SELECT count(*) FROM battery_cycles")
    # Another consumer, after retention has deleted the readings of the first day.
    embedded.query("DELETE FROM ev_telemetry")
    embedded.store.write(Batch(readings=rows_of(second_day)))
    drain(embedded.worker(consumer="second"), Scorer(predictor))
    (newest,) = embedded.query("SELECT min(time) FROM battery_predictions WHERE target = 'soh'")
    assert newest[0] < second_day["time"].min()
    soh = [time for _, time, target in embedded.predictions() if target == "soh" and time >= second_day["time"].min()]
    assert len(soh) == len(second_day), "health is predicted from the first reading on"
    assert ended[0][0] >= 2


def test_battery_description_can_be_added_later(embedded: Site, predictor: Predictor) -> None:
    readings = history(0).assign(battery_id="EV-7")
    embedded.store.write(
        Batch(readings=rows_of(readings.head(20)), batteries=[{"battery_id": "EV-7", "chemistry": "odd"}])
    )
    worker = embedded.worker()
    drain(worker, Scorer(predictor))
    embedded.store.write(Batch(readings=rows_of(readings.iloc[20:40]), batteries=[{"battery_id": "EV-7", **PACK}]))
    drain(worker, Scorer(predictor))
    # The state is restored with the capacity, which so applies to the whole history, as in the stream scorer.
    expected = offline(predictor, readings.head(40))
    predicted = embedded.predictions()
    for made_at in readings["time"].iloc[20:40]:
        assert predicted["EV-7", made_at, "temperature"] == expected["EV-7", made_at, "temperature"]
    assert embedded.counted("database_replays_total") == 1


def test_two_instances_share_the_batteries_without_duplicates(embedded: Site, predictor: Predictor) -> None:
    readings = all_readings()
    workers = [embedded.worker(limits=BatchLimits(rows=60, batteries=2, discover_s=0.0)) for _ in range(2)]
    embedded.store.write(Batch(readings=rows_of(readings.iloc[:100])))
    failures: list[BaseException] = []
    more = threading.Event()

    def follow(worker: BatchWorker) -> None:
        try:
            while not more.is_set():
                drain(worker, Scorer(predictor))
            drain(worker, Scorer(predictor))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=follow, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for part in np.array_split(np.arange(100, len(readings)), 12):
        embedded.store.write(Batch(readings=rows_of(readings.iloc[part])))
    more.set()
    for thread in threads:
        thread.join(timeout=120)
    drain(workers[0], Scorer(predictor))
    assert not failures
    assert embedded.predictions() == offline(predictor, readings)
    assert embedded.counted("database_rows_read_total") == len(readings), "each row was read by one of them"


def test_battery_locked_by_another_instance_is_skipped(embedded: Site, predictor: Predictor) -> None:
    worker = embedded.worker(limits=BatchLimits(rows=100_000, batteries=100, discover_s=0.0))
    worker.run_batch(Scorer(predictor))
    embedded.store.write(Batch(readings=rows_of(all_readings())))
    other = psycopg2.connect(embedded.dsn)
    with other, other.cursor() as cursor:
        cursor.execute("SELECT FROM twin_states WHERE battery_id = 'EV-1' FOR UPDATE")
        worker.run_batch(Scorer(predictor))
        assert {battery for battery, _, _ in embedded.predictions()} == {"EV-0", "EV-2"}
    other.close()
    worker.run_batch(Scorer(predictor))
    assert {battery for battery, _, _ in embedded.predictions()} == {"EV-0", "EV-1", "EV-2"}


def test_late_rows_are_counted_once_and_never_applied(embedded: Site, predictor: Predictor) -> None:
    readings = history(0)
    late = readings.iloc[[40, 41, 55]]
    on_time = readings.drop(index=late.index)
    row_source = StoreRowSource(float("inf"))
    worker = embedded.worker(row_source, late=LateRowDetector(row_source, every_s=0.0))
    for part in np.split(np.arange(90), [30, 60]):
        embedded.store.write(Batch(readings=rows_of(on_time.iloc[part])))
        drain(worker, Scorer(predictor))
    embedded.store.write(Batch(readings=rows_of(late)))
    for _ in range(3):
        drain(worker, Scorer(predictor))
    assert embedded.counted("database_rows_late_total") == 3
    embedded.store.write(Batch(readings=rows_of(on_time.iloc[90:])))
    drain(worker, Scorer(predictor))
    assert embedded.counted("database_rows_late_total") == 3
    assert embedded.predictions() == offline(predictor, on_time)
    assert flagged(embedded) == list(late["time"])
    # A new instance does not have the keys read before its start, and counts no rows as late in time_column range.
    restarted = embedded.worker(row_source, late=LateRowDetector(row_source, every_s=0.0))
    drain(restarted, Scorer(predictor))
    assert embedded.counted("database_rows_late_total") == 3


def flagged(site: Site) -> list[datetime]:
    """Times of the readings that are flagged as late in the store."""
    return [time for (time,) in site.query("SELECT time FROM ev_telemetry WHERE late ORDER BY time")]


def test_late_rows_are_flagged_after_a_failed_transaction(
    embedded: Site, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = history(0).head(60)
    row_source = StoreRowSource(float("inf"))
    worker = embedded.worker(row_source, late=LateRowDetector(row_source, every_s=0.0))
    embedded.store.write(Batch(readings=rows_of(readings.drop(index=[40]))))
    drain(worker, Scorer(predictor))
    embedded.store.write(Batch(readings=rows_of(readings.loc[[40]])))
    with monkeypatch.context() as broken:
        broken.setattr(state_tables, "lock_states", _fail)
        with pytest.raises(psycopg2.OperationalError):
            worker.run_batch(Scorer(predictor))
    assert embedded.counted("database_rows_late_total") == len(flagged(embedded)) == 0
    drain(worker, Scorer(predictor))
    assert embedded.counted("database_rows_late_total") == len(flagged(embedded)) == 1


def _fail(*_: object) -> None:
    raise psycopg2.OperationalError("the connection is gone")


def test_invalid_rows_are_left_out_and_counted(embedded: Site, predictor: Predictor) -> None:
    readings = history(0)
    embedded.store.write(Batch(readings=rows_of(readings)))
    drop_checks(embedded)
    bad = readings.iloc[[10, 20, 30]]
    for at, change in zip(bad["time"], ("voltage = 'NaN'", "current = 1e9", "soc = 101"), strict=True):
        embedded.query(f"UPDATE ev_telemetry SET {change} WHERE time = %s", (at,))
    drain(embedded.worker(), Scorer(predictor))
    readings.loc[30, "soc"] = np.nan
    assert embedded.predictions() == offline(predictor, readings.drop(index=[10, 20]))
    fields = ("voltage", "current", "soc")
    assert [embedded.counted("database_rows_refused_total", field=field) for field in fields] == [1.0, 1.0, 0.0]
    assert embedded.counted("values_out_of_range_total", field="soc") == 1.0


def drop_checks(site: Site) -> None:
    """Drop the check constraints, as in a store that another tool has filled."""
    for table, name in site.query(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'c' AND conname LIKE '%_valid'"
    ):
        site.query(f"ALTER TABLE {table} DROP CONSTRAINT {name}")


def test_row_far_in_the_future_does_not_block_other_rows(embedded: Site, predictor: Predictor) -> None:
    now = pd.Timestamp.now("UTC").floor("s")
    readings = history(0).head(3).assign(time=[now - pd.Timedelta(minutes=1), now, now + pd.Timedelta(days=365)])
    embedded.store.write(Batch(readings=rows_of(readings)))
    worker = embedded.worker(StoreRowSource(300.0))
    drain(worker, Scorer(predictor))
    embedded.store.write(Batch(readings=rows_of(readings.head(1).assign(time=now + pd.Timedelta(seconds=1)))))
    drain(worker, Scorer(predictor))
    assert len({time for _, time, _ in embedded.predictions()}) == 3


def test_challenger_predictions_are_stored(embedded: Site, predictor: Predictor) -> None:
    embedded.store.write(Batch(readings=rows_of(history(0))))
    drain(embedded.worker(), Scorer(predictor, predictor))
    assert embedded.predictions("challenger") == embedded.predictions() != {}
    count = embedded.counted("predictions_total", target="temperature", role="challenger")
    assert count == len(history(0))


@dataclass(frozen=True)
class TimeColumn:
    """Time column of a site: its SQL type, the SQL expression of a time `t` in it, and its field map entry."""

    sql_type: str
    value: str
    entry: dict[str, str]


TIME_COLUMNS = {
    "timestamptz": TimeColumn("timestamptz", "t", {}),
    "local": TimeColumn("timestamp", "t AT TIME ZONE 'Asia/Kolkata'", {"zone": "Asia/Kolkata"}),
    "unix_ms": TimeColumn("bigint", "extract(epoch FROM t) * 1000", {"format": "unix_ms"}),
    "text": TimeColumn("text", "to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')", {"zone": "UTC"}),
}
SITE_COLUMNS: dict[str, Any] = {
    "U %": "voltage",
    "I mA": {"to": "current", "unit": "mA", "sign": -1},
    "T": "temperature",
    "SoC": {"to": "soc", "unit": "fraction", "optional": True},
    "nowhere": {"to": "speed_kmh", "optional": True},
}


def write_site_table(site: Site, time_column: TimeColumn, readings: pd.DataFrame) -> None:
    """Insert `readings` into a table of the site, in its units and signs."""
    site.query(
        f'CREATE TABLE IF NOT EXISTS pack_log (pack int, "when" {time_column.sql_type}, "U %" float8, "I mA" float8, '
        '"T" float8, "SoC" float8, note text); CREATE INDEX IF NOT EXISTS pack_log_key ON pack_log (pack, "when")'
    )
    connection = psycopg2.connect(site.dsn)
    with connection, connection.cursor() as cursor:
        execute_values(
            cursor,
            f"INSERT INTO pack_log SELECT pack, {time_column.value}, u, i, temperature, soc, 'a note' FROM (VALUES %s) "
            "AS v(pack, t, u, i, temperature, soc)",
            [
                (int(row["battery_id"][3:]), row["time"], row["voltage"], row["current"] * -1000.0, row["temperature"],
                 None if row["soc"] != row["soc"] else row["soc"] / 100.0)
                for row in rows_of(readings)
            ],
            template="(%s, %s::timestamptz, %s::float8, %s::float8, %s::float8, %s::float8)",
        )  # fmt: skip
    connection.close()


def site_map(time_column: TimeColumn, **more: Any) -> FieldMap:
    columns = {
        "when": {"to": "time", **time_column.entry},
        "pack": {"to": "battery_id", "values": {seed: f"EV-{seed}" for seed in SEEDS}},
        **SITE_COLUMNS,
    }
    return parse_field_map({"columns": columns, "relation": "pack_log", **more}, "site.yaml")


def after_conversion(readings: pd.DataFrame) -> pd.DataFrame:
    """`readings` after conversion to the site's units and back."""
    return readings.assign(
        current=readings["current"] * -1000.0 * -1e-3,
        soc=readings["soc"] / 100.0 * 100.0,
        ambient_temperature=np.nan,
        cell_voltage_min=np.nan,
        cell_voltage_max=np.nan,
        soh=np.nan,
    )


@pytest.mark.parametrize("kind", list(TIME_COLUMNS))
def test_table_of_the_site(kind: str, embedded: Site, predictor: Predictor) -> None:
    time_column, readings = TIME_COLUMNS[kind], all_readings()
    row_source = SiteRowSource(embedded.dsn, site_map(time_column), float("inf"))
    write_site_table(embedded, time_column, readings.iloc[:0])
    worker = embedded.worker(row_source)
    for part in np.array_split(np.arange(len(readings)), 4):
        write_site_table(embedded, time_column, readings.iloc[part])
        drain(worker, Scorer(predictor))
    assert embedded.predictions() == offline(predictor, after_conversion(readings))
    stored = embedded.query("SELECT battery_id, time, voltage FROM ev_telemetry WHERE voltage IS NOT NULL")
    assert sorted(stored) == sorted((row["battery_id"], row["time"], row["voltage"]) for row in rows_of(readings)), (
        "readings of the site are stored"
    )
    assert embedded.query("SELECT count(*) FROM battery_cycles")[0][0] >= 9
    row_source.close()


@pytest.mark.parametrize("relation", ["pack_log", "pack_view"])
def test_local_times_in_the_hour_that_the_clock_repeats(
    relation: str, embedded: Site, predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a table the order of insertion shows the pass; of a view the rows are left out, and the others predicted."""
    night = pd.Timestamp("2025-10-25T23:30Z") - pd.Timestamp("2026-01-01T00:00Z")
    readings = all_readings().assign(time=lambda frame: frame["time"] + night)
    time_column = TimeColumn("timestamp", "t AT TIME ZONE 'Europe/Berlin'", {"zone": "Europe/Berlin"})
    write_site_table(embedded, time_column, readings)
    embedded.query("CREATE VIEW pack_view AS SELECT * FROM pack_log")
    row_source = SiteRowSource(embedded.dsn, site_map(time_column, relation=relation), 300.0)
    drain(embedded.worker(row_source), Scorer(predictor))
    row_source.close()
    is_repeated = (readings["time"] >= "2025-10-26T00:00Z") & (readings["time"] < "2025-10-26T02:00Z")
    refused = embedded.counted("database_rows_refused_total", field="time")
    assert is_repeated.sum() == 3 * 240
    if relation == "pack_log":
        assert refused == 0
        assert embedded.predictions() == offline(predictor, after_conversion(readings))
    else:
        assert refused == 3 * 240
        (logged,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
        assert "the order of the rows does not show which" in logged
        assert embedded.predictions() == offline(predictor, after_conversion(readings[~is_repeated]))


def test_query_of_the_site_with_unreadable_rows(embedded: Site, predictor: Predictor) -> None:
    time_column, readings = TIME_COLUMNS["timestamptz"], all_readings()
    write_site_table(embedded, time_column, readings)
    embedded.query('UPDATE pack_log SET "T" = \'NaN\' WHERE pack = 0 AND "U %" > (SELECT avg("U %") FROM pack_log)')
    embedded.query("INSERT INTO pack_log SELECT 99, now(), 1, 1, 1")
    embedded.query("INSERT INTO pack_log SELECT 1, now() + interval '1 year', 360, 1, 20")
    broken = embedded.query("SELECT count(*) FROM pack_log WHERE \"T\" = 'NaN'")[0][0]
    query = "SELECT *, 0 AS nothing FROM pack_log WHERE note LIKE 'a%' OR pack <> 5;"
    row_source = SiteRowSource(embedded.dsn, site_map(time_column, relation=None, query=query), 300.0)
    drain(embedded.worker(row_source), Scorer(predictor))
    valid = after_conversion(readings)
    valid = valid[(valid["battery_id"] != "EV-0") | (valid["voltage"] <= readings["voltage"].mean())]
    assert embedded.predictions() == offline(predictor, valid)
    assert embedded.counted("database_rows_refused_total", field="temperature") == broken > 0
    assert embedded.counted("database_rows_read_total") == len(readings)
    row_source.close()


def test_late_and_existing_rows_of_the_site(embedded: Site, predictor: Predictor) -> None:
    time_column, readings = TIME_COLUMNS["local"], history(1)
    late = readings.iloc[[60, 61]]
    on_time = readings.drop(index=late.index)
    write_site_table(embedded, time_column, on_time.iloc[:50])
    row_source = SiteRowSource(embedded.dsn, site_map(time_column), float("inf"))
    worker = embedded.worker(row_source, late=LateRowDetector(row_source, every_s=0.0), predict_past=False)
    drain(worker, Scorer(predictor))
    assert embedded.predictions() == {}
    write_site_table(embedded, time_column, on_time.iloc[50:70])
    drain(worker, Scorer(predictor))
    write_site_table(embedded, time_column, pd.concat([late, on_time.iloc[70:80]]))
    for _ in range(3):
        drain(worker, Scorer(predictor))
    assert embedded.counted("database_rows_late_total") == 2
    assert flagged(embedded) == list(after_conversion(late)["time"])
    assert embedded.query("SELECT count(voltage) FROM ev_telemetry") == [(82,)], "late readings are stored, too"
    expected = offline(predictor, after_conversion(on_time.iloc[:80]))
    begin = on_time["time"].iloc[50]
    assert embedded.predictions() == {key: value for key, value in expected.items() if key[1] >= begin}
    row_source.close()


def test_site_with_one_battery_and_no_id_column(embedded: Site, predictor: Predictor) -> None:
    time_column, readings = TIME_COLUMNS["timestamptz"], history(2)
    write_site_table(embedded, time_column, readings)
    columns = {"when": {"to": "time"}, **SITE_COLUMNS}
    named = parse_field_map(
        {"columns": columns, "relation": "pack_log", "constants": {"battery_id": "EV-2"}}, "one.yaml"
    )
    row_source = SiteRowSource(embedded.dsn, named, float("inf"))
    drain(embedded.worker(row_source), Scorer(predictor))
    assert embedded.predictions() == offline(predictor, after_conversion(readings))
    row_source.close()
    without_id = parse_field_map({"columns": columns, "relation": "pack_log"}, "none.yaml")
    with pytest.raises(TwinError, match="battery_id is missing"):
        SiteRowSource(embedded.dsn, without_id, 0.0)


@pytest.mark.parametrize(
    ("relation", "message"),
    [({"relation": "nothing"}, "does not exist"), ({"relation": "batteries"}, "column when does not exist")],
)
def test_missing_table_or_column_is_reported_at_the_start(
    relation: dict[str, str], message: str, embedded: Site
) -> None:
    with pytest.raises(TwinError, match=message):
        SiteRowSource(embedded.dsn, site_map(TIME_COLUMNS["timestamptz"], **relation), 0.0).check()


@dataclass
class FixedScorer:
    """A scorer source whose scorer is set by the test."""

    scorer: Scorer | None = None
    problem: str = "no champion yet"


def test_waits_for_a_release_and_recovers_from_a_store_outage(embedded: Site, predictor: Predictor) -> None:
    readings = all_readings()
    embedded.store.write(Batch(readings=rows_of(readings.iloc[:500])))
    scorer_source, stop = FixedScorer(), threading.Event()
    worker = embedded.worker(limits=BatchLimits(rows=50, batteries=3, discover_s=0.0))
    thread = threading.Thread(target=run_worker, args=(worker, scorer_source, embedded.metrics, 0.01, stop))
    thread.start()
    try:
        time.sleep(0.3)
        assert embedded.query("SELECT count(*) FROM twin_states") == [(0,)], "no rows are read without a release"
        scorer_source.scorer = Scorer(predictor)
        eventually(lambda: len(embedded.predictions()) > 100)
        assert (
            embedded.query(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'battery-twin' "
                "AND datname = current_database() AND pid <> pg_backend_pid()"
            )[0][0]
            >= 1
        )
        embedded.store.close()
        embedded.store.write(Batch(readings=rows_of(readings.iloc[500:])))
        expected = offline(predictor, readings)
        eventually(lambda: embedded.predictions() == expected)
    finally:
        stop.set()
        thread.join(timeout=60)
    assert embedded.counted("database_failures_total", what="unavailable") >= 1
    assert not thread.is_alive()


def eventually(holds: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def fork_server(dsn: str, var: Path) -> Iterator[Callable[[], int]]:
    """Yields a function that starts a database predictor and returns its process id; all are killed at the end."""
    command = [sys.executable, "-m", "tests.serving.database_fork_server", dsn, str(var)]
    children: list[int] = []
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        requests, replies = process.stdin, process.stdout

        def start() -> int:
            requests.write("fork\n")
            requests.flush()
            children.append(int(replies.readline()))
            return children[-1]

        try:
            assert replies.readline() == "ready\n"
            yield start
        finally:
            process.kill()
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)


def test_killed_processes_lose_and_duplicate_no_predictions(
    embedded: Site, predictor: Predictor, registry: Settings
) -> None:
    readings = all_readings()
    expected = offline(predictor, readings)
    random = np.random.default_rng(1)
    count = "SELECT count(*) FROM battery_predictions"
    unfinished = 0
    with fork_server(embedded.dsn, registry.var) as start:
        for part in np.array_split(np.arange(len(readings)), 16):
            embedded.store.write(Batch(readings=rows_of(readings.iloc[part])))
            victim = start()
            time.sleep(float(random.uniform(0.0, 0.15)))
            os.kill(victim, signal.SIGKILL)
            newest = readings["time"].iloc[part[-1]]
            unfinished += embedded.query(count)[0][0] < sum(time <= newest for _, time, _ in expected)
        survivors = [start(), start()]
        eventually(lambda: embedded.query(count) == [(len(expected),)])
        time.sleep(0.1)
        for survivor in survivors:
            os.kill(survivor, signal.SIGKILL)
    assert unfinished > 3, "some were killed in the middle of time_column work"
    assert embedded.predictions() == expected
    ended = len(sessions_of(readings))
    assert embedded.query("SELECT count(*), count(DISTINCT (battery_id, end_time)) FROM battery_cycles") == [
        (ended, ended)
    ]


def test_command_predicts_with_the_champion_until_it_is_stopped(
    postgres_server: str, new_database: Callable[[str], str], registry: Settings, predictor: Predictor, tmp_path: Path
) -> None:
    dsn = new_database(postgres_server)
    port = unused_port()
    environment = os.environ | {
        "TWIN_VAR": str(registry.var),
        "TWIN_TELEMETRY_DSN": dsn,
        "TWIN_DATABASE_PREDICTOR_METRICS_PORT": str(port),
        "TWIN_DATABASE_PREDICTOR_POLL_S": "0.05",
        "TWIN_MAX_FUTURE_S": "inf",
    }
    log = tmp_path / "log"
    command = [sys.executable, "-m", "serving.database", "--predict-past"]
    with log.open("w") as output, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=output) as process:
        try:
            # The command migrates the store.
            eventually(lambda: process.poll() is not None or _is_migrated(dsn))
            site = Site(dsn)
            site.store.write(Batch(readings=rows_of(all_readings()), batteries=packs()))
            expected = offline(predictor, all_readings())
            eventually(lambda: process.poll() is not None or site.predictions() == expected)
            assert process.poll() is None, log.read_text()
            scraped = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            assert f"database_rows_read_total {float(len(all_readings()))}" in scraped
            assert 'release_version{name="battery-twin"} 1.0' in scraped
            site.store.close()
        finally:
            process.terminate()
            assert process.wait(timeout=30) == 0, log.read_text()


def _is_migrated(dsn: str) -> bool:
    site = Site(dsn)
    if site.query("SELECT to_regclass('schema_migrations') IS NULL") == [(True,)]:
        return False
    newest = max(file.name for file in MIGRATIONS.glob("[0-9]*.sql"))
    return site.query("SELECT max(name) FROM schema_migrations") == [(newest,)]


def test_command_without_field_map_exits_with_an_error_message(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving.database", "--field-map", str(tmp_path / "none.yaml")]
    environment = os.environ | {"TWIN_TELEMETRY_DSN": "postgresql://127.0.0.1:1/none"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("there is no field map")
    assert "Traceback" not in done.stderr
