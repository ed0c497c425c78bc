"""Sink that publishes readings to an MQTT broker with QoS 1, on the fleet's topic and on the battery's topic."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from telemetry.batch import Batch, RowKind
from telemetry.settings import Settings
from telemetry.sinks.base import SinkOffError, SinkRefusedError, SinkUnavailableError
from telemetry.sinks.messages import reading_messages

TOPIC = "ev/battery/telemetry"
_QOS = 1
#: paho's default of 20 unacknowledged messages would make a tick of 10 batteries wait for the broker twice.
_IN_FLIGHT = 1000
#: Limit of a flush as a multiple of the timeout, also while the broker acknowledges messages.
_LONGEST_FLUSH = 12


class MqttSink:
    """Publishes readings and counts the messages that the broker has acknowledged.

    After an error the client is discarded: messages pending in it would be sent later, between those that the caller
    writes again, and accumulate while the broker is unavailable.

    Args:
        timeout_s: longest wait for a connection, and for the broker's next acknowledgement.
    """

    kinds: tuple[RowKind, ...] = ("reading",)

    def __init__(
        self,
        host: str,
        port: int,
        *,
        username: str | None = None,
        password: str | None = None,
        tls: bool = False,
        ca_file: Path | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        self._address = (host, port)
        self._login = (username, password)
        self._tls = tls
        self._ca_file = ca_file
        self._timeout_s = timeout_s
        self._client: mqtt.Client | None = None
        self._pending: list[mqtt.MQTTMessageInfo] = []
        self.acknowledged = 0

    @classmethod
    def from_settings(cls, settings: Settings) -> MqttSink:
        """The broker of TWIN_MQTT_HOST."""
        if settings.mqtt_host is None:
            raise SinkOffError("TWIN_MQTT_HOST is not set: set it to the broker to publish to.", field="mqtt_host")
        password = settings.mqtt_password
        return cls(
            settings.mqtt_host,
            settings.mqtt_port,
            username=settings.mqtt_username,
            password=None if password is None else password.get_secret_value(),
            tls=settings.mqtt_tls,
            ca_file=settings.mqtt_ca_file,
        )

    def setup(self) -> None:
        """Connect; the client's thread keeps the connection alive from then on."""
        self._connected()

    def write(self, batch: Batch) -> None:
        """Pass the readings to the client; other kinds of rows have no topic."""
        if not batch.readings:
            return
        messages = reading_messages(batch.readings)
        client = self._connected()
        for battery_id, message in messages:
            for topic in (TOPIC, f"{TOPIC}/{battery_id}"):
                try:
                    self._pending.append(client.publish(topic, message, qos=_QOS))
                except ValueError as error:
                    raise SinkRefusedError(f"MQTT accepts no message to {topic[:100]!r}: {error}") from error

    def flush(self) -> None:
        """Wait until the broker has acknowledged every message written."""
        pending, self._pending = self._pending, []
        last = time.monotonic() + _LONGEST_FLUSH * self._timeout_s
        for index, info in enumerate(pending):
            # Each acknowledgement restarts the timeout: the broker may be slow but available.
            if not _acknowledged(info, min(time.monotonic() + self._timeout_s, last)):
                self.close()
                raise SinkUnavailableError(f"{self._broker} did not acknowledge {len(pending) - index} messages.")
            self.acknowledged += 1

    def close(self) -> None:
        """Disconnect."""
        self._pending = []
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    @property
    def _broker(self) -> str:
        host, port = self._address
        return f"The MQTT broker at {host}:{port}"

    def _connected(self) -> mqtt.Client:
        """The connected client, with its thread running."""
        if self._client is not None and not self._client.is_connected():
            self.close()
        if self._client is None:
            client = self._new_client()
            try:
                client.connect(*self._address)
            except (OSError, ValueError) as error:
                raise SinkUnavailableError(f"{self._broker} cannot be reached: {error}") from error
            client.loop_start()
            self._client = client
            deadline = time.monotonic() + self._timeout_s
            while not client.is_connected():
                if time.monotonic() > deadline:
                    self.close()
                    raise SinkUnavailableError(f"{self._broker} did not accept the connection.")
                time.sleep(0.005)
        return self._client

    def _new_client(self) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        client.max_inflight_messages_set(_IN_FLIGHT)
        client.connect_timeout = self._timeout_s
        username, password = self._login
        if username is not None:
            client.username_pw_set(username, password)
        if self._tls:
            client.tls_set(ca_certs=None if self._ca_file is None else str(self._ca_file), cert_reqs=ssl.CERT_REQUIRED)
        return client


def _acknowledged(info: mqtt.MQTTMessageInfo, deadline: float) -> bool:
    # Published without a connection: paho queues the message and sends it later, but reports the code.
    if info.rc not in (mqtt.MQTT_ERR_SUCCESS, mqtt.MQTT_ERR_NO_CONN):
        return False
    try:
        info.wait_for_publish(max(deadline - time.monotonic(), 0.001))
    except RuntimeError:
        return False
    return info.is_published()
