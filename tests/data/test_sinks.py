"""The contract of a sink, which every entry of SINKS passes on the real thing."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import paho.mqtt.client as mqtt
import psycopg2
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import SecretStr

from data.batch import Batch
from data.embedded.mqtt_broker import embedded_mqtt_broker
from data.embedded.parts import embedded_parts
from data.embedded.ports import free_port
from data.errors import TwinError
from data.settings import Settings
from data.sinks import SINKS
from data.sinks.base import Sink, SinkUnavailableError
from data.sinks.mqtt import TOPIC, MqttSink
from data.wire import reading_message

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


class Subscriber:
    """Collects what a broker delivers, by topic."""

    def __init__(self, host: str, port: int) -> None:
        self.messages: list[tuple[str, dict[str, object]]] = []
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _c, _u, m: self.messages.append((m.topic, json.loads(m.payload)))
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect(host, port)
        self._client.loop_start()
        self._client.subscribe("ev/#", qos=1)
        assert self._subscribed.wait(5)

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 5
        while len(self.messages) < count and time.monotonic() < deadline:
            time.sleep(0.01)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@dataclass
class Harness:
    """A destination as a test sees it: the settings that name it, and what has arrived there."""

    name: str
    settings: Settings
    arrived: Callable[[], set[Key]]


@pytest.fixture(params=list(SINKS))
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    if request.param == "store":
        dsn: str = request.getfixturevalue("postgres_dsn")

        def stored() -> set[Key]:
            connection = psycopg2.connect(dsn)
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT battery_id, time, voltage FROM ev_telemetry")
                rows = cursor.fetchall()
            connection.close()
            assert len(rows) == len(set(rows))
            return {(battery_id, time.astimezone(UTC).isoformat(), voltage) for battery_id, time, voltage in rows}

        yield Harness("store", Settings(telemetry_dsn=SecretStr(dsn)), stored)
    elif request.param == "mqtt":
        host, port = request.getfixturevalue("mqtt_broker")
        subscriber = Subscriber(host, port)

        def received() -> set[Key]:
            subscriber.wait_for(2 * len(READINGS))
            return {
                (str(m["battery_id"]), str(m["timestamp"]).replace("Z", "+00:00"), float(str(m["voltage"])))
                for topic, m in subscriber.messages
                if topic == TOPIC
            }

        yield Harness("mqtt", Settings(mqtt_host=host, mqtt_port=port), received)
        subscriber.close()
    else:
        pytest.fail(f"the sink {request.param} has no harness: add one")


def test_what_was_flushed_has_arrived(harness: Harness) -> None:
    sink = SINKS[harness.name](harness.settings)
    sink.setup()
    sink.write(Batch(readings=READINGS))
    sink.flush()
    assert harness.arrived() == keys(READINGS)
    sink.close()


def test_setup_close_and_flush_may_be_repeated(harness: Harness) -> None:
    sink = SINKS[harness.name](harness.settings)
    sink.setup()
    sink.setup()
    sink.flush()
    sink.write(Batch(readings=READINGS))
    sink.flush()
    sink.flush()
    sink.close()
    sink.close()
    assert harness.arrived() == keys(READINGS)


def test_writing_again_adds_nothing_new(harness: Harness) -> None:
    sink = SINKS[harness.name](harness.settings)
    sink.setup()
    for _ in range(2):
        sink.write(Batch(readings=READINGS))
        sink.flush()
    assert harness.arrived() == keys(READINGS)
    sink.close()


def test_an_empty_batch_and_missing_values_are_fine(harness: Harness) -> None:
    sink = SINKS[harness.name](harness.settings)
    sink.setup()
    sink.write(Batch())
    sparse = [{**row, "soc": math.nan, "soh": None, "is_charging": math.nan} for row in READINGS]
    sink.write(Batch(readings=sparse))
    sink.flush()
    assert harness.arrived() == keys(READINGS)
    sink.close()


def test_every_table_is_accepted(harness: Harness) -> None:
    sink = SINKS[harness.name](harness.settings)
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


def test_a_sink_used_after_close_opens_again(harness: Harness) -> None:
    sink = SINKS[harness.name](harness.settings)
    sink.setup()
    sink.close()
    sink.write(Batch(readings=READINGS))
    sink.flush()
    assert harness.arrived() == keys(READINGS)
    sink.close()


@pytest.mark.parametrize("name", list(SINKS))
def test_an_unreachable_destination_says_so_soon(name: str) -> None:
    port = free_port("127.0.0.1", 18990)
    settings = Settings(
        telemetry_dsn=SecretStr(f"postgresql://twin:secret@127.0.0.1:{port}/twin"),
        mqtt_host="127.0.0.1",
        mqtt_port=port,
    )
    sink = SINKS[name](settings)
    began = time.monotonic()
    with pytest.raises(SinkUnavailableError) as caught:
        sink.setup()
    assert "secret" not in str(caught.value)
    with pytest.raises(SinkUnavailableError):
        deliver(sink)
    assert time.monotonic() - began < 10
    sink.close()


@pytest.mark.parametrize("name", list(SINKS))
def test_a_destination_that_is_not_named_is_asked_for(name: str) -> None:
    with pytest.raises(TwinError, match="TWIN_"):
        SINKS[name](Settings(telemetry_dsn=None, mqtt_host=None))


def test_mqtt_topics_and_message(mqtt_broker: tuple[str, int]) -> None:
    subscriber = Subscriber(*mqtt_broker)
    sink = MqttSink(*mqtt_broker)
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


def test_mqtt_goes_on_when_the_broker_is_back() -> None:
    """Nothing is acknowledged while the broker is away, everything after."""
    port = free_port("127.0.0.1", 18950)
    with embedded_mqtt_broker("127.0.0.1", port):
        sink = MqttSink("127.0.0.1", port, timeout_s=0.5)
        sink.setup()
    with pytest.raises(SinkUnavailableError, match="did not acknowledge"):
        deliver(sink)
    assert sink.acknowledged == 0
    with embedded_mqtt_broker("127.0.0.1", port):
        subscriber = Subscriber("127.0.0.1", port)
        deadline = time.monotonic() + 10
        while sink.acknowledged == 0 and time.monotonic() < deadline:
            try:
                sink.write(Batch(readings=READINGS))
                sink.flush()
            except SinkUnavailableError:
                time.sleep(0.2)
        subscriber.wait_for(2 * len(READINGS))
        assert {(m["battery_id"], m["timestamp"]) for _, m in subscriber.messages} == {
            (json.loads(reading_message(row))["battery_id"], json.loads(reading_message(row))["timestamp"])
            for row in READINGS
        }
        subscriber.close()
        sink.close()


def test_the_embedded_broker_stays_on_loopback() -> None:
    with pytest.raises(TwinError, match="loopback"), embedded_mqtt_broker("0.0.0.0", 18999):
        pass


def test_a_taken_port_is_a_sentence(mqtt_broker: tuple[str, int]) -> None:
    host, port = mqtt_broker
    with pytest.raises(TwinError, match=f"cannot listen on {host}:{port}"), embedded_mqtt_broker(host, port):
        pass
    assert free_port(host, port) > port


def test_embedded_parts_fill_only_the_gaps(server_folders: Path) -> None:
    named = Settings(
        var=server_folders, telemetry_dsn=SecretStr("postgresql://elsewhere"), mqtt_host="broker", mqtt_port=9
    )
    with embedded_parts(named) as parts:
        assert parts == named
    with embedded_parts(Settings(var=server_folders, mqtt_port=18970)) as parts:
        sinks = [make(parts) for make in SINKS.values()]
        for sink in sinks:
            sink.setup()
            sink.close()
