"""The database predictor: what an offline fold predicts, each reading once, whoever is killed and however it is cut."""

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
from functools import partial
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
from features.table import LabelParams, build
from serving.database import state_tables
from serving.database.batch import Limits, Worker
from serving.database.batch_loop import run
from serving.database.late_rows import LateRows
from serving.database.predictor_metrics import DatabaseMetrics
from serving.database.row_source import Feed, SiteFeed, StoreFeed
from serving.feature_snapshots import update_each
from serving.prediction_rows import prediction_rows
from serving.predictor import Predictor
from serving.scorer import Scorer
from telemetry.batch import Batch, Row, rows_of
from telemetry.contract import CYCLE_FIELDS
from telemetry.errors import TwinError
from telemetry.field_map import FieldMap, parse_field_map
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.features.conftest_features import drive, empty_frame

ROOT = Path(__file__).resolve().parents[2]
#: Two drives with a charge each, and a gap between, for the second of which a session is closed by the gap.
TIMES_S = np.concatenate([np.arange(0, 9_000, 30.0), np.arange(90_000, 97_000, 30.0)])
PACK: dict[str, Any] = {"nominal_capacity_ah": 100.0, "cells_in_series": 96.0, "chemistry": "NMC"}
SEEDS = (0, 1, 2)


def history(seed: int) -> pd.DataFrame:
    """What one battery has lived; values missing here and there."""
    readings = drive(TIMES_S, seed)
    holes = np.random.default_rng(seed).random(len(readings))
    readings.loc[holes < 0.1, ["soc", "ambient_temperature"]] = np.nan
    return readings.assign(soh=97.0 - seed - readings.index / 1e4)


def everything() -> pd.DataFrame:
    return pd.concat([history(seed) for seed in SEEDS], ignore_index=True).sort_values("time", kind="stable")


def packs() -> list[Row]:
    return [{"battery_id": f"EV-{seed}", **PACK} for seed in SEEDS]


@dataclass
class Site:
    """A migrated store with what its batteries are made of, and what somebody asks it."""

    dsn: str

    def __post_init__(self) -> None:
        self.store = PostgresStore(self.dsn)
        self.metrics = DatabaseMetrics()

    def worker(self, feed: Feed | None = None, **options: Any) -> Worker:
        store = PostgresStore(self.dsn)
        options = {"limits": Limits(rows=400, batteries=2, discover_s=0.0), "predict_past": True} | options
        return Worker(
            store, partial(psycopg2.connect, self.dsn), feed or StoreFeed(float("inf")), self.metrics, **options
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
    """A store of its own on each server."""
    dsn = new_database(request.getfixturevalue(_FIXTURES[request.param]))
    migrate(dsn)
    site = Site(dsn)
    site.store.write(Batch(batteries=packs()))
    yield site
    site.store.close()


@pytest.fixture
def embedded(postgres_dsn: str) -> Iterator[Site]:
    """A store of its own on the embedded server."""
    migrate(postgres_dsn)
    site = Site(postgres_dsn)
    site.store.write(Batch(batteries=packs()))
    yield site
    site.store.close()


def drain(worker: Worker, scorer: Scorer) -> None:
    """Work until there is nothing more."""
    while worker.work(scorer):
        pass


def offline(predictor: Predictor, readings: pd.DataFrame) -> dict[tuple[str, datetime, str], tuple[Any, ...]]:
    """What an offline fold of `readings` predicts after each."""
    ids = sorted(set(readings["battery_id"]))
    states = s.new_states(len(ids))
    for state in states:
        s.set_battery(state, **PACK)
    ordered = readings.sort_values(["battery_id", "time"], kind="stable")
    moments, folded = update_each(
        states, np.searchsorted(ids, ordered["battery_id"]), state_update.readings_matrix(ordered)
    )
    assert folded.all()
    rows = prediction_rows(
        list(ordered["battery_id"]),
        moments,
        predictor.predict_snapshots(moments),
        predictor.horizons,
        role="champion",
        predicted_at=datetime.now(UTC),
    )
    keys = ("value", "due", "cycle_index", "model_name", "model_version")
    return {(row["battery_id"], row["time"], row["target"]): tuple(row.get(key) for key in keys) for row in rows}  # type: ignore[misc]


def sessions_of(readings: pd.DataFrame) -> pd.DataFrame:
    """The sessions that an offline fold of `readings` closes."""
    rows, no_cycles = readings.assign(warning_level=np.nan), empty_frame(CYCLE_FIELDS)
    return build(rows, no_cycles, pd.DataFrame(packs()), LabelParams()).cycles.sort_values(["battery_id", "end_time"])


def test_predicts_what_an_offline_fold_does_however_the_rows_arrive(site: Site, predictor: Predictor) -> None:
    readings = everything()
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
    given = [site.counted("predictions_total", target=target, role="champion") for target in ("temperature", "soh")]
    assert sum(given) == len(expected)
    assert site.counted("predictions_withheld_total", target="rul") == len(readings)


def test_sessions_that_ended_are_stored_with_their_health(embedded: Site, predictor: Predictor) -> None:
    readings = everything()
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


def test_a_login_needs_no_more_than_the_group_of_writers(
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


def test_a_past_is_folded_and_not_predicted_and_what_follows_is(embedded: Site, predictor: Predictor) -> None:
    readings = everything()
    past, live = readings.iloc[:600], readings.iloc[600:]
    embedded.store.write(Batch(readings=rows_of(past)))
    worker = embedded.worker(predict_past=False)
    worker.work(Scorer(predictor))  # the first start is in the middle of its past
    embedded.store.write(Batch(readings=rows_of(live)))
    drain(worker, Scorer(predictor))
    expected = offline(predictor, readings)
    begin = live["time"].min()
    assert embedded.predictions() == {key: value for key, value in expected.items() if key[1] >= begin}
    assert embedded.counted("database_rows_past_total") == len(past)
    sessions = embedded.query("SELECT count(*) FROM battery_cycles WHERE end_time < %s", (begin,))
    assert sessions[0][0] > 0, "the past's sessions are learned from"
    # A battery that comes later has no past.
    newcomer = history(0).assign(battery_id="EV-9").head(50)
    embedded.store.write(Batch(readings=rows_of(newcomer), batteries=[{"battery_id": "EV-9", **PACK}]))
    drain(worker, Scorer(predictor))
    assert len({key[1] for key in embedded.predictions() if key[0] == "EV-9"}) == len(newcomer)


def test_a_state_of_another_fold_is_rebuilt_from_the_store(embedded: Site, predictor: Predictor) -> None:
    readings = everything()
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
    assert [row for row in after if row in sessions] == sessions, "no session is told twice"
    assert len(after) == len({(row[0], row[4]) for row in after})


def test_a_battery_begins_with_the_sessions_that_outlived_their_readings(embedded: Site, predictor: Predictor) -> None:
    readings = history(1)
    first_day = readings[readings["time"] < readings["time"].min() + pd.Timedelta(days=1)]
    second_day = readings.iloc[len(first_day) :]
    embedded.store.write(Batch(readings=rows_of(first_day)))
    drain(embedded.worker(), Scorer(predictor))
    ended = embedded.query("SELECT count(*) FROM battery_cycles")
    # Another consumer, after the readings of the first day are retired.
    embedded.query("DELETE FROM ev_telemetry")
    embedded.store.write(Batch(readings=rows_of(second_day)))
    drain(embedded.worker(consumer="second"), Scorer(predictor))
    (newest,) = embedded.query("SELECT min(time) FROM battery_predictions WHERE target = 'soh'")
    assert newest[0] < second_day["time"].min()
    soh = [time for _, time, target in embedded.predictions() if target == "soh" and time >= second_day["time"].min()]
    assert len(soh) == len(second_day), "health is predicted from the first reading on"
    assert ended[0][0] >= 2


def test_what_a_battery_is_made_of_may_become_known_later(embedded: Site, predictor: Predictor) -> None:
    readings = history(0).assign(battery_id="EV-7")
    embedded.store.write(
        Batch(readings=rows_of(readings.head(20)), batteries=[{"battery_id": "EV-7", "chemistry": "odd"}])
    )
    worker = embedded.worker()
    drain(worker, Scorer(predictor))
    embedded.store.write(Batch(readings=rows_of(readings.iloc[20:40]), batteries=[{"battery_id": "EV-7", **PACK}]))
    drain(worker, Scorer(predictor))
    states = s.new_states(1)
    update_each(states, np.zeros(20, dtype=np.int64), state_update.readings_matrix(readings.head(20)))
    s.set_battery(states[0], **PACK)
    rest = state_update.readings_matrix(readings.iloc[20:40])
    expected = predictor.predict_snapshots(update_each(states, np.zeros(20, dtype=np.int64), rest)[0])[
        "temperature"
    ].values
    got = embedded.query("SELECT value FROM battery_predictions WHERE target = 'temperature' ORDER BY time OFFSET 20")
    assert [value for (value,) in got] == expected.tolist()


def test_two_instances_share_the_batteries_and_double_nothing(embedded: Site, predictor: Predictor) -> None:
    readings = everything()
    workers = [embedded.worker(limits=Limits(rows=60, batteries=2, discover_s=0.0)) for _ in range(2)]
    embedded.store.write(Batch(readings=rows_of(readings.iloc[:100])))
    failures: list[BaseException] = []
    more = threading.Event()

    def follow(worker: Worker) -> None:
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


def test_a_battery_that_another_instance_works_on_is_left_to_it(embedded: Site, predictor: Predictor) -> None:
    worker = embedded.worker(limits=Limits(rows=100_000, batteries=100, discover_s=0.0))
    worker.work(Scorer(predictor))
    embedded.store.write(Batch(readings=rows_of(everything())))
    other = psycopg2.connect(embedded.dsn)
    with other, other.cursor() as cursor:
        cursor.execute("SELECT FROM twin_states WHERE battery_id = 'EV-1' FOR UPDATE")
        worker.work(Scorer(predictor))
        assert {battery for battery, _, _ in embedded.predictions()} == {"EV-0", "EV-2"}
    other.close()
    worker.work(Scorer(predictor))
    assert {battery for battery, _, _ in embedded.predictions()} == {"EV-0", "EV-1", "EV-2"}


def test_late_rows_are_counted_once_and_never_folded(embedded: Site, predictor: Predictor) -> None:
    readings = history(0)
    late = readings.iloc[[40, 41, 55]]
    on_time = readings.drop(index=late.index)
    feed = StoreFeed(float("inf"))
    worker = embedded.worker(feed, late=LateRows(feed, every_s=0.0))
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
    # One that begins anew does not know what was read before it, and counts nothing that it cannot be sure of.
    anew = embedded.worker(feed, late=LateRows(feed, every_s=0.0))
    drain(anew, Scorer(predictor))
    assert embedded.counted("database_rows_late_total") == 3


def flagged(site: Site) -> list[datetime]:
    """Times of the readings that the store has as late."""
    return [time for (time,) in site.query("SELECT time FROM ev_telemetry WHERE late ORDER BY time")]


def test_late_rows_are_flagged_after_a_transaction_that_failed(
    embedded: Site, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = history(0).head(60)
    feed = StoreFeed(float("inf"))
    worker = embedded.worker(feed, late=LateRows(feed, every_s=0.0))
    embedded.store.write(Batch(readings=rows_of(readings.drop(index=[40]))))
    drain(worker, Scorer(predictor))
    embedded.store.write(Batch(readings=rows_of(readings.loc[[40]])))
    with monkeypatch.context() as broken:
        broken.setattr(state_tables, "claim", _gone)
        with pytest.raises(psycopg2.OperationalError):
            worker.work(Scorer(predictor))
    assert embedded.counted("database_rows_late_total") == len(flagged(embedded)) == 0
    drain(worker, Scorer(predictor))
    assert embedded.counted("database_rows_late_total") == len(flagged(embedded)) == 1


def _gone(*_: object) -> None:
    raise psycopg2.OperationalError("the connection is gone")


def test_rows_against_the_contract_are_left_out_and_counted(embedded: Site, predictor: Predictor) -> None:
    readings = history(0)
    embedded.store.write(Batch(readings=rows_of(readings)))
    bad = readings.iloc[[10, 20, 30]]
    for at, change in zip(bad["time"], ("voltage = 'NaN'", "current = 1e9", "soc = 101"), strict=True):
        embedded.query(f"UPDATE ev_telemetry SET {change} WHERE time = %s", (at,))
    drain(embedded.worker(), Scorer(predictor))
    assert embedded.predictions() == offline(predictor, readings.drop(index=bad.index))
    fields = ("voltage", "current", "soc")
    assert [embedded.counted("database_rows_refused_total", field=field) for field in fields] == [1.0, 1.0, 1.0]


def test_a_time_far_in_the_future_waits_and_holds_up_nobody(embedded: Site, predictor: Predictor) -> None:
    now = pd.Timestamp.now("UTC").floor("s")
    readings = history(0).head(3).assign(time=[now - pd.Timedelta(minutes=1), now, now + pd.Timedelta(days=365)])
    embedded.store.write(Batch(readings=rows_of(readings)))
    worker = embedded.worker(StoreFeed(300.0))
    drain(worker, Scorer(predictor))
    embedded.store.write(Batch(readings=rows_of(readings.head(1).assign(time=now + pd.Timedelta(seconds=1)))))
    drain(worker, Scorer(predictor))
    assert len({time for _, time, _ in embedded.predictions()}) == 3


def test_the_challenger_predicts_for_the_record(embedded: Site, predictor: Predictor) -> None:
    embedded.store.write(Batch(readings=rows_of(history(0))))
    drain(embedded.worker(), Scorer(predictor, predictor))
    assert embedded.predictions("challenger") == embedded.predictions() != {}
    given = embedded.counted("predictions_total", target="temperature", role="challenger")
    assert given == len(history(0))


@dataclass(frozen=True)
class Their:
    """How a site keeps the time of a reading: the column's type, our time as a value of it, and the map's entry."""

    sql_type: str
    value: str
    entry: dict[str, str]


TIMES = {
    "timestamptz": Their("timestamptz", "t", {}),
    "local": Their("timestamp", "t AT TIME ZONE 'Asia/Kolkata'", {"zone": "Asia/Kolkata"}),
    "unix_ms": Their("bigint", "extract(epoch FROM t) * 1000", {"format": "unix_ms"}),
    "text": Their("text", "to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')", {"zone": "UTC"}),
}
SITE_COLUMNS: dict[str, Any] = {
    "U %": "voltage",
    "I mA": {"to": "current", "unit": "mA", "sign": -1},
    "T": "temperature",
    "SoC": {"to": "soc", "unit": "fraction", "optional": True},
    "nowhere": {"to": "speed_kmh", "optional": True},
}


def their_table(site: Site, their: Their, readings: pd.DataFrame) -> None:
    """Put `readings` (some of them, later more) into a table of the site's own, in its units and signs."""
    site.query(
        f'CREATE TABLE IF NOT EXISTS pack_log (pack int, "when" {their.sql_type}, "U %" float8, "I mA" float8, '
        '"T" float8, "SoC" float8, note text); CREATE INDEX IF NOT EXISTS pack_log_key ON pack_log (pack, "when")'
    )
    connection = psycopg2.connect(site.dsn)
    with connection, connection.cursor() as cursor:
        execute_values(
            cursor,
            f"INSERT INTO pack_log SELECT pack, {their.value}, u, i, temperature, soc, 'a note' FROM (VALUES %s) "
            "AS v(pack, t, u, i, temperature, soc)",
            [
                (int(row["battery_id"][3:]), row["time"], row["voltage"], row["current"] * -1000.0, row["temperature"],
                 None if row["soc"] != row["soc"] else row["soc"] / 100.0)
                for row in rows_of(readings)
            ],
            template="(%s, %s::timestamptz, %s::float8, %s::float8, %s::float8, %s::float8)",
        )  # fmt: skip
    connection.close()


def their_map(their: Their, **more: Any) -> FieldMap:
    columns = {
        "when": {"to": "time", **their.entry},
        "pack": {"to": "battery_id", "values": {seed: f"EV-{seed}" for seed in SEEDS}},
        **SITE_COLUMNS,
    }
    return parse_field_map({"columns": columns, "relation": "pack_log", **more}, "site.yaml")


def as_they_keep(readings: pd.DataFrame) -> pd.DataFrame:
    """`readings` after the way through the site's units."""
    return readings.assign(
        current=readings["current"] * -1000.0 * -1e-3,
        soc=readings["soc"] / 100.0 * 100.0,
        ambient_temperature=np.nan,
        cell_voltage_min=np.nan,
        cell_voltage_max=np.nan,
        soh=np.nan,
    )


@pytest.mark.parametrize("kind", list(TIMES))
def test_a_table_of_the_sites_own(kind: str, embedded: Site, predictor: Predictor) -> None:
    their, readings = TIMES[kind], everything()
    feed = SiteFeed(embedded.dsn, their_map(their), float("inf"))
    their_table(embedded, their, readings.iloc[:0])
    worker = embedded.worker(feed)
    for part in np.array_split(np.arange(len(readings)), 4):
        their_table(embedded, their, readings.iloc[part])
        drain(worker, Scorer(predictor))
    assert embedded.predictions() == offline(predictor, as_they_keep(readings))
    stored = embedded.query("SELECT battery_id, time, voltage FROM ev_telemetry WHERE voltage IS NOT NULL")
    assert sorted(stored) == sorted((row["battery_id"], row["time"], row["voltage"]) for row in rows_of(readings)), (
        "what is read is stored, so that it can be shown, replayed and learned from"
    )
    assert embedded.query("SELECT count(*) FROM battery_cycles")[0][0] >= 9
    feed.close()


def test_a_query_of_the_sites_own_with_rows_that_cannot_be_read(embedded: Site, predictor: Predictor) -> None:
    their, readings = TIMES["timestamptz"], everything()
    their_table(embedded, their, readings)
    embedded.query('UPDATE pack_log SET "T" = \'NaN\' WHERE pack = 0 AND "U %" > (SELECT avg("U %") FROM pack_log)')
    embedded.query("INSERT INTO pack_log SELECT 99, now(), 1, 1, 1")
    embedded.query("INSERT INTO pack_log SELECT 1, now() + interval '1 year', 360, 1, 20")
    broken = embedded.query("SELECT count(*) FROM pack_log WHERE \"T\" = 'NaN'")[0][0]
    query = "SELECT *, 0 AS nothing FROM pack_log WHERE note LIKE 'a%' OR pack <> 5;"
    feed = SiteFeed(embedded.dsn, their_map(their, relation=None, query=query), 300.0)
    drain(embedded.worker(feed), Scorer(predictor))
    kept = as_they_keep(readings)
    kept = kept[(kept["battery_id"] != "EV-0") | (kept["voltage"] <= readings["voltage"].mean())]
    assert embedded.predictions() == offline(predictor, kept)
    assert embedded.counted("database_rows_refused_total", field="temperature") == broken > 0
    assert embedded.counted("database_rows_read_total") == len(readings)
    feed.close()


def test_late_rows_of_the_site_and_its_past(embedded: Site, predictor: Predictor) -> None:
    their, readings = TIMES["local"], history(1)
    late = readings.iloc[[60, 61]]
    on_time = readings.drop(index=late.index)
    their_table(embedded, their, on_time.iloc[:50])
    feed = SiteFeed(embedded.dsn, their_map(their), float("inf"))
    worker = embedded.worker(feed, late=LateRows(feed, every_s=0.0), predict_past=False)
    drain(worker, Scorer(predictor))
    assert embedded.predictions() == {}
    their_table(embedded, their, on_time.iloc[50:70])
    drain(worker, Scorer(predictor))
    their_table(embedded, their, pd.concat([late, on_time.iloc[70:80]]))
    for _ in range(3):
        drain(worker, Scorer(predictor))
    assert embedded.counted("database_rows_late_total") == 2
    assert flagged(embedded) == list(as_they_keep(late)["time"])
    assert embedded.query("SELECT count(voltage) FROM ev_telemetry") == [(82,)], "the late ones are stored, too"
    expected = offline(predictor, as_they_keep(on_time.iloc[:80]))
    begin = on_time["time"].iloc[50]
    assert embedded.predictions() == {key: value for key, value in expected.items() if key[1] >= begin}
    feed.close()


def test_a_site_with_one_battery_and_no_column_for_it(embedded: Site, predictor: Predictor) -> None:
    their, readings = TIMES["timestamptz"], history(2)
    their_table(embedded, their, readings)
    columns = {"when": {"to": "time"}, **SITE_COLUMNS}
    named = parse_field_map(
        {"columns": columns, "relation": "pack_log", "constants": {"battery_id": "EV-2"}}, "one.yaml"
    )
    feed = SiteFeed(embedded.dsn, named, float("inf"))
    drain(embedded.worker(feed), Scorer(predictor))
    assert embedded.predictions() == offline(predictor, as_they_keep(readings))
    feed.close()
    nameless = parse_field_map({"columns": columns, "relation": "pack_log"}, "none.yaml")
    with pytest.raises(TwinError, match="which battery a row is of"):
        SiteFeed(embedded.dsn, nameless, 0.0)


@pytest.mark.parametrize(
    ("where", "said"), [({"relation": "nothing"}, "does not exist"), ({"relation": "batteries"}, "no column when")]
)
def test_a_map_of_what_is_not_there_is_told_at_the_start(where: dict[str, str], said: str, embedded: Site) -> None:
    with pytest.raises(TwinError, match=said):
        SiteFeed(embedded.dsn, their_map(TIMES["timestamptz"], **where), 0.0).check()


@dataclass
class Releases:
    """Somebody who predicts, or not yet."""

    scorer: Scorer | None = None
    problem: str = "no champion yet"


def test_waits_for_a_release_and_comes_back_after_the_store_was_away(embedded: Site, predictor: Predictor) -> None:
    readings = everything()
    embedded.store.write(Batch(readings=rows_of(readings.iloc[:500])))
    releases, stop = Releases(), threading.Event()
    worker = embedded.worker(limits=Limits(rows=50, batteries=3, discover_s=0.0))
    thread = threading.Thread(target=run, args=(worker, releases, embedded.metrics, 0.01, stop))
    thread.start()
    try:
        time.sleep(0.3)
        assert embedded.query("SELECT count(*) FROM twin_states") == [(0,)], "nothing is read that is not predicted"
        releases.scorer = Scorer(predictor)
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
def zygote(dsn: str, var: Path) -> Iterator[Callable[[], int]]:
    """Starts a database predictor at each call and gives its process id; all are gone in the end."""
    command = [sys.executable, "-m", "tests.serving.database_zygote", dsn, str(var)]
    children: list[int] = []
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        talk, listen = process.stdin, process.stdout

        def start() -> int:
            talk.write("one more\n")
            talk.flush()
            children.append(int(listen.readline()))
            return children[-1]

        try:
            assert listen.readline() == "ready\n"
            yield start
        finally:
            process.kill()
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)


def test_killed_at_any_moment_it_loses_and_doubles_nothing(
    embedded: Site, predictor: Predictor, registry: Settings
) -> None:
    readings = everything()
    expected = offline(predictor, readings)
    random = np.random.default_rng(1)
    count = "SELECT count(*) FROM battery_predictions"
    in_the_middle = 0
    with zygote(embedded.dsn, registry.var) as start:
        for part in np.array_split(np.arange(len(readings)), 16):
            embedded.store.write(Batch(readings=rows_of(readings.iloc[part])))
            victim = start()
            time.sleep(float(random.uniform(0.0, 0.15)))
            os.kill(victim, signal.SIGKILL)
            newest = readings["time"].iloc[part[-1]]
            in_the_middle += embedded.query(count)[0][0] < sum(time <= newest for _, time, _ in expected)
        survivors = [start(), start()]
        eventually(lambda: embedded.query(count) == [(len(expected),)])
        time.sleep(0.1)
        for survivor in survivors:
            os.kill(survivor, signal.SIGKILL)
    assert in_the_middle > 3, "some were killed before they had done all"
    assert embedded.predictions() == expected
    ended = len(sessions_of(readings))
    assert embedded.query("SELECT count(*), count(DISTINCT (battery_id, end_time)) FROM battery_cycles") == [
        (ended, ended)
    ]


def test_the_program_predicts_with_the_champion_until_it_is_stopped(
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
            # The program brings the schema itself.
            eventually(lambda: process.poll() is not None or _is_migrated(dsn))
            site = Site(dsn)
            site.store.write(Batch(readings=rows_of(everything()), batteries=packs()))
            expected = offline(predictor, everything())
            eventually(lambda: process.poll() is not None or site.predictions() == expected)
            assert process.poll() is None, log.read_text()
            scraped = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            assert f"database_rows_read_total {float(len(everything()))}" in scraped
            assert 'release_version{name="battery-twin"} 1.0' in scraped
            site.store.close()
        finally:
            process.terminate()
            assert process.wait(timeout=30) == 0, log.read_text()


def _is_migrated(dsn: str) -> bool:
    return Site(dsn).query("SELECT to_regclass('twin_states') IS NOT NULL") == [(True,)]


def test_the_program_says_in_a_sentence_why_it_cannot_begin(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving.database", "--field-map", str(tmp_path / "none.yaml")]
    environment = os.environ | {"TWIN_TELEMETRY_DSN": "postgresql://127.0.0.1:1/none"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("there is no field map")
    assert "Traceback" not in done.stderr
