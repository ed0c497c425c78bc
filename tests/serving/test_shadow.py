"""The shadow recorder stores the challengers' predictions and never delays or fails a request."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psycopg2
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from deploy.servers.process import unused_port
from features.state import new_states
from serving.feature_snapshots import FeatureSnapshots, snapshots_of
from serving.predictor import Predictor
from serving.scorer import score
from serving.service_metrics import ShadowMetrics
from serving.shadow import ShadowRecorder
from telemetry.settings import Settings
from training.release import LoadedRelease

START_S = 1_767_225_600.0


def make_snapshots(n: int, start_s: float = START_S) -> FeatureSnapshots:
    """Snapshots of n batteries with random states, each at another time."""
    states = new_states(n)
    states[:] = np.random.default_rng(n).uniform(20, 40, states.shape)
    return dataclasses.replace(snapshots_of(states), time_s=start_s + np.arange(float(n)))


def ids(n: int) -> list[str]:
    return [f"B{i}" for i in range(n)]


class RecorderProbe:
    """A recorder with its metrics."""

    def __init__(self, dsn: str | None, var: Path, capacity: int = 10_000) -> None:
        self._registry = CollectorRegistry()
        settings = Settings(var=var, telemetry_dsn=None if dsn is None else SecretStr(dsn))
        self.recorder = ShadowRecorder(settings, ShadowMetrics(self._registry), capacity)

    def recorded(self) -> float:
        return self._registry.get_sample_value("shadow_predictions_total") or 0.0

    def lost(self, reason: str) -> float:
        return self._registry.get_sample_value("shadow_predictions_lost_total", {"reason": reason}) or 0.0


@pytest.fixture
def new_recorder(tmp_path: Path) -> Iterator[Callable[..., RecorderProbe]]:
    made: list[RecorderProbe] = []

    def make(dsn: str | None, capacity: int = 10_000) -> RecorderProbe:
        made.append(RecorderProbe(dsn, tmp_path, capacity))
        return made[-1]

    yield make
    for one in made:
        one.recorder.stop(0.1)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def challenger(release: LoadedRelease) -> Predictor:
    """A predictor of two of the four targets."""
    return Predictor(
        dataclasses.replace(release, models={name: release.models[name] for name in ("soh", "temperature")})
    )


def test_all_submitted_snapshots_are_predicted_and_stored(
    postgres_dsn: str, new_recorder: Callable[..., RecorderProbe], challenger: Predictor, predictor: Predictor
) -> None:
    probe = new_recorder(postgres_dsn)
    probe.recorder.start()
    for part in range(5):
        probe.recorder.submit(ids(7), make_snapshots(7, START_S + 100 * part), predictor if part == 3 else challenger)
    until(lambda: probe.recorded() == 4 * 7 * 2 + 7 * 4)
    with psycopg2.connect(postgres_dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT battery_id, time, target, value, model_version, role FROM battery_predictions")
        stored = set(cursor.fetchall())
    expected = {
        tuple(row[name] for name in ("battery_id", "time", "target", "value", "model_version", "role"))
        for part in range(5)
        for row in score(
            predictor if part == 3 else challenger,
            ids(7),
            make_snapshots(7, START_S + 100 * part),
            "challenger",
            datetime.now(UTC),
        ).rows
    }
    assert stored == expected


def test_store_unavailable_does_not_block_and_losses_are_counted(
    new_recorder: Callable[..., RecorderProbe], challenger: Predictor
) -> None:
    unused = f"postgresql://postgres@127.0.0.1:{unused_port()}/postgres"
    probe = new_recorder(unused, capacity=50)
    probe.recorder.start()
    probe.recorder.submit(ids(10), make_snapshots(10), challenger)
    until(lambda: probe.recorder._queued_snapshots == 0)  # taken from the queue and being retried
    for _ in range(8):
        probe.recorder.submit(ids(10), make_snapshots(10), challenger)
    assert probe.lost("full") == 3 * 10 * 2
    probe.recorder.stop()
    assert probe.lost("stopped") == 6 * 10 * 2
    assert probe.recorded() == 0


def test_queued_predictions_are_stored_after_an_outage(
    postgres_server: str, new_recorder: Callable[..., RecorderProbe], challenger: Predictor
) -> None:
    probe = new_recorder(f"{postgres_server}&options=-c%20search_path%3Dcreated_later")
    probe.recorder.start()
    for part in range(3):
        probe.recorder.submit(ids(4), make_snapshots(4, START_S + 10 * part), challenger)
    time.sleep(0.3)
    assert probe.recorded() == 0
    with psycopg2.connect(postgres_server) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA created_later")
    until(lambda: probe.recorded() == 3 * 4 * 2)
    assert probe.lost("full") == probe.lost("stopped") == 0


def test_failed_challenger_is_counted_and_the_next_one_recorded(
    postgres_dsn: str, new_recorder: Callable[..., RecorderProbe], challenger: Predictor
) -> None:
    probe = new_recorder(postgres_dsn)
    probe.recorder.start()
    narrow = dataclasses.replace(make_snapshots(3), cycle_features=np.zeros((3, 2)))
    probe.recorder.submit(ids(3), narrow, challenger)
    until(lambda: probe.lost("failed") == 3 * 2)
    probe.recorder.submit(ids(3), make_snapshots(3), challenger)
    until(lambda: probe.recorded() == 3 * 2)


def test_stop_stores_the_queued_predictions(
    postgres_dsn: str, new_recorder: Callable[..., RecorderProbe], challenger: Predictor
) -> None:
    probe = new_recorder(postgres_dsn)
    for part in range(20):
        probe.recorder.submit(ids(200), make_snapshots(200, START_S + 1000 * part), challenger)
    probe.recorder.start()
    probe.recorder.stop(30)
    assert probe.recorded() == 20 * 200 * 2
