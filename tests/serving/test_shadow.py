"""What challengers say is kept, afterwards; no store and no challenger can stand in the way of a request."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg2
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from deploy.servers.process import unused_port
from features.state import new_states
from serving.feature_snapshots import FeatureSnapshots, snapshots_of
from serving.prediction_rows import prediction_rows
from serving.predictor import Predictor
from serving.service_metrics import ShadowMetrics
from serving.shadow import ShadowRecorder
from telemetry.settings import Settings
from training.release import LoadedRelease

START_S = 1_767_225_600.0


def moments(n: int, start_s: float = START_S) -> FeatureSnapshots:
    """Of n batteries that have lived, at times of their own."""
    states = new_states(n)
    states[:] = np.random.default_rng(n).uniform(20, 40, states.shape)
    return dataclasses.replace(snapshots_of(states), time_s=start_s + np.arange(float(n)))


def ids(n: int) -> list[str]:
    return [f"B{i}" for i in range(n)]


class Shadowing:
    """A recorder and what it tells."""

    def __init__(self, dsn: str | None, var: Path, capacity: int = 10_000) -> None:
        self._registry = CollectorRegistry()
        settings = Settings(var=var, telemetry_dsn=None if dsn is None else SecretStr(dsn))
        self.recorder = ShadowRecorder(settings, ShadowMetrics(self._registry), capacity)

    def recorded(self) -> float:
        return self._registry.get_sample_value("shadow_predictions_total") or 0.0

    def lost(self, reason: str) -> float:
        return self._registry.get_sample_value("shadow_predictions_lost_total", {"reason": reason}) or 0.0


@pytest.fixture
def shadowing(tmp_path: Path) -> Iterator[Callable[..., Shadowing]]:
    made: list[Shadowing] = []

    def make(dsn: str | None, capacity: int = 10_000) -> Shadowing:
        made.append(Shadowing(dsn, tmp_path, capacity))
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
    """Two of the four targets."""
    return Predictor(
        dataclasses.replace(release, models={name: release.models[name] for name in ("soh", "temperature")})
    )


def test_every_moment_offered_is_in_the_store(
    postgres_dsn: str, shadowing: Callable[..., Shadowing], challenger: Predictor, predictor: Predictor
) -> None:
    shadow = shadowing(postgres_dsn)
    shadow.recorder.start()
    for part in range(5):
        shadow.recorder.offer(ids(7), moments(7, START_S + 100 * part), predictor if part == 3 else challenger)
    until(lambda: shadow.recorded() == 4 * 7 * 2 + 7 * 4)
    with psycopg2.connect(postgres_dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT battery_id, time, target, value, model_version, role FROM battery_predictions")
        stored = set(cursor.fetchall())
    expected = {
        tuple(row[name] for name in ("battery_id", "time", "target", "value", "model_version", "role"))
        for part in range(5)
        for row in prediction_rows(
            ids(7),
            moments(7, START_S + 100 * part),
            (predictor if part == 3 else challenger).predict_snapshots(moments(7, START_S + 100 * part)),
            {},
            role="challenger",
            predicted_at=None,  # type: ignore[arg-type]
        )
    }
    assert stored == expected


def test_a_store_that_is_away_costs_nobody_time_and_the_loss_is_counted(
    shadowing: Callable[..., Shadowing], challenger: Predictor
) -> None:
    nobody = f"postgresql://postgres@127.0.0.1:{unused_port()}/postgres"
    shadow = shadowing(nobody, capacity=50)
    shadow.recorder.start()
    shadow.recorder.offer(ids(10), moments(10), challenger)
    until(lambda: shadow.recorder._queued == 0)  # it is being tried, again and again
    for _ in range(8):
        shadow.recorder.offer(ids(10), moments(10), challenger)
    assert shadow.lost("full") == 3 * 10 * 2
    shadow.recorder.stop()
    assert shadow.lost("stopped") == 6 * 10 * 2
    assert shadow.recorded() == 0


def test_a_store_that_comes_back_gets_what_waited(
    postgres_server: str, shadowing: Callable[..., Shadowing], challenger: Predictor
) -> None:
    shadow = shadowing(f"{postgres_server}&options=-c%20search_path%3Dnot_there_yet")
    shadow.recorder.start()
    for part in range(3):
        shadow.recorder.offer(ids(4), moments(4, START_S + 10 * part), challenger)
    time.sleep(0.3)
    assert shadow.recorded() == 0
    with psycopg2.connect(postgres_server) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA not_there_yet")
    until(lambda: shadow.recorded() == 3 * 4 * 2)
    assert shadow.lost("full") == shadow.lost("stopped") == 0


def test_a_challenger_that_fails_is_counted_and_the_next_is_heard(
    postgres_dsn: str, shadowing: Callable[..., Shadowing], challenger: Predictor
) -> None:
    shadow = shadowing(postgres_dsn)
    shadow.recorder.start()
    narrow = dataclasses.replace(moments(3), cycle_features=np.zeros((3, 2)))
    shadow.recorder.offer(ids(3), narrow, challenger)
    until(lambda: shadow.lost("failed") == 3 * 2)
    shadow.recorder.offer(ids(3), moments(3), challenger)
    until(lambda: shadow.recorded() == 3 * 2)


def test_what_waits_is_written_before_the_end(
    postgres_dsn: str, shadowing: Callable[..., Shadowing], challenger: Predictor
) -> None:
    shadow = shadowing(postgres_dsn)
    for part in range(20):
        shadow.recorder.offer(ids(200), moments(200, START_S + 1000 * part), challenger)
    shadow.recorder.start()
    shadow.recorder.stop(30)
    assert shadow.recorded() == 20 * 200 * 2
