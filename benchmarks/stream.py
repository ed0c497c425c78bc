"""Benchmark of the stream scorer from topic to stored predictions, against a consumer that only parses the messages.

Broker, store, scorer and reference share the cores of this machine; broker and store are durable.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import psycopg2
from confluent_kafka import Producer
from kafka import KafkaConsumer, TopicPartition

from deploy.servers.kafka import kafka
from deploy.servers.process import unused_port
from serving.stream.topics import broker_config, ensure_topics
from telemetry.batch import Batch, Row
from telemetry.contract import SIGNALS
from telemetry.embedded.postgres import embedded_postgres
from telemetry.kafka_client import PREDICTIONS_TOPIC, TELEMETRY_TOPIC
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from telemetry.wire import reading_message
from training.release import load_release

_ROOT = Path(__file__).resolve().parents[1]
_MESSAGES = 60_000
_BATTERIES = 100
_GROWTH = (10, 1_000)
_LAG_S = 20.0
_LAG_LIMIT_S = 2.0
_START = datetime(2026, 1, 1, tzinfo=UTC)
_WAIT_S = 300.0


def stream() -> list[dict[str, Any]]:
    """Messages per second with the champion, for 10, 100 and 1,000 batteries, and the lag at half of that rate."""
    settings = Settings()
    measurements: list[dict[str, Any]] = []
    for batteries in (_BATTERIES, *_GROWTH):
        with tempfile.TemporaryDirectory(prefix="twin-bench-") as folder:
            measurements += _measurements(settings, Path(folder), batteries)
    for measurement in measurements:
        measurement["note"] = _forest_sizes(settings)
    return measurements


def _measurements(settings: Settings, folder: Path, batteries: int) -> list[dict[str, Any]]:
    with kafka(folder / "kafka") as broker, embedded_postgres(folder / "postgres") as dsn:
        setup = _StreamSetup(settings, broker.bootstrap, dsn, batteries)
        setup.prepare()
        setup.send(0, _MESSAGES)
        peer = [_parsed_a_second(broker.bootstrap)]
        with _scorer(setup, folder / "scorer") as scorer:
            value = scorer.drained_a_second(_MESSAGES)
            setup.check(_MESSAGES)
            peer.append(_parsed_a_second(broker.bootstrap))
            name = "stream" if batteries == _BATTERIES else f"stream_{batteries}_batteries"
            peer_name = f"kafka-python consumer that only parses the JSON (checksums off), {batteries} batteries"
            measurements = [_measurement(name, value, "messages/s", peer_name, sum(peer) / 2)]
            if batteries == _BATTERIES:
                sent = setup.send_steadily(_MESSAGES, value / 2, _LAG_S)
                scorer.wait_for(_MESSAGES + sent)
                lag_s = _lag_p99_s(broker.bootstrap, sent)
                peer_name = f"limit, at {value / 2:.0f} messages/s"
                measurements.append(_measurement("stream_lag_p99", lag_s, "s", peer_name, _LAG_LIMIT_S))
    return measurements


def _measurement(name: str, value: float, unit: str, peer: str, peer_value: float) -> dict[str, Any]:
    ratio = value / peer_value
    return {"name": name, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value, "ratio": ratio}


@dataclass(frozen=True)
class _StreamSetup:
    """Broker, store and a fleet whose batteries have cycles, so that all four targets are predicted."""

    settings: Settings
    bootstrap: str
    dsn: str
    batteries: int

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a scorer with this setup."""
        return os.environ | {
            "TWIN_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "TWIN_TELEMETRY_DSN": self.dsn,
            "TWIN_MLFLOW_TRACKING_URI": self.settings.tracking_uri,
        }

    def prepare(self) -> None:
        """Create topics and tables, and store the batteries and 20 cycles of each."""
        migrate(self.dsn)
        random = np.random.default_rng(0)
        ids = [_battery_id(number) for number in range(self.batteries)]
        pack = {"nominal_capacity_ah": 150.0, "cells_in_series": 96.0, "chemistry": "NMC"}
        cycles: list[Row] = [
            {"battery_id": battery_id, "cycle_index": index, **dict(zip(SIGNALS, values, strict=True))}
            for battery_id in ids
            for index, values in enumerate(random.normal(10.0, 1.0, (20, len(SIGNALS))).tolist(), 1)
        ]
        store = PostgresStore(self.dsn)
        store.write(Batch(batteries=[{"battery_id": battery_id, **pack} for battery_id in ids], cycles=cycles))
        store.close()
        settings = self.settings.model_copy(update={"kafka_bootstrap_servers": self.bootstrap})
        ensure_topics(broker_config(settings), settings.scorer_group, settings.kafka_partitions)

    def send(self, first: int, count: int) -> None:
        """Send `count` messages from number `first` on, as fast as the broker accepts them."""
        producer = self._producer()
        for number in range(first, first + count):
            self._produce(producer, number)
        producer.flush()

    def send_steadily(self, first: int, rate: float, for_s: float) -> int:
        """Send `rate` messages per second in steps of 20 ms; returns the number sent."""
        producer = self._producer()
        began, sent = time.monotonic(), 0
        while (elapsed := time.monotonic() - began) < for_s:
            while sent < elapsed * rate:
                self._produce(producer, first + sent)
                sent += 1
            producer.poll(0.02)
        producer.flush()
        return sent

    def check(self, messages: int) -> None:
        """Assert that every message has its four predictions in the store."""
        database = psycopg2.connect(self.dsn)
        with database, database.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM battery_predictions")
            (count,) = cursor.fetchone() or (0,)
        database.close()
        assert count == 4 * messages, f"{count} predictions are stored of {messages} messages"

    def _producer(self) -> Producer:
        # Idempotent, because a retried batch could otherwise be reordered.
        options = {"partitioner": "murmur2", "linger.ms": 5, "enable.idempotence": True}
        return Producer({"bootstrap.servers": self.bootstrap, **options})

    def _produce(self, producer: Producer, number: int) -> None:
        row = _reading(number % self.batteries, number // self.batteries)
        while True:
            try:
                producer.produce(TELEMETRY_TOPIC, reading_message(row), str(row["battery_id"]))
                return
            except BufferError:
                producer.poll(0.1)


def _battery_id(number: int) -> str:
    return f"EV-{number:04}"


def _reading(battery: int, index: int) -> Row:
    current = 60.0 * math.sin(index / 50 + battery)
    return {
        "battery_id": _battery_id(battery),
        "time": _START + timedelta(seconds=10.0 * index),
        "voltage": 360.125 - 0.05 * current,
        "current": current,
        "temperature": 25.0 + 5.0 * math.sin(index / 200),
        "soc": 50.0 + 30.0 * math.sin(index / 300),
        "ambient_temperature": 20.0,
        "charge_cycles": 100.0 + 1e-3 * index,
        "power_consumption": 360.0 * current,
        "is_charging": current < 0.0,
        "temperature_min": 23.5,
        "cell_voltage_min": 3.71234,
        "cell_voltage_max": 3.7512,
        "cell_voltage_median": 3.74,
        "insulation_resistance": 2000.0,
        "odometer_km": 12345.6 + 0.1 * index,
        "speed_kmh": 50.0,
    }


def _all_of(bootstrap: str, topic: str) -> Iterator[Any]:
    """Every message in `topic` up to its present end."""
    # Checksums in Python would dominate its time.
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, check_crcs=False)
    partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    left = sum(consumer.end_offsets(partitions).values())
    for message in consumer:
        yield message
        left -= 1
        if not left:
            break
    consumer.close()


def _parsed_a_second(bootstrap: str) -> float:
    messages = _all_of(bootstrap, TELEMETRY_TOPIC)
    json.loads(next(messages).value)
    began, count = time.perf_counter(), 0
    for message in messages:
        json.loads(message.value)
        count += 1
    return count / (time.perf_counter() - began)


def _lag_p99_s(bootstrap: str, newest: int) -> float:
    """99th percentile of the lag from message to prediction, s, by their Kafka timestamps; sent after it is stored.

    Args:
        newest: number of newest messages that are included.
    """
    sent = {(one["battery_id"], one["timestamp"]): at for one, at in _contents(bootstrap, TELEMETRY_TOPIC)}
    lags = {
        key: (at - sent[key], sent[key])
        for one, at in _contents(bootstrap, PREDICTIONS_TOPIC)
        if (key := (one["battery_id"], one["time"])) in sent
    }
    by_time = sorted(lags.values(), key=lambda lag: lag[1])[-newest:]
    return float(np.percentile([lag for lag, _ in by_time], 99)) / 1e3


def _contents(bootstrap: str, topic: str) -> Iterator[tuple[dict[str, Any], int]]:
    for message in _all_of(bootstrap, topic):
        yield json.loads(message.value), message.timestamp


@dataclass(frozen=True)
class _Scorer:
    """Running scorer, observed through its Prometheus metrics."""

    metrics_url: str

    def messages(self) -> float:
        """Number of scored messages."""
        try:
            lines = httpx.get(self.metrics_url, timeout=5).text.splitlines()
        except httpx.HTTPError:
            return 0.0
        return next((float(line.split()[1]) for line in lines if line.startswith("scorer_messages_total ")), 0.0)

    def wait_for(self, messages: int) -> None:
        """Wait until `messages` have been scored."""
        deadline = time.monotonic() + _WAIT_S
        while self.messages() < messages:
            assert time.monotonic() < deadline, "the scorer makes no progress"
            time.sleep(0.05)

    def drained_a_second(self, messages: int) -> float:
        """Messages per second from the first checkpoint, which builds the states, to the last."""
        self.wait_for(1)
        began, first = time.perf_counter(), self.messages()
        self.wait_for(messages)
        return (messages - first) / (time.perf_counter() - began)


@contextmanager
def _scorer(setup: _StreamSetup, folder: Path) -> Iterator[_Scorer]:
    port = unused_port()
    environment = setup.environment | {"TWIN_VAR": str(folder), "TWIN_SCORER_METRICS_PORT": str(port)}
    folder.mkdir()
    command: Sequence[str] = [sys.executable, "-m", "serving.stream"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=log, stderr=log)
        try:
            yield _Scorer(f"http://{setup.settings.host}:{port}/metrics")
        finally:
            process.terminate()
            process.wait(60)


def _forest_sizes(settings: Settings) -> str:
    """Number of trees and nodes of the released forests."""
    sizes = []
    for target, model in load_release(settings.domain, settings=settings).models.items():
        trees = _trees(model.path)
        sizes.append(f"{target} {len(trees)} trees, {sum(trees.values())} nodes")
    return "; ".join(sizes)


def _trees(path: Path) -> Counter[int]:
    """Number of nodes of each tree."""
    for node in onnx.load(str(path)).graph.node:
        for attribute in node.attribute:
            if attribute.name == "nodes_treeids":
                return Counter(attribute.ints)
    return Counter()
