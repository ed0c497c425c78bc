"""Sink: readings to Kafka, JSON with the battery as key, so that one battery stays on one partition and in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import (
    AuthorizationError,
    InvalidRecordError,
    InvalidTimestampError,
    KafkaConfigurationError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAlreadyExistsError,
    UnsupportedForMessageFormatError,
)
from kafka.net import KafkaNetClient

from telemetry.batch import Batch, Kind
from telemetry.errors import TwinError
from telemetry.kafka_client import TELEMETRY_TOPIC, client_options
from telemetry.settings import Settings
from telemetry.sinks.base import SinkOffError, SinkRefusedError, SinkUnavailableError
from telemetry.sinks.messages import reading_messages

#: Errors of one message: sending it again is useless.  All others are of the connection or the brokers.
_REFUSED = (
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    InvalidRecordError,
    InvalidTimestampError,
    UnsupportedForMessageFormatError,
)
#: The brokers' own default for the largest message.
_LARGEST_REQUEST_BYTES = 2**20
#: What a message takes besides key and value, at most.
_MESSAGE_OVERHEAD_BYTES = 100


class KafkaSink:
    """Sends readings through an idempotent producer and counts what all in-sync replicas have acknowledged.

    The producer never doubles a message by its own retries; what the caller writes again after an error may be on
    the topic twice, in order.

    Args:
        options: how to reach the brokers, see `telemetry.kafka_client.client_options`.
        partitions: of the topic, where it does not exist yet.
        timeout_s: longest that a call waits for the brokers.
    """

    kinds: tuple[Kind, ...] = ("reading",)

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        topic: str = TELEMETRY_TOPIC,
        partitions: int = 1,
        timeout_s: float = 5.0,
    ) -> None:
        self._options = dict(options)
        self._servers = ", ".join(self._options["bootstrap_servers"])
        self._topic = topic
        self._partitions = partitions
        self._timeout_s = timeout_s
        self._producer: KafkaProducer | None = None
        self._pending: list[Any] = []
        self.acknowledged = 0

    @classmethod
    def from_settings(cls, settings: Settings) -> KafkaSink:
        """The brokers of TWIN_KAFKA_BOOTSTRAP_SERVERS."""
        if settings.kafka_bootstrap_servers is None:
            raise SinkOffError(
                "TWIN_KAFKA_BOOTSTRAP_SERVERS is not set: name the brokers to send to.", field="kafka_bootstrap_servers"
            )
        return cls(client_options(settings), partitions=settings.kafka_partitions)

    def setup(self) -> None:
        """Connect, and create the topic where it does not exist."""
        producer = self._opened()
        with self._as_unavailable():
            self._create_topic()
            producer.partitions_for(self._topic)

    def write(self, batch: Batch) -> None:
        """Hand the readings to the producer; tables other than readings have no topic here."""
        if not batch.readings:
            return
        messages = reading_messages(batch.readings)
        for battery_id, message in messages:
            _check_size(battery_id, message)
        producer = self._opened()
        with self._as_unavailable():
            for battery_id, message in messages:
                self._pending.append(producer.send(self._topic, message, key=battery_id.encode()))

    def flush(self) -> None:
        """Wait until the brokers have acknowledged every message written."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        deadline = time.monotonic() + self._timeout_s
        with self._as_unavailable():
            self._opened().flush(timeout=self._timeout_s)
        refused = None
        for future in pending:
            try:
                with self._as_unavailable():
                    future.get(timeout=max(deadline - time.monotonic(), 0.001))
            except SinkRefusedError as error:
                refused = error
            else:
                self.acknowledged += 1
        if refused is not None:
            raise refused

    def close(self) -> None:
        """Disconnect."""
        self._pending = []
        if self._producer is not None:
            producer, self._producer = self._producer, None
            # `close` alone first waits for what cannot be sent, then fails and leaves its thread running.
            producer._sender.force_close()
            with suppress(KafkaError):
                producer.close(timeout=self._timeout_s)

    def _opened(self) -> KafkaProducer:
        if self._producer is None:
            timeout_ms = int(self._timeout_s * 1000)
            with self._connecting() as connections:
                self._producer = KafkaProducer(
                    **self._options,
                    kafka_client=connections,
                    client_id="battery-twin",
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=5,
                    batch_size=2**16,
                    max_request_size=_LARGEST_REQUEST_BYTES,
                    bootstrap_timeout_ms=timeout_ms,
                    request_timeout_ms=timeout_ms,
                    max_block_ms=timeout_ms,
                    delivery_timeout_ms=timeout_ms + 5,
                    reconnect_backoff_max_ms=1000,
                )
        return self._producer

    def _create_topic(self) -> None:
        with self._connecting() as connections:
            admin = KafkaAdminClient(
                **self._options,
                kafka_client=connections,
                client_id="battery-twin",
                bootstrap_timeout_ms=int(self._timeout_s * 1000),
                request_timeout_ms=int(self._timeout_s * 1000),
            )
        try:
            if self._topic not in admin.list_topics():
                # -1: as many replicas as the brokers say.
                admin.create_topics({self._topic: {"num_partitions": self._partitions, "replication_factor": -1}})
        except TopicAlreadyExistsError:
            pass  # another client was faster
        finally:
            admin.close()

    @contextmanager
    def _connecting(self) -> Iterator[Callable[..., KafkaNetClient]]:
        """Makes a client's connections, and closes them should the client itself not come about: it would not."""
        made: list[KafkaNetClient] = []

        def connections(**options: Any) -> KafkaNetClient:
            made.append(KafkaNetClient(**options))
            return made[-1]

        try:
            with self._as_unavailable():
                yield connections
        except BaseException:
            for client in made:
                client.close()
            raise

    @contextmanager
    def _as_unavailable(self) -> Iterator[None]:
        """Turn Kafka's errors into a sink's; after one of the connection the producer is made anew.

        What waits in a producer would otherwise be sent later, in between what the caller writes again.
        """
        try:
            yield
        except _REFUSED as error:
            raise SinkRefusedError(f"Kafka refused a message for {self._topic}: {error}") from error
        except (KafkaConfigurationError, ValueError) as error:
            self.close()
            raise TwinError(f"Kafka cannot be used as the settings say: {error}", field="kafka") from error
        except (AuthorizationError, PolicyViolationError) as error:
            self.close()
            raise SinkUnavailableError(f"Kafka at {self._servers} does not allow it: {error}") from error
        except (KafkaError, OSError) as error:
            self.close()
            raise SinkUnavailableError(f"Kafka at {self._servers} did not take the batch: {error}") from error


def _check_size(battery_id: str, message: bytes) -> None:
    size = len(battery_id.encode()) + len(message) + _MESSAGE_OVERHEAD_BYTES
    if size > _LARGEST_REQUEST_BYTES:
        raise SinkRefusedError(
            f"A reading of {battery_id[:50]} is {size} bytes as a message, and Kafka takes {_LARGEST_REQUEST_BYTES}."
        )
