"""Short form of `make chaos`, and tests that its comparison finds every kind of inconsistency."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import psycopg2
import pytest
from rich.console import Console

from deploy.servers.install import DEBIAN, KAFKA, MINIO
from deploy.servers.postgres import Postgres, postgres
from deploy.servers.process import HOST, Command, Server, responds, unused_port
from features.state import STATE_VERSION, FloatArray, new_states, set_battery
from features.state_update import readings_matrix
from features.targets import TARGET_NAMES
from serving.feature_snapshots import update_each_with_sessions
from serving.predictor import Predictor
from serving.scorer import Scorer
from serving.session_rows import cycle_rows
from telemetry.batch import Batch, rows_of
from telemetry.sinks.postgres import StoreSink
from telemetry.spool.delivery import Delivery, SinkWorker
from telemetry.spool.spool import MIN_BYTES, Spool
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.chaos.__main__ import chaos, print_report
from tests.chaos.counting import Count, count
from tests.chaos.disk import Event, cannot_trace
from tests.chaos.ledger import EarlyAcknowledgingSpool, Ledger, LedgerSummary, key_of, read_ledger
from tests.chaos.power_cut import simulate_power_cuts, trace_spool
from tests.chaos.small_disk import SmallDisk, small_disk
from tests.features.conftest_features import drive
from tests.needs import need
from tests.telemetry.spool.rows import reading
from tests.training.small_models import ModelFiles
from training.release import (
    LoadedRelease,
    LocalModel,
    PinnedModel,
    Release,
    content_sha256,
    horizons_of,
    model_name,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def events() -> list[Event]:
    if reason := cannot_trace():
        pytest.skip(reason)
    return trace_spool(160, seed=3)


def test_the_spool_keeps_acknowledged_rows_after_a_power_cut_at_any_time(events: list[Event]) -> None:
    report = simulate_power_cuts(events, seed=3, cuts=60)
    assert report.acknowledged > 60 * 100
    assert (report.lost, report.duplicated, report.damaged) == (0, 0, [])


def test_a_disk_that_ignores_syncs_loses_acknowledged_rows(events: list[Event]) -> None:
    report = simulate_power_cuts(events, seed=3, cuts=20, honours_sync=False)
    assert report.lost > 100
    assert not report.lost_nothing


@dataclass
class SimulatorAndStore:
    """A live simulator and the store it writes to, both of which can be killed."""

    simulator: Server
    database: Server
    dsn: str
    ledger: Path
    disk: SmallDisk | None

    def acknowledged(self) -> int:
        """Number of acknowledged readings so far."""
        return len(read_ledger(self.ledger).acknowledged)

    def run(self, readings: int) -> None:
        """Wait until that many more readings are acknowledged."""
        target = self.acknowledged() + readings
        wait_until(lambda: self.acknowledged() >= target)

    def drain_and_count(self) -> Count:
        """Stop the simulator, deliver the spool, and compare the store with the ledger."""
        self.simulator.stop()
        deliver(self.spool, self.dsn)
        return count(self.dsn, read_ledger(self.ledger), {}, ())

    @property
    def spool(self) -> Path:
        """Path of the simulator's spool."""
        return Path(self.simulator.command.environment["TWIN_VAR"]) / "spool.db"


@pytest.fixture(scope="module")
def database(server_folders: Path) -> Iterator[Postgres]:
    """A database server for tests that kill it."""
    need(DEBIAN["postgresql-15"])
    with postgres(server_folders / "killed", durable=False) as running:
        yield running


@pytest.fixture
def system(database: Postgres, new_database: Callable[[str], str], tmp_path: Path) -> Iterator[SimulatorAndStore]:
    """With three batteries without physics, which start at once."""
    dsn, ledger, port = new_database(database.tcp_dsn), tmp_path / "ledger", unused_port()
    migrate(dsn)
    simulator = Server(
        Command(
            "simulator",
            (sys.executable, "-m", "tests.chaos.producer", str(ledger), "--simple", "3"),
            ready=lambda: responds(f"http://{HOST}:{port}/metrics"),
            log=tmp_path / "log",
            folder=ROOT,
            environment={
                "TWIN_VAR": str(tmp_path / "var"),
                "TWIN_TELEMETRY_DSN": dsn,
                "TWIN_SIMULATOR_METRICS_PORT": str(port),
            },
        )
    )
    with ExitStack() as stack:
        disk = None
        with suppress(PermissionError):
            disk = stack.enter_context(small_disk(tmp_path / "var", "64m"))
        stack.enter_context(simulator)
        yield SimulatorAndStore(simulator, database.server, dsn, ledger, disk)


def deliver(path: Path, dsn: str) -> None:
    """Deliver all rows of the spool `path` to the store."""
    with closing(Spool(path, {"store": StoreSink.kinds}, max_bytes=MIN_BYTES)) as spool:
        delivery = Delivery(spool, "store", SinkWorker(StoreSink(dsn)))
        delivery.start()
        wait_until(lambda: delivery.is_drained)
        assert delivery.stop(10.0)


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.02)


def test_kills_of_simulator_and_database_and_a_full_disk_neither_lose_nor_duplicate(system: SimulatorAndStore) -> None:
    rng = random.Random(11)
    system.run(rng.randrange(60, 120))
    system.database.kill()
    system.run(rng.randrange(60, 120))
    if system.disk is not None:
        system.disk.fill()
        wait_until(lambda: len(read_ledger(system.ledger).refused) > 10)
    system.simulator.kill()
    system.database.start()
    system.simulator.start()
    if system.disk is not None:
        system.disk.make_room()
    system.run(rng.randrange(60, 120))
    system.simulator.kill()
    counted = system.drain_and_count()
    assert counted.is_consistent, counted
    assert counted.acknowledged >= 180
    assert counted.stored >= counted.acknowledged
    assert system.disk is None or counted.refused > 10


def test_a_spool_that_acknowledges_before_writing_is_detected(postgres_dsn: str, tmp_path: Path) -> None:
    migrate(postgres_dsn)
    path, consumers = tmp_path / "ledger", {"store": StoreSink.kinds}
    ledger = Ledger(path)
    spool = EarlyAcknowledgingSpool(tmp_path / "spool.db", consumers, max_bytes=MIN_BYTES, ledger=ledger)
    for number in range(20):
        spool.append(Batch(readings=[reading(2 * number), reading(2 * number + 1)]))
    spool.close()  # as after a kill, the last batch is not written
    deliver(spool.path, postgres_dsn)
    counted = count(postgres_dsn, read_ledger(path), {}, ())
    assert (counted.acknowledged, counted.stored, counted.lost) == (40, 38, 2)
    assert not counted.is_consistent


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A release of small forests, without a registry."""
    files = ModelFiles(tmp_path_factory.mktemp("models"))
    pinned, models = {}, {}
    for target in TARGET_NAMES:
        files.train(target, state_version=STATE_VERSION)
        folder, name = files.folder / target, model_name("battery", target)
        fit = json.loads((folder / "fit.json").read_text())
        pinned[target] = PinnedModel(name, 1, content_sha256(folder))
        models[target] = LocalModel(target, name, 1, folder / "model.onnx", fit)
    release = Release(
        "battery", pinned, STATE_VERSION, horizons_of({name: model.fit for name, model in models.items()})
    )
    return Predictor(LoadedRelease("battery-twin", 1, release, models))


PACK = {"nominal_capacity_ah": 100.0, "cells_in_series": 96.0, "chemistry": "NMC"}


@dataclass(frozen=True)
class ConsistentStore:
    """A store that holds every reading, prediction and session exactly once."""

    dsn: str
    ledger: LedgerSummary
    states: dict[str, FloatArray]
    predictor: Predictor

    def count(self) -> Count:
        return count(self.dsn, self.ledger, self.states, [self.predictor])


@pytest.fixture
def consistent(postgres_dsn: str, predictor: Predictor) -> ConsistentStore:
    ids = ["EV-0", "EV-1"]
    frames = [drive(np.arange(0.0, 9000.0, 30.0), seed) for seed in range(len(ids))]
    states = new_states(len(ids))
    for state in states:
        set_battery(state, **PACK)  # type: ignore[arg-type]
    initial = dict(zip(ids, states.copy(), strict=True))
    readings = pd.concat(frames, ignore_index=True)
    rows = np.repeat(np.arange(len(ids)), len(frames[0]))
    snapshots, _, closed = update_each_with_sessions(states, rows, readings_matrix(readings))
    predictions = Scorer(predictor).score(list(readings["battery_id"]), snapshots, datetime.now(UTC)).rows
    migrate(postgres_dsn)
    batch = Batch(readings=rows_of(readings), predictions=predictions, cycles=cycle_rows(closed, ids))
    with closing(PostgresStore(postgres_dsn)) as store:
        store.write(batch)
    ledger = LedgerSummary(acknowledged={key_of(row): row for row in batch.readings})
    return ConsistentStore(postgres_dsn, ledger, initial, predictor)


def test_a_consistent_store_is_recognised(consistent: ConsistentStore) -> None:
    counted = consistent.count()
    assert counted.is_consistent, counted
    assert counted.stored == counted.acknowledged == 600
    assert counted.predictions >= 1000
    assert counted.sessions >= 2


ONE_READING = "battery_id = 'EV-1' AND time = (SELECT max(time) FROM ev_telemetry)"
ONE_PREDICTION = "ctid = (SELECT ctid FROM battery_predictions LIMIT 1)"
ONE_SESSION = "ctid = (SELECT ctid FROM battery_cycles LIMIT 1)"
COLUMNS = "voltage, current, temperature"


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        (f"DELETE FROM ev_telemetry WHERE {ONE_READING}", "lost"),
        (f"UPDATE ev_telemetry SET voltage = voltage + 1 WHERE {ONE_READING}", "changed"),
        (
            f"INSERT INTO ev_telemetry (battery_id, time, {COLUMNS}) "
            f"SELECT battery_id, time + interval '1 s', {COLUMNS} FROM ev_telemetry WHERE {ONE_READING}",
            "duplicated",
        ),
        (f"DELETE FROM battery_predictions WHERE {ONE_PREDICTION}", "unpredicted"),
        (f"UPDATE battery_predictions SET value = value + 1e-12 WHERE {ONE_PREDICTION}", "wrong"),
        (f"UPDATE battery_predictions SET target = 'rul' WHERE {ONE_PREDICTION}", "wrong"),
        (f"DELETE FROM battery_cycles WHERE {ONE_SESSION}", "lost_sessions"),
        (
            f"UPDATE battery_cycles SET throughput_ah = 2 * throughput_ah WHERE {ONE_SESSION}",
            "duplicated_sessions",
        ),
    ],
)
def test_each_kind_of_inconsistency_is_counted(consistent: ConsistentStore, change: str, figure: str) -> None:
    with closing(psycopg2.connect(consistent.dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(change)
        assert cursor.rowcount == 1
    counted = consistent.count()
    assert getattr(counted, figure) == 1
    assert not counted.is_consistent


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killing_every_process_neither_loses_nor_duplicates(server_folders: Path) -> None:
    """Short form of `make chaos`: one kill for each process."""
    need(DEBIAN["postgresql-15"], DEBIAN["mosquitto"], KAFKA, MINIO)
    console = Console(width=120)
    report = chaos(7, 10, server_folders / "chaos", console)
    print_report(console, report)
    assert report.is_consistent
    assert set(report.supervisor.kills.values()) <= {1, 2}
    assert all(counted.acknowledged > 500 for counted in report.counts.values())
