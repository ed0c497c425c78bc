"""The sink protocol, tested for every entry of SINKS on real servers."""

from __future__ import annotations

import gc
import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest
from pydantic import SecretStr

from telemetry.batch import Batch
from telemetry.embedded.mqtt_broker import embedded_mqtt_broker, ensure_mqtt_broker
from telemetry.embedded.ports import free_port
from telemetry.embedded.postgres import ensure_telemetry_store
from telemetry.errors import TwinError
from telemetry.kafka_client import client_options
from telemetry.settings import Settings
from telemetry.sinks import SINKS, make_sinks
from telemetry.sinks.base import Sink, SinkRefusedError, SinkUnavailableError
from telemetry.sinks.kafka import KafkaSink
from telemetry.sinks.mqtt import TOPIC, MqttSink
from telemetry.sinks.postgres import StoreSink
from telemetry.stores.migrate import migrate
from telemetry.wire import reading_message
from tests.telemetry.destinations import Subscriber, consumed

START = datetime(2026, 1, 1, tzinfo=UTC)
Key = tuple[str, str, float]


def reading(battery: int, second: int, **more: object) -> dict[str, object]:
    return {
        "battery_id": f"EV-{battery}",
        "time": START + timedelta(seconds=second),
        "voltage": 350.0 + second,
        "current": 1.0,
        "temperature": 20.0,
        **more,
    }


READINGS = [reading(battery, second) for second in range(5) for battery in range(3)]


def deliver(sink: Sink) -> None:
    sink.write(Batch(readings=READINGS))
    sink.flush()


def keys(rows: list[dict[str, object]]) -> set[Key]:
    return {(str(row["battery_id"]), row["time"].isoformat(), float(str(row["voltage"]))) for row in rows}  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Harness:
    """A sink and the readings that have arrived at its destination."""

    sink: Sink
    arrived: Callable[[], set[Key]]


def stored(dsn: str) -> set[Key]:
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT battery_id, time, voltage FROM ev_telemetry")
        rows = cursor.fetchall()
    connection.close()
    assert len(rows) == len(set(rows))
    return {(battery_id, time.astimezone(UTC).isoformat(), voltage) for battery_id, time, voltage in rows}


def message_keys(messages: list[dict[str, object]]) -> set[Key]:
    return {
        (str(m["battery_id"]), str(m["timestamp"]).replace("Z", "+00:00"), float(str(m["voltage"]))) for m in messages
    }


Destination = Callable[[pytest.FixtureRequest], Iterator[Harness]]


def embedded_store(request: pytest.FixtureRequest) -> Iterator[Harness]:
    dsn: str = request.getfixturevalue("postgres_dsn")
    yield Harness(StoreSink.from_settings(Settings(telemetry_dsn=SecretStr(dsn))), lambda: stored(dsn))


def store_of(fixture: str) -> Destination:
    def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
        server: str = request.getfixturevalue(fixture)
        dsn = request.getfixturevalue("new_database")(server)
        yield Harness(StoreSink(dsn), lambda: stored(dsn))

    return harness


def amqtt(request: pytest.FixtureRequest) -> Iterator[Harness]:
    host, port = request.getfixturevalue("mqtt_broker")
    yield from mqtt_harness(Settings(mqtt_host=host, mqtt_port=port))


def mosquitto(request: pytest.FixtureRequest) -> Iterator[Harness]:
    broker = request.getfixturevalue("mosquitto")
    yield from mqtt_harness(
        Settings(
            mqtt_host=broker.host,
            mqtt_port=broker.port,
            mqtt_username=broker.username,
            mqtt_password=SecretStr(broker.password),
        )
    )


def mosquitto_tls(request: pytest.FixtureRequest) -> Iterator[Harness]:
    broker = request.getfixturevalue("mosquitto")
    yield from mqtt_harness(
        Settings(
            mqtt_host=broker.host,
            mqtt_port=broker.tls_port,
            mqtt_tls=True,
            mqtt_ca_file=broker.ca_file,
            mqtt_username=broker.username,
            mqtt_password=SecretStr(broker.password),
        )
    )


def mqtt_harness(settings: Settings) -> Iterator[Harness]:
    subscriber = Subscriber(settings)

    def received() -> set[Key]:
        subscriber.wait_for(2 * len(READINGS))
        return message_keys([message for topic, message in subscriber.messages if topic == TOPIC])

    yield Harness(MqttSink.from_settings(settings), received)
    subscriber.close()


def kafka(request: pytest.FixtureRequest) -> Iterator[Harness]:
    settings = Settings(kafka_bootstrap_servers=request.getfixturevalue("kafka_bootstrap"))
    topic = f"readings_{uuid.uuid4().hex}"
    sink = KafkaSink(client_options(settings), topic=topic, partitions=3)
    yield Harness(sink, lambda: message_keys([message for _, message in consumed(settings, topic)]))


#: Every sink on every supported server.
DESTINATIONS: dict[str, tuple[str, Destination]] = {
    "embedded": ("store", embedded_store),
    "postgresql-15": ("store", store_of("postgres15_dsn")),
    "timescaledb": ("store", store_of("timescaledb_dsn")),
    "amqtt": ("mqtt", amqtt),
    "mosquitto": ("mqtt", mosquitto),
    "mosquitto-tls": ("mqtt", mosquitto_tls),
    "kafka": ("kafka", kafka),
}


@pytest.fixture(params=DESTINATIONS)
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    _, destination = DESTINATIONS[request.param]
    yield from destination(request)


def test_every_sink_has_a_test_destination() -> None:
    assert {sink for sink, _ in DESTINATIONS.values()} == set(SINKS)


def test_flushed_readings_have_arrived(harness: Harness) -> None:
    sink = harness.sink
    sink.setup()
    sink.write(Batch(readings=READINGS))
    sink.flush()
    assert harness.arrived() == keys(READINGS)
    sink.close()


def test_setup_close_and_flush_are_idempotent(harness: Harness) -> None:
    sink = harness.sink
    sink.setup()
    sink.setup()
    sink.flush()
    sink.write(Batch(readings=READINGS))
    sink.flush()
    sink.flush()
    sink.close()
    sink.close()
    assert harness.arrived() == keys(READINGS)


def test_repeated_write_adds_no_new_readings(harness: Harness) -> None:
    sink = harness.sink
    sink.setup()
    for _ in range(2):
        sink.write(Batch(readings=READINGS))
        sink.flush()
    assert harness.arrived() == keys(READINGS)
    sink.close()


def test_empty_batches_and_missing_values_are_accepted(harness: Harness) -> None:
    sink = harness.sink
    sink.setup()
    sink.write(Batch())
    sparse = [{**row, "soc": math.nan, "soh": None, "is_charging": math.nan} for row in READINGS]
    sink.write(Batch(readings=sparse))
    sink.flush()
    assert harness.arrived() == keys(READINGS)
    sink.close()


def test_every_kind_of_row_is_accepted(harness: Harness) -> None:
    sink = harness.sink
    sink.setup()
    sink.write(
        Batch(
            readings=READINGS,
            predictions=[
                {
                    "battery_id": "EV-1",
                    "time": START,
                    "target": "soh",
                    "value": 90.0,
                    "role": "champion",
                    "predicted_at": START,
                }
            ],
            batteries=[{"battery_id": "EV-1", "chemistry": "NMC"}],
            cycles=[{"battery_id": "EV-1", "cycle_index": 3.0, "kind": "charge"}],
        )
    )
    sink.flush()
    assert harness.arrived() == keys(READINGS)
    sink.close()


def test_sink_reconnects_when_used_after_close(harness: Harness) -> None:
    sink = harness.sink
    sink.setup()
    sink.close()
    sink.write(Batch(readings=READINGS))
    sink.flush()
    assert harness.arrived() == keys(READINGS)
    sink.close()


UNREACHABLE: dict[str, Callable[[int], Sink]] = {
    "store": lambda port: StoreSink(f"postgresql://twin:secret@127.0.0.1:{port}/twin"),
    "mqtt": lambda port: MqttSink("127.0.0.1", port, username="twin", password="secret"),
    "kafka": lambda port: KafkaSink({"bootstrap_servers": [f"127.0.0.1:{port}"]}, timeout_s=1.0),
}


@pytest.mark.parametrize("name", list(SINKS))
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # kafka-python leaves the socket to garbage collection
def test_unreachable_destination_fails_within_seconds_and_leaves_no_thread(name: str) -> None:
    sink = UNREACHABLE[name](free_port("127.0.0.1", 18990))
    threads = set(threading.enumerate())
    began = time.monotonic()
    with pytest.raises(SinkUnavailableError) as caught:
        sink.setup()
    assert "secret" not in str(caught.value)
    with pytest.raises(SinkUnavailableError):
        deliver(sink)
    assert time.monotonic() - began < 10
    sink.close()
    assert set(threading.enumerate()) <= threads
    assert sink.acknowledged == 0
    gc.collect()


@pytest.mark.parametrize("name", list(SINKS))
def test_unconfigured_destination_is_off_with_a_reason(name: str) -> None:
    settings = Settings(telemetry_dsn=None, mqtt_host=None, kafka_bootstrap_servers=None)
    with pytest.raises(TwinError, match="TWIN_"):
        SINKS[name](settings)
    sinks, off = make_sinks(settings)
    assert sinks == {}
    assert "TWIN_" in off[name]


def test_only_configured_sinks_are_created() -> None:
    sinks, off = make_sinks(Settings(telemetry_dsn=None, mqtt_host="broker", kafka_bootstrap_servers=None))
    assert list(sinks) == ["mqtt"]
    assert list(off) == ["store", "kafka"]


@pytest.mark.parametrize("name", ["embedded", "mosquitto", "kafka"])
def test_batch_with_an_invalid_reading_is_refused_and_the_next_is_accepted(
    name: str, request: pytest.FixtureRequest
) -> None:
    for harness in DESTINATIONS[name][1](request):
        sink = harness.sink
        sink.setup()
        with pytest.raises(SinkRefusedError):
            sink.write(Batch(readings=[*READINGS, {**READINGS[0], "voltage": "high"}]))
        deliver(sink)
        assert harness.arrived() == keys(READINGS)
        sink.close()


def test_unmigrated_store_is_unavailable_and_does_not_refuse_readings(postgres_dsn: str) -> None:
    sink = StoreSink(postgres_dsn)
    with pytest.raises(SinkUnavailableError, match="does not exist"):
        deliver(sink)
    migrate(postgres_dsn)
    deliver(sink)
    assert stored(postgres_dsn) == keys(READINGS)
    sink.close()


@pytest.mark.parametrize("reading_of", ["a battery of another pattern", "x" * 5000])
def test_store_refuses_rows_that_violate_its_constraints(postgres_dsn: str, reading_of: str) -> None:
    sink = StoreSink(postgres_dsn)
    sink.setup()
    with pytest.raises(SinkRefusedError, match="refused"):
        sink.write(Batch(readings=[{**READINGS[0], "battery_id": reading_of}]))
    sink.close()


def test_kafka_key_message_and_order(kafka_bootstrap: str) -> None:
    settings = Settings(kafka_bootstrap_servers=kafka_bootstrap)
    topic = f"readings_{uuid.uuid4().hex}"
    sink = KafkaSink(client_options(settings), topic=topic, partitions=3)
    sink.setup()
    for second in range(50):
        sink.write(Batch(readings=[reading(battery, second, soc=math.nan) for battery in range(5)]))
    sink.flush()
    assert sink.acknowledged == 250
    messages = consumed(settings, topic)
    assert all(key == message["battery_id"] for key, message in messages)
    for battery in range(5):
        times = [message["timestamp"] for key, message in messages if key == f"EV-{battery}"]
        assert times == sorted(times)
        assert len(times) == 50
    assert "soc" not in messages[0][1]
    sink.close()


def test_kafka_sink_refuses_a_batch_with_a_too_large_message(kafka_bootstrap: str) -> None:
    settings = Settings(kafka_bootstrap_servers=kafka_bootstrap)
    topic = f"readings_{uuid.uuid4().hex}"
    sink = KafkaSink(client_options(settings), topic=topic)
    sink.setup()
    with pytest.raises(SinkRefusedError, match="1048576"):
        sink.write(Batch(readings=[*READINGS, reading(0, 9) | {"battery_id": "x" * 2_000_000}]))
    sink.flush()
    assert consumed(settings, topic) == []
    sink.close()


def test_invalid_kafka_settings_are_an_error() -> None:
    half = Settings(kafka_bootstrap_servers="broker:9092", kafka_security_protocol="SASL_SSL", kafka_username="me")
    with pytest.raises(TwinError, match="TWIN_KAFKA_PASSWORD"):
        KafkaSink.from_settings(half)
    options = client_options(half.model_copy(update={"kafka_password": SecretStr("s3cret")}))
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    with pytest.raises(TwinError, match="TWIN_KAFKA_BOOTSTRAP_SERVERS"):
        client_options(Settings(kafka_bootstrap_servers=" , "))


def test_mosquitto_refuses_a_missing_or_wrong_password(request: pytest.FixtureRequest) -> None:
    broker = request.getfixturevalue("mosquitto")
    for password in (None, "wrong"):
        sink = MqttSink(broker.host, broker.port, username=broker.username, password=password, timeout_s=1.0)
        with pytest.raises(SinkUnavailableError):
            sink.setup()
        sink.close()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # paho leaves the socket to garbage collection
def test_broker_with_an_untrusted_certificate_is_refused(request: pytest.FixtureRequest) -> None:
    broker = request.getfixturevalue("mosquitto")
    sink = MqttSink(broker.host, broker.tls_port, username=broker.username, password=broker.password, tls=True)
    with pytest.raises(SinkUnavailableError, match="certificate"):
        sink.setup()
    sink.close()
    del sink
    gc.collect()


def test_mqtt_topics_and_message(mqtt_broker: tuple[str, int]) -> None:
    host, port = mqtt_broker
    subscriber = Subscriber(Settings(mqtt_host=host, mqtt_port=port))
    sink = MqttSink(host, port)
    sink.setup()
    sink.write(Batch(readings=[reading(7, 0, soc=math.nan, is_charging=1.0, note="not in the contract")]))
    sink.flush()
    subscriber.wait_for(2)
    message = {
        "battery_id": "EV-7",
        "timestamp": "2026-01-01T00:00:00Z",
        "voltage": 350.0,
        "current": 1.0,
        "temperature": 20.0,
        "is_charging": True,
    }
    assert sorted(subscriber.messages, key=lambda pair: pair[0]) == [(TOPIC, message), (f"{TOPIC}/EV-7", message)]
    assert sink.acknowledged == 2
    sink.close()
    subscriber.close()


def test_mqtt_sink_resumes_after_a_broker_restart() -> None:
    """Nothing is acknowledged while the broker is unavailable; afterwards only newly written readings are sent."""
    port = free_port("127.0.0.1", 18950)
    with embedded_mqtt_broker("127.0.0.1", port):
        sink = MqttSink("127.0.0.1", port, timeout_s=0.5)
        sink.setup()
        sink.write(Batch(readings=READINGS[:3]))
        sink.flush()
    acknowledged = sink.acknowledged
    for _ in range(3):
        with pytest.raises(SinkUnavailableError):
            deliver(sink)
    assert sink.acknowledged == acknowledged == 6
    with embedded_mqtt_broker("127.0.0.1", port):
        subscriber = Subscriber(Settings(mqtt_host="127.0.0.1", mqtt_port=port))
        deliver(sink)
        subscriber.wait_for(2 * len(READINGS))
        time.sleep(0.2)
        expected = [json.loads(reading_message(row)) for row in READINGS for _ in range(2)]
        assert sorted((m["battery_id"], m["timestamp"]) for _, m in subscriber.messages) == sorted(
            (m["battery_id"], m["timestamp"]) for m in expected
        )
        subscriber.close()
        sink.close()


def test_embedded_broker_listens_on_loopback_only() -> None:
    with pytest.raises(TwinError, match="loopback"), embedded_mqtt_broker("0.0.0.0", 18999):
        pass


def test_port_in_use_is_an_error(mqtt_broker: tuple[str, int]) -> None:
    host, port = mqtt_broker
    with pytest.raises(TwinError, match=f"cannot listen on {host}:{port}"), embedded_mqtt_broker(host, port):
        pass
    assert free_port(host, port) > port


def test_embedded_servers_are_started_only_where_none_is_configured(server_folders: Path) -> None:
    named = Settings(
        var=server_folders, telemetry_dsn=SecretStr("postgresql://elsewhere"), mqtt_host="broker", mqtt_port=9
    )
    with ensure_telemetry_store(named) as stored, ensure_mqtt_broker(stored) as settings:
        assert settings == named
    unnamed = Settings(var=server_folders, mqtt_port=18970)
    with ensure_telemetry_store(unnamed) as stored, ensure_mqtt_broker(stored) as settings:
        sinks, off = make_sinks(settings)
        assert list(off) == ["kafka"], "there is no embedded Kafka"
        for sink in sinks.values():
            sink.setup()
            sink.close()
