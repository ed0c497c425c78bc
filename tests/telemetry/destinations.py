"""Reads messages back from MQTT and Kafka brokers, for tests."""

from __future__ import annotations

import json
import threading
import time

import paho.mqtt.client as mqtt
from kafka import KafkaConsumer, TopicPartition
from paho.mqtt.enums import CallbackAPIVersion

from telemetry.kafka_client import client_options
from telemetry.settings import Settings


class Subscriber:
    """Collects the messages of an MQTT broker, by topic."""

    def __init__(self, settings: Settings) -> None:
        self.messages: list[tuple[str, dict[str, object]]] = []
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _c, _u, m: self.messages.append((m.topic, json.loads(m.payload)))
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        if settings.mqtt_password is not None:
            self._client.username_pw_set(settings.mqtt_username, settings.mqtt_password.get_secret_value())
        if settings.mqtt_tls:
            self._client.tls_set(ca_certs=str(settings.mqtt_ca_file))
        assert settings.mqtt_host is not None
        self._client.connect(settings.mqtt_host, settings.mqtt_port)
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


def consumed(settings: Settings, topic: str) -> list[tuple[str, dict[str, object]]]:
    """Key and message of all records on `topic`, partition by partition."""
    consumer = KafkaConsumer(**client_options(settings), enable_auto_commit=False, metadata_max_age_ms=100)
    try:
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        found = []
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for records in consumer.poll(timeout_ms=500).values():
                found += [(record.key.decode(), json.loads(record.value)) for record in records]
        return found
    finally:
        consumer.close()
