"""The stream scorer with a real broker and store: each reading is predicted once, bitwise as offline."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import numpy as np
import pandas as pd
import psycopg2
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from pydantic import SecretStr

from deploy.servers.kafka import Kafka
from deploy.servers.process import unused_port
from features import state as s
from features import state_update
from features.prediction_rows import Role
from serving.feature_snapshots import update_each
from serving.predictor import Predictor
from serving.scorer import Scorer, score
from serving.stream.__main__ import main
from serving.stream.app import run_stream
from serving.stream.partition_check import PartitionCheck
from serving.stream.scorer_metrics import StreamMetrics
from serving.stream.topics import broker_config, changelog, ensure_topics, partition_statistics
from telemetry.batch import Batch, Row, rows_of
from telemetry.kafka_client import DEAD_LETTER_TOPIC, PREDICTIONS_TOPIC, TELEMETRY_TOPIC
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from telemetry.wire import reading_message, utc
from tests import hostile
from tests.features.conftest_features import drive, laboratory
from training.release import LoadedRelease

ROOT = Path(__file__).resolve().parents[2]
PACK = {"nominal_capacity_ah": 100.0, "cells_in_series": 96.0, "chemistry": "NMC"}
LATE = "SELECT count(*) FROM ev_telemetry WHERE late AND battery_id = %s"
WAIT_S = 90.0
#: Two drives with a gap in between that closes the first session.
TIMES_S = np.concatenate([np.arange(0, 1000, 10.0), np.arange(5000, 6000, 10.0)])


@dataclass
class FixedScorer:
    """A scorer source whose scorer is set by the test."""

    scorer: Scorer | None
    problem: str = ""


@dataclass
class Fleet:
    """Some batteries with their readings and cycles, and the offline predictions from them."""

    readings: dict[str, pd.DataFrame]
    cycles: dict[str, pd.DataFrame]

    @classmethod
    def of(cls, prefix: str, batteries: int, times_s: np.ndarray) -> Fleet:
        """`batteries` with 20 published cycles each, so that all four targets are predicted."""
        ids = [f"{prefix}-{number}" for number in range(batteries)]
        return cls(
            {key: drive(times_s, seed).assign(battery_id=key) for seed, key in enumerate(ids)},
            {key: laboratory(key, 20, 0.001, seed) for seed, key in enumerate(ids)},
        )

    @property
    def ids(self) -> list[str]:
        """Ids of the batteries."""
        return list(self.readings)

    def history(self) -> Batch:
        """Content of the store before the first reading."""
        cycles = [row for frame in self.cycles.values() for row in rows_of(frame.dropna(axis=1, how="all"))]
        return Batch(batteries=[{"battery_id": key, **PACK} for key in self.ids], cycles=cycles)

    def rows(self, part: slice = slice(None)) -> list[Row]:
        """Readings of all batteries in time order."""
        readings = pd.concat([frame.iloc[part] for frame in self.readings.values()])
        return rows_of(readings.sort_values("time", kind="stable"))

    def predicted(self, predictor: Predictor, role: Role = "champion") -> dict[tuple[str, datetime, str, str], float]:
        """Offline predictions from all readings, by battery, time, target and role."""
        values: dict[tuple[str, datetime, str, str], float] = {}
        for key, frame in self.readings.items():
            states = s.new_states(1)
            s.set_battery(states[0], **PACK)  # type: ignore[arg-type]
            cycles = state_update.cycles_matrix(self.cycles[key])
            state_update.update_from_cycles(states, np.zeros(len(cycles), dtype=np.int64), cycles)
            snapshots, _ = update_each(
                states, np.zeros(len(frame), dtype=np.int64), state_update.readings_matrix(frame)
            )
            rows = score(predictor, [key] * len(frame), snapshots, role, datetime.now(UTC)).rows
            values |= {(key, row["time"], row["target"], role): row["value"] for row in rows}  # type: ignore[misc]
        return values

    def sessions(self) -> list[tuple[str, str, datetime]]:
        """Battery, kind and end of all closed sessions."""
        closed_sessions: list[tuple[str, str, datetime]] = []
        for key, frame in self.readings.items():
            states = s.new_states(1)
            s.set_battery(states[0], **PACK)  # type: ignore[arg-type]
            rows = np.zeros(len(frame), dtype=np.int64)
            closed = state_update.update_from_readings(states, rows, state_update.readings_matrix(frame)).closed_table()
            closed_sessions += [
                (key, kind, utc(end)) for kind, end in zip(closed["kind"], closed["end_s"], strict=True)
            ]
        assert closed_sessions
        return sorted(closed_sessions)


class Store:
    """Queries of the telemetry store."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def write(self, batch: Batch) -> None:
        """Write `batch`."""
        store = PostgresStore(self.dsn)
        store.write(batch)
        store.close()

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Execute `sql` and return its rows."""
        connection = psycopg2.connect(self.dsn)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("SET TIME ZONE 'UTC'")
                cursor.execute(sql, values)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def predicted(self, fleet: Fleet) -> dict[tuple[str, datetime, str, str], float]:
        """Stored predictions as in `Fleet.predicted`; the table's key prevents duplicates."""
        rows = self.query(
            "SELECT battery_id, time, target, role, value FROM battery_predictions WHERE battery_id = ANY(%s)",
            fleet.ids,
        )
        return {(*row[:4],): row[4] for row in rows}

    def execute(self, sql: str) -> None:
        """Execute a statement outside of a transaction."""
        connection = psycopg2.connect(self.dsn)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
        connection.close()

    def wait_for(self, fleet: Fleet, predictions: int) -> None:
        """Wait for this number of stored predictions."""
        until(lambda: len(self.predicted(fleet)) >= predictions)


@pytest.fixture(scope="module")
def store(postgres_server: str, new_database: Callable[[str], str]) -> Store:
    dsn = new_database(postgres_server)
    migrate(dsn)
    return Store(dsn)


@pytest.fixture
def settings(registry: Settings, kafka_bootstrap: str, store: Store, request: pytest.FixtureRequest) -> Settings:
    """Settings with a consumer group for each test."""
    made = registry.model_copy(
        update={
            "kafka_bootstrap_servers": kafka_bootstrap,
            "kafka_partitions": 4,
            "scorer_group": request.node.name,
            "scorer_checkpoint_s": 0.2,
            "scorer_session_s": 6.0,
            "telemetry_dsn": SecretStr(store.dsn),
        }
    )
    ensure_topics(broker_config(made), made.scorer_group, made.kafka_partitions)
    return made


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.1)


def produce(settings: Settings, rows: Sequence[Row], raw: Sequence[tuple[bytes | None, bytes]] = ()) -> None:
    """Send `rows` as readings, then `raw` messages (key and content), and wait for the acknowledgements."""
    config = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "partitioner": "murmur2",
        "message.max.bytes": 20_000_000,
        "enable.idempotence": True,  # keeps the order of retried messages
    }
    producer = Producer(config)
    for row in rows:
        producer.produce(TELEMETRY_TOPIC, reading_message(row), str(row["battery_id"]))
    for key, content in raw:
        producer.produce(TELEMETRY_TOPIC, content, key)
    assert producer.flush(30) == 0


def received(settings: Settings, topic: str) -> list[tuple[bytes | None, dict[str, Any]]]:
    """Key and content of all messages in `topic`."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "the tests"})
    partitions = [TopicPartition(topic, number, 0) for number in consumer.list_topics(topic).topics[topic].partitions]
    left = sum(consumer.get_watermark_offsets(partition)[1] for partition in partitions)
    consumer.assign(partitions)
    messages = []
    while left:
        message = consumer.poll(10)
        assert message is not None
        assert message.error() is None
        messages.append((message.key(), json.loads(message.value())))
        left -= 1
    consumer.close()
    return messages


def scored_while(settings: Settings, releases: FixedScorer, play: Callable[[StreamMetrics], None]) -> dict[str, float]:
    """Run the scorer in this process while `play` runs in a thread; returns the final metrics."""
    metrics, ended, errors = StreamMetrics(), threading.Event(), []

    def scenario() -> None:
        try:
            play(metrics)
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)
        while not ended.wait(0.5):  # the scorer may not have installed its signal handler yet
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: None), signal.getsignal(signal.SIGINT)
    player = threading.Thread(target=scenario)
    player.start()
    try:
        run_stream(settings, releases, metrics)
    finally:
        ended.set()
        player.join()
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
    if errors:
        raise errors[0]
    return scraped(metrics)


def scraped(metrics: StreamMetrics) -> dict[str, float]:
    return parse(generate_latest(metrics.registry).decode())


def parse(exposition: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in exposition.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def of_version(release: LoadedRelease, version: int) -> Predictor:
    """Predictor with the same forests and another version."""
    models = {target: replace(model, version=version) for target, model in release.models.items()}
    return Predictor(replace(release, version=version, models=models))


def invalid(battery_id: str = "D-1", **wrong: object) -> bytes:
    """Message of a valid reading with the fields `wrong` replaced."""
    row = {
        "battery_id": battery_id,
        "timestamp": "2026-01-01T00:00:00Z",
        "voltage": 360,
        "current": 1,
        "temperature": 2,
    }
    return json.dumps(row | wrong).encode()


#: Key and content of invalid messages, and a part of the reason in the dead letter.
INVALID: list[tuple[bytes | None, bytes, str]] = [
    (b"D-1", b"\xff not json", "not JSON"),
    (b"D-1", invalid(current="high"), "current is 'high'"),
    (b"D-1", invalid(voltage=float("nan")), "voltage is missing"),
    (b"D-1", invalid(timestamp="2199-01-01T00:00:00Z"), "TWIN_MAX_FUTURE_S"),
    (b"D 1", invalid("D 1"), "battery_id is 'D 1'"),
    (b"D-2", invalid(), "have to be equal"),
    (None, b"{}", "battery_id is missing"),
    (b"D-1", b"x" * 10_000_000, "10000000 bytes"),
]


def test_scorer_end_to_end(settings: Settings, store: Store, release: LoadedRelease) -> None:
    """Predictions, invalid messages, late and duplicate readings, a new release, a challenger and a store outage."""
    fleet = Fleet.of("DAY", 3, TIMES_S)
    first, second = of_version(release, 1), of_version(release, 2)
    releases = FixedScorer(Scorer(first))
    store.write(fleet.history())
    allow_large_messages(settings)
    newest = fleet.readings["DAY-0"].iloc[79:80]
    late = newest.assign(time=newest["time"] - pd.Timedelta("5s"))
    n_targets = 4 * len(fleet.ids)

    def play(metrics: StreamMetrics) -> None:
        produce(settings, fleet.rows(slice(0, 80)), [(key, content) for key, content, _ in INVALID])
        store.wait_for(fleet, 80 * n_targets)
        produce(settings, rows_of(pd.concat([newest, late])))
        until(lambda: store.query(LATE, "DAY-0") == [(1,)])
        releases.scorer = Scorer(second, challenger=first)
        produce(settings, fleet.rows(slice(80, 120)))
        store.wait_for(fleet, 120 * n_targets + 40 * n_targets)
        with store_unavailable(store):
            produce(settings, fleet.rows(slice(120, 200)))
            until(lambda: scraped(metrics)['scorer_checkpoint_failures_total{part="store"}'] >= 2)
        store.wait_for(fleet, 200 * n_targets + 120 * n_targets)

    counted = scored_while(settings, releases, play)

    challenged = {
        key: value for key, value in fleet.predicted(first, "challenger").items() if key[1] >= swap_time(fleet)
    }
    assert store.predicted(fleet) == fleet.predicted(first) | challenged
    versions = "SELECT DISTINCT model_version, time >= %s FROM battery_predictions WHERE battery_id = %s AND role = %s"
    assert set(store.query(versions, swap_time(fleet), "DAY-0", "champion")) == {("1", False), ("2", True)}
    assert set(store.query(versions, swap_time(fleet), "DAY-0", "challenger")) == {("1", True)}

    sent = [content for _, content in received(settings, PREDICTIONS_TOPIC) if content["battery_id"] in fleet.ids]
    assert {(content["battery_id"], content["time"]) for content in sent} == {
        (row["battery_id"], f"{row['time']:%Y-%m-%dT%H:%M:%SZ}") for row in fleet.rows()
    }
    for content in sent:
        version = content["release"].rpartition("/")[2]
        fields = ("soh", "temperature", "rul", "failure_probability")
        assert {content[field]["model"].rpartition("/")[2] for field in fields} == {version}
        assert "state" not in content

    counts = "SELECT count(*), count(prediction_timestamp), count(voltage), count(late) FROM ev_telemetry"
    assert store.query(f"{counts} WHERE battery_id = %s", "DAY-0") == [(201, 200, 1, 1)], (
        "only the late reading is stored"
    )

    sessions = "SELECT battery_id, kind, end_time FROM battery_cycles WHERE kind <> 'cycle' AND battery_id = ANY(%s)"
    assert sorted(store.query(sessions, fleet.ids)) == fleet.sessions()

    letters = [
        content for key, content in received(settings, DEAD_LETTER_TOPIC) if key in {b"D-1", b"D-2", b"D 1", b"", None}
    ]
    for _, raw, reason in INVALID:
        (letter,) = [one for one in letters if reason in one["reason"]]
        assert raw.decode(errors="replace").startswith(letter["raw"])
        assert letter.get("size_bytes", len(letter["raw"])) in (len(raw), len(letter["raw"]))
    assert counted['scorer_dead_letters_total{reason="too_large"}'] >= 1
    # Messages of other tests in the topic are counted, too.
    assert counted['scorer_stale_readings_total{kind="late"}'] >= 1
    assert counted['scorer_stale_readings_total{kind="duplicate"}'] >= 1
    assert counted['predictions_total{role="challenger",target="rul"}'] == 360
    assert counted["scorer_lag_seconds_count"] >= 600
    assert counted["scorer_wrong_partition_total"] == 0


def test_generated_messages_leave_every_good_prediction(
    settings: Settings, store: Store, release: LoadedRelease
) -> None:
    """Messages with any combination of hostile values among those of ten good batteries, while the scorer runs."""
    at_once, examples = 10, 15
    fleet = Fleet.of("GEN", 10, TIMES_S[: at_once * examples])
    predictor, sent = of_version(release, 1), itertools.count()
    store.write(fleet.history())

    def play(metrics: StreamMetrics) -> None:
        begin = itertools.count(0, at_once)

        @hypothesis.settings(max_examples=examples, deadline=None, phases=(hypothesis.Phase.generate,))
        @given(changed=st.lists(hostile.changes() | hostile.TIME_CHANGES, min_size=1, max_size=20))
        def arrive(changed: list[dict[str, Any]]) -> None:
            first = next(begin)
            bad = []
            for at_s, change in zip(itertools.islice(sent, len(changed)), changed, strict=True):
                stamp = f"2026-01-01T00:{at_s // 60:02}:{at_s % 60:02}Z"
                bad.append((b"D-9", invalid("D-9", **{"timestamp": stamp, **change})))
            produce(settings, fleet.rows(slice(first, first + at_once)), bad)
            store.wait_for(fleet, (first + at_once) * 4 * len(fleet.ids))

        arrive()

    counted = scored_while(settings, FixedScorer(Scorer(predictor)), play)
    predicted = store.predicted(fleet)
    assert len(predicted) >= at_once * 4 * len(fleet.ids)
    assert predicted == {key: value for key, value in fleet.predicted(predictor).items() if key in predicted}
    letters = [content for key, content in received(settings, DEAD_LETTER_TOPIC) if key == b"D-9"]
    assert letters
    assert all(letter["reason"] for letter in letters)
    assert sum(value for name, value in counted.items() if name.startswith("scorer_dead_letters_total{")) >= len(
        letters
    )


def swap_time(fleet: Fleet) -> datetime:
    """Time of the first reading that is scored by the second release."""
    time_: datetime = fleet.readings["DAY-0"]["time"].iloc[80].to_pydatetime()
    return time_


def allow_large_messages(settings: Settings) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    limit = ConfigEntry("max.message.bytes", "20000000", incremental_operation=AlterConfigOpType.SET)
    for done in admin.incremental_alter_configs(
        [ConfigResource(ResourceType.TOPIC, TELEMETRY_TOPIC, incremental_configs=[limit])]
    ).values():
        done.result(30)


@contextmanager
def store_unavailable(store: Store) -> Iterator[None]:
    """Close all connections to the database and reject new ones."""
    name = store.query("SELECT current_database()")[0][0]
    server = Store(store.dsn.replace(f"/{name}?", "/postgres?"))
    server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    try:
        yield
    finally:
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@dataclass
class ScorerProcess:
    """A scorer in a separate process."""

    process: subprocess.Popen[bytes]
    metrics_url: str

    def counted(self) -> dict[str, float]:
        """Its metrics; empty while it is not reachable."""
        try:
            return parse(httpx.get(self.metrics_url, timeout=5).text)
        except httpx.HTTPError:
            return {}

    def partitions(self) -> list[str]:
        """Its assigned partitions, by the names of their metrics."""
        return [name for name in self.counted() if name.startswith("scorer_consumer_lag{")]


@contextmanager
def scorer(settings: Settings, folder: Path) -> Iterator[ScorerProcess]:
    """Start a scorer with the models of the registry and `folder` for its files."""
    port = unused_port()
    folder.mkdir()
    assert settings.telemetry_dsn is not None
    environment = os.environ | {
        "TWIN_VAR": str(folder),
        "TWIN_MLFLOW_TRACKING_URI": settings.tracking_uri,
        "TWIN_KAFKA_BOOTSTRAP_SERVERS": str(settings.kafka_bootstrap_servers),
        "TWIN_TELEMETRY_DSN": settings.telemetry_dsn.get_secret_value(),
        "TWIN_SCORER_GROUP": settings.scorer_group,
        "TWIN_SCORER_SESSION_S": str(settings.scorer_session_s),
        "TWIN_SCORER_CHECKPOINT_S": str(settings.scorer_checkpoint_s),
        "TWIN_SCORER_STORES_READINGS": str(settings.scorer_stores_readings),
        "TWIN_SCORER_METRICS_PORT": str(port),
    }
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "serving.stream"], cwd=ROOT, env=environment, stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield ScorerProcess(process, f"http://{settings.host}:{port}/metrics")
        finally:
            process.terminate()
            process.wait(30)


def test_takeover_after_a_kill_and_restore_after_a_state_version_change(
    settings: Settings, store: Store, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two scorers share the batteries, one is killed, the other takes over; then the state version changes."""
    settings = settings.model_copy(update={"scorer_stores_readings": True})
    fleet = Fleet.of("OVER", 8, TIMES_S[:180])
    n_targets = 4 * len(fleet.ids)
    store.write(fleet.history())

    def kill_one(metrics: StreamMetrics) -> None:
        with scorer(settings, tmp_path / "one") as one:
            produce(settings, fleet.rows(slice(0, 20)))
            until(lambda: bool(one.partitions()))
            produce(settings, fleet.rows(slice(20, 60)))
            store.wait_for(fleet, 60 * n_targets)
            until(lambda: one.counted()["scorer_messages_total"] > 0)
            produce(settings, fleet.rows(slice(60, 100)))
            one.process.kill()
            produce(settings, fleet.rows(slice(100, 140)))
            store.wait_for(fleet, 140 * n_targets)

    def send_the_rest(metrics: StreamMetrics) -> None:
        produce(settings, fleet.rows(slice(140, 180)))
        store.wait_for(fleet, 180 * n_targets)

    counted = scored_while(settings, FixedScorer(Scorer(predictor)), kill_one)
    assert counted["scorer_messages_total"] > 0
    assert counted['scorer_states_rebuilt_total{cause="unusable"}'] == 0
    monkeypatch.setattr(s, "STATE_VERSION", s.STATE_VERSION + 1)
    counted = scored_while(settings, FixedScorer(Scorer(predictor)), send_the_rest)
    assert counted['scorer_states_rebuilt_total{cause="unusable"}'] == len(fleet.ids)
    assert store.predicted(fleet) == fleet.predicted(predictor)
    readings = "SELECT count(*), count(voltage) FROM ev_telemetry WHERE battery_id = ANY(%s)"
    assert store.query(readings, fleet.ids) == [(180 * 8, 180 * 8)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # kafka-python leaves sockets to the garbage collector
def test_partitions_lost_during_a_store_outage_are_resumed(
    settings: Settings, store: Store, predictor: Predictor, kafka_server: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partitions are paused for longer than the broker is unavailable."""
    monkeypatch.setattr("serving.stream.checkpoint._MIN_BACKOFF_S", 15.0)
    monkeypatch.setattr("serving.stream.checkpoint._MAX_BACKOFF_S", 15.0)
    fleet = Fleet.of("LOST", 4, TIMES_S[:60])
    n_targets = 4 * len(fleet.ids)
    store.write(fleet.history())

    def play(metrics: StreamMetrics) -> None:
        produce(settings, fleet.rows(slice(0, 20)))
        store.wait_for(fleet, 20 * n_targets)
        try:
            with store_unavailable(store):
                produce(settings, fleet.rows(slice(20, 40)))
                until(lambda: scraped(metrics)['scorer_checkpoint_failures_total{part="store"}'] >= 1)
                kafka_server.server.kill()
                time.sleep(settings.scorer_session_s + 2.0)
        finally:
            kafka_server.server.start()
        produce(settings, fleet.rows(slice(40, 60)))
        store.wait_for(fleet, 60 * n_targets)

    try:
        scored_while(settings, FixedScorer(Scorer(predictor)), play)
    finally:
        # Other tests use the same broker, and the kernel ends a server with the thread that started it.
        kafka_server.server.stop()
        kafka_server.server.start()
    assert store.predicted(fleet) == fleet.predicted(predictor)


def test_messages_on_another_partition_than_their_keys_are_counted_and_reported(
    settings: Settings, predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    """A producer with librdkafka's default partitioner; its murmur2 partitioner gives the expected partitions."""
    fleet = Fleet.of("CRC", 12, TIMES_S[:10])
    default = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers})
    for row in fleet.rows():
        default.produce(TELEMETRY_TOPIC, reading_message(row), str(row["battery_id"]))
    assert default.flush(30) == 0
    messages = keys_on(settings, TELEMETRY_TOPIC)  # those of the other tests, too
    expected = murmur2_partitions(settings, {key for key, _ in messages if key is not None})
    wrong = [key for key, partition in messages if key is not None and expected[key] != partition]
    assert 10 <= len(wrong) < len(messages)
    assert all(key.startswith(b"CRC") for key in wrong), "the other tests partition as Java does"

    def play(metrics: StreamMetrics) -> None:
        until(lambda: scraped(metrics)["scorer_messages_total"] >= len(messages))

    alone = settings.model_copy(update={"telemetry_dsn": None})
    counted = scored_while(alone, FixedScorer(Scorer(predictor)), play)
    assert counted["scorer_wrong_partition_total"] == len(wrong)
    (logged,) = [record.getMessage() for record in caplog.records if record.name == "serving.stream.partition_check"]
    assert "partitioner=murmur2_random" in logged
    assert "'CRC-" in logged


def keys_on(settings: Settings, topic: str) -> list[tuple[bytes | None, int]]:
    """Key and partition of all messages."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "the tests"})
    partitions = [TopicPartition(topic, number, 0) for number in consumer.list_topics(topic).topics[topic].partitions]
    left = sum(consumer.get_watermark_offsets(partition)[1] for partition in partitions)
    consumer.assign(partitions)
    messages = []
    for _ in range(left):
        message = consumer.poll(30)
        assert message is not None
        assert message.error() is None
        messages.append((message.key(), message.partition()))
    consumer.close()
    return messages


def murmur2_partitions(settings: Settings, keys: set[bytes]) -> dict[bytes, int]:
    """Partition of each key by librdkafka's partitioner for topics that Java producers write, too."""
    found: dict[bytes, int] = {}
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, "partitioner": "murmur2_random"})
    topic = "murmur2"
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    admin.create_topics([NewTopic(topic, len(admin.list_topics().topics[TELEMETRY_TOPIC].partitions))])[topic].result(
        30
    )
    for key in keys:
        producer.produce(topic, b"", key, on_delivery=lambda _, sent: found.update({sent.key(): sent.partition()}))
    assert producer.flush(30) == 0
    return found


def test_misplaced_messages_are_those_by_the_present_number_of_partitions() -> None:
    # Kafka's own test vectors of murmur2, with the sign bit removed.
    hashes = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
    four = [(key, (value & 0x7FFFFFFF) % 4) for key, value in hashes.items()]
    check = PartitionCheck(4)
    assert check.misplaced([*four, (None, 3)]) == 0
    assert check.misplaced([(key, (partition + 1) % 4) for key, partition in four]) == 3
    check.partitions = 7
    moved = sum((hashes[key] & 0x7FFFFFFF) % 7 != partition for key, partition in four)
    assert check.misplaced(four) == moved > 0


def test_statistics_of_a_consumer_list_the_partitions_of_all_consumers(settings: Settings) -> None:
    found: list[str] = []
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "group.id": "the tests",
            "statistics.interval.ms": 100,
            "stats_cb": found.append,
        }
    )
    consumer.assign([TopicPartition(TELEMETRY_TOPIC, 1, 0)])
    number = len(consumer.list_topics(TELEMETRY_TOPIC).topics[TELEMETRY_TOPIC].partitions)

    def known() -> bool:
        consumer.poll(0.1)
        return bool(found) and partition_statistics(found[-1]).keys() == {str(i) for i in range(number)}

    until(known)
    consumer.close()


def test_changelog_has_small_segments(settings: Settings) -> None:
    """Compaction skips the open segment, and a new owner has to read all of it."""
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    topic = changelog(settings.scorer_group)
    (configuration,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
    assert int(configuration.result(30)["segment.bytes"].value) <= 2**26
    assert configuration.result(30)["cleanup.policy"].value == "compact"
    assert len(admin.list_topics(topic).topics[topic].partitions) == len(
        admin.list_topics(TELEMETRY_TOPIC).topics[TELEMETRY_TOPIC].partitions
    )


def test_missing_brokers_are_reported_with_the_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TWIN_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    assert main() == 2
    assert "TWIN_KAFKA_BOOTSTRAP_SERVERS" in capsys.readouterr().err
