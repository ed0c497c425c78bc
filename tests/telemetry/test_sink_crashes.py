"""Sinks whose destination is killed between `write` and `flush`: unacknowledged readings are delivered again."""

from __future__ import annotations

import gc
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest
from pydantic import SecretStr

from deploy.servers.install import DEBIAN
from deploy.servers.mosquitto import mosquitto
from deploy.servers.postgres import postgres
from deploy.servers.process import Server
from telemetry.batch import Batch, Row
from telemetry.kafka_client import client_options
from telemetry.settings import Settings
from telemetry.sinks.base import Sink, SinkUnavailableError
from telemetry.sinks.kafka import KafkaSink
from telemetry.sinks.mqtt import MqttSink
from telemetry.sinks.postgres import StoreSink
from tests.needs import need
from tests.telemetry.destinations import Subscriber, consumed

START = datetime(2026, 1, 1, tzinfo=UTC)


def rows(first: int, count: int = 200) -> list[Row]:
    return [
        {
            "battery_id": f"EV-{number % 7}",
            "time": START + timedelta(seconds=number),
            "voltage": float(number),
            "current": 1.0,
            "temperature": 20.0,
        }
        for number in range(first, first + count)
    ]


@dataclass(frozen=True)
class KillableDestination:
    """A destination that can be killed, and the voltages that have arrived there (for MQTT: since its restart)."""

    sink: Sink
    server: Server
    arrived: Callable[[], set[float]]
    restart: Callable[[], None]


def store(_: pytest.FixtureRequest, folder: Path) -> Iterator[KillableDestination]:
    need(DEBIAN["postgresql-15"])
    with postgres(folder / "postgres", durable=False) as running:

        def arrived() -> set[float]:
            connection = psycopg2.connect(running.dsn)
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT voltage FROM ev_telemetry")
                found = [voltage for (voltage,) in cursor.fetchall()]
            connection.close()
            assert len(found) == len(set(found))
            return set(found)

        yield KillableDestination(StoreSink(running.tcp_dsn), running.server, arrived, running.server.start)


def mqtt(_: pytest.FixtureRequest, folder: Path) -> Iterator[KillableDestination]:
    need(DEBIAN["mosquitto"], DEBIAN["openssl"])
    with mosquitto(folder / "mosquitto") as broker:
        settings = Settings(
            mqtt_host=broker.host,
            mqtt_port=broker.port,
            mqtt_username=broker.username,
            mqtt_password=SecretStr(broker.password),
        )
        subscribers: list[Subscriber] = []

        def restart() -> None:
            broker.server.start()
            subscribers.append(Subscriber(settings))

        def arrived() -> set[float]:
            subscribers[0].wait_for(2 * 800)
            return {float(str(message["voltage"])) for _, message in subscribers[0].messages}

        yield KillableDestination(MqttSink.from_settings(settings), broker.server, arrived, restart)
        for subscriber in subscribers:
            subscriber.close()


def kafka(request: pytest.FixtureRequest, _: Path) -> Iterator[KillableDestination]:
    broker = request.getfixturevalue("kafka_server")
    settings = Settings(kafka_bootstrap_servers=broker.bootstrap)
    topic = f"killed_{uuid.uuid4().hex}"

    def arrived() -> set[float]:
        return {float(str(message["voltage"])) for _, message in consumed(settings, topic)}

    try:
        yield KillableDestination(
            KafkaSink(client_options(settings), topic=topic, partitions=3, timeout_s=2.0),
            broker.server,
            arrived,
            broker.server.start,
        )
    finally:
        broker.server.start()  # other tests share it
        gc.collect()


@pytest.fixture(params=[store, mqtt, kafka])
def destination(request: pytest.FixtureRequest, server_folders: Path) -> Iterator[KillableDestination]:
    yield from request.param(request, server_folders / f"killed-{request.param.__name__}")


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # kafka-python leaves sockets to garbage collection
def test_unflushed_readings_are_delivered_after_the_destination_was_killed(destination: KillableDestination) -> None:
    sink = destination.sink
    sink.setup()
    sink.write(Batch(readings=rows(0)))
    sink.flush()
    acknowledged = sink.acknowledged
    sink.write(Batch(readings=rows(200)))
    destination.server.kill()
    for first in (400, 600, 800):
        with pytest.raises(SinkUnavailableError):
            write(sink, first)
    destination.restart()
    deadline = time.monotonic() + 30
    while True:
        try:
            for number in range(1, 5):
                write(sink, 200 * number)
            break
        except SinkUnavailableError:
            assert time.monotonic() < deadline
    assert sink.acknowledged > acknowledged
    assert destination.arrived() >= {float(number) for number in range(200, 1000)}
    sink.close()


def write(sink: Sink, first: int) -> None:
    sink.write(Batch(readings=rows(first)))
    sink.flush()
