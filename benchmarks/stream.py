"""The stream scorer from topic to stored predictions, against a consumer that only parses the same messages.

Broker, store and both peers share the cores of this machine; the broker and the store are durable.
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
from serving.stream.topics import connection, ensure_topics
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
    """Messages a second with the registry's champion, for 10, 100 and 1,000 batteries, and the lag at half of it."""
    settings = Settings()
    figures: list[dict[str, Any]] = []
    for batteries in (_BATTERIES, *_GROWTH):
        with tempfile.TemporaryDirectory(prefix="twin-bench-") as folder:
            figures += _figures(settings, Path(folder), batteries)
    for figure in figures:
        figure["note"] = _forests(settings)
    return figures


def _figures(settings: Settings, folder: Path, batteries: int) -> list[dict[str, Any]]:
    with kafka(folder / "kafka") as broker, embedded_postgres(folder / "postgres") as dsn:
        stage = _Stage(settings, broker.bootstrap, dsn, batteries)
        stage.prepare()
        stage.send(0, _MESSAGES)
        peer = [_parsed_a_second(broker.bootstrap)]
        with _scorer(stage, folder / "scorer") as scorer:
            value = scorer.drained_a_second(_MESSAGES)
            stage.check(_MESSAGES)
            peer.append(_parsed_a_second(broker.bootstrap))
            name = "stream" if batteries == _BATTERIES else f"stream_{batteries}_batteries"
            about = f"kafka-python consumer that only parses the JSON (checksums off), {batteries} batteries"
            figures = [_figure(name, value, "messages/s", about, sum(peer) / 2)]
            if batteries == _BATTERIES:
                sent = stage.send_steadily(_MESSAGES, value / 2, _LAG_S)
                scorer.wait_for(_MESSAGES + sent)
                lag_s = _lag_p99_s(broker.bootstrap, sent)
                about = f"what is allowed, at {value / 2:.0f} messages/s"
                figures.append(_figure("stream_lag_p99", lag_s, "s", about, _LAG_LIMIT_S))
    return figures


def _figure(name: str, value: float, unit: str, peer: str, peer_value: float) -> dict[str, Any]:
    ratio = value / peer_value
    return {"name": name, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value, "ratio": ratio}


@dataclass(frozen=True)
class _Stage:
    """A broker, a store and a fleet whose batteries have cycles behind them, so that all four targets are given."""

    settings: Settings
    bootstrap: str
    dsn: str
    batteries: int

    @property
    def environment(self) -> dict[str, str]:
        """Of a scorer on this stage."""
        return os.environ | {
            "TWIN_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "TWIN_TELEMETRY_DSN": self.dsn,
            "TWIN_MLFLOW_TRACKING_URI": self.settings.tracking_uri,
        }

    def prepare(self) -> None:
        """Make topics and tables, and store what batteries are made of and 20 cycles of each."""
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
        made = self.settings.model_copy(update={"kafka_bootstrap_servers": self.bootstrap})
        ensure_topics(connection(made), made.scorer_group, made.kafka_partitions)

    def send(self, first: int, count: int) -> None:
        """Messages `first` to `first + count` of the fleet, as fast as the broker takes them."""
        producer = self._producer()
        for number in range(first, first + count):
            self._produce(producer, number)
        producer.flush()

    def send_steadily(self, first: int, rate: float, for_s: float) -> int:
        """Send `rate` messages a second in steps of 20 ms; how many were sent."""
        producer = self._producer()
        began, sent = time.monotonic(), 0
        while (passed := time.monotonic() - began) < for_s:
            while sent < passed * rate:
                self._produce(producer, first + sent)
                sent += 1
            producer.poll(0.02)
        producer.flush()
        return sent

    def check(self, messages: int) -> None:
        """Every message has its four predictions in the store."""
        database = psycopg2.connect(self.dsn)
        with database, database.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM battery_predictions")
            (count,) = cursor.fetchone() or (0,)
        database.close()
        assert count == 4 * messages, f"{count} predictions are stored of {messages} messages"

    def _producer(self) -> Producer:
        # Idempotent: a first batch that is sent again would otherwise come after the second.
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


def _reading(battery: int, place: int) -> Row:
    current = 60.0 * math.sin(place / 50 + battery)
    return {
        "battery_id": _battery_id(battery),
        "time": _START + timedelta(seconds=10.0 * place),
        "voltage": 360.125 - 0.05 * current,
        "current": current,
        "temperature": 25.0 + 5.0 * math.sin(place / 200),
        "soc": 50.0 + 30.0 * math.sin(place / 300),
        "ambient_temperature": 20.0,
        "charge_cycles": 100.0 + 1e-3 * place,
        "power_consumption": 360.0 * current,
        "is_charging": current < 0.0,
        "temperature_min": 23.5,
        "cell_voltage_min": 3.71234,
        "cell_voltage_max": 3.7512,
        "cell_voltage_median": 3.74,
        "insulation_resistance": 2000.0,
        "odometer_km": 12345.6 + 0.1 * place,
        "speed_kmh": 50.0,
    }


def _all_of(bootstrap: str, topic: str) -> Iterator[Any]:
    """Every message that is in `topic` now."""
    # Checksums in Python would take most of its time.
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
    """From the time stamp of a message to that of its prediction, which is sent when it has been stored.

    Args:
        newest: look at so many of the newest messages only.
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
    """A running scorer, watched through its metrics."""

    metrics_url: str

    def messages(self) -> float:
        """How many it has scored."""
        try:
            lines = httpx.get(self.metrics_url, timeout=5).text.splitlines()
        except httpx.HTTPError:
            return 0.0
        return next((float(line.split()[1]) for line in lines if line.startswith("scorer_messages_total ")), 0.0)

    def wait_for(self, messages: int) -> None:
        """Until it has scored so many."""
        deadline = time.monotonic() + _WAIT_S
        while self.messages() < messages:
            assert time.monotonic() < deadline, "the scorer does not get on"
            time.sleep(0.05)

    def drained_a_second(self, messages: int) -> float:
        """The rate from its first checkpoint, which makes the states, to the last."""
        self.wait_for(1)
        began, first = time.perf_counter(), self.messages()
        self.wait_for(messages)
        return (messages - first) / (time.perf_counter() - began)


@contextmanager
def _scorer(stage: _Stage, folder: Path) -> Iterator[_Scorer]:
    port = unused_port()
    environment = stage.environment | {"TWIN_VAR": str(folder), "TWIN_SCORER_METRICS_PORT": str(port)}
    folder.mkdir()
    command: Sequence[str] = [sys.executable, "-m", "serving.stream"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=log, stderr=log)
        try:
            yield _Scorer(f"http://{stage.settings.host}:{port}/metrics")
        finally:
            process.terminate()
            process.wait(60)


def _forests(settings: Settings) -> str:
    """How large the released forests are."""
    sizes = []
    for target, model in load_release(settings.domain, settings=settings).models.items():
        trees = _trees(model.path)
        sizes.append(f"{target} {len(trees)} trees, {sum(trees.values())} nodes")
    return "; ".join(sizes)


def _trees(path: Path) -> Counter[int]:
    """Nodes by tree."""
    for node in onnx.load(str(path)).graph.node:
        for attribute in node.attribute:
            if attribute.name == "nodes_treeids":
                return Counter(attribute.ints)
    return Counter()
