"""Sink that sends readings to Kafka as JSON, keyed by battery so that each battery stays on one partition, in order."""

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

from telemetry.batch import Batch, RowKind
from telemetry.errors import TwinError
from telemetry.kafka_client import TELEMETRY_TOPIC, client_options
from telemetry.settings import Settings
from telemetry.sinks.base import SinkOffError, SinkRefusedError, SinkUnavailableError
from telemetry.sinks.messages import reading_messages

#: Errors of one message, for which retrying is useless.  All others are errors of the connection or the brokers.
_REFUSED = (
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    InvalidRecordError,
    InvalidTimestampError,
    UnsupportedForMessageFormatError,
)
#: The brokers' default for the largest message.
_LARGEST_REQUEST_BYTES = 2**20
#: Upper bound of a message's size besides key and value.
_MESSAGE_OVERHEAD_BYTES = 100


class KafkaSink:
    """Sends readings through an idempotent producer and counts what all in-sync replicas have acknowledged.

    The producer's own retries never duplicate a message; messages that the caller writes again after an error may be on
    the topic twice, in order.

    Args:
        options: connection options, see `telemetry.kafka_client.client_options`.
        partitions: partitions of the topic, where it is created.
        timeout_s: longest time that a call waits for the brokers.
    """

    kinds: tuple[RowKind, ...] = ("reading",)

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
                "TWIN_KAFKA_BOOTSTRAP_SERVERS is not set: set it to the brokers to send to.",
                field="kafka_bootstrap_servers",
            )
        return cls(client_options(settings), partitions=settings.kafka_partitions)

    def setup(self) -> None:
        """Connect and create the topic where it does not exist."""
        producer = self._opened()
        with self._as_unavailable():
            self._create_topic()
            producer.partitions_for(self._topic)

    def write(self, batch: Batch) -> None:
        """Pass the readings to the producer; other kinds of rows have no topic."""
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
            # `close` alone first waits for messages that cannot be sent, then fails and leaves its thread running.
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
                # -1: the brokers' default replication factor.
                admin.create_topics({self._topic: {"num_partitions": self._partitions, "replication_factor": -1}})
        except TopicAlreadyExistsError:
            pass  # created by another client in between
        finally:
            admin.close()

    @contextmanager
    def _connecting(self) -> Iterator[Callable[..., KafkaNetClient]]:
        """Factory of a client's connections, which are closed if the client's constructor fails (it does not do so)."""
        created: list[KafkaNetClient] = []

        def connections(**options: Any) -> KafkaNetClient:
            created.append(KafkaNetClient(**options))
            return created[-1]

        try:
            with self._as_unavailable():
                yield connections
        except BaseException:
            for client in created:
                client.close()
            raise

    @contextmanager
    def _as_unavailable(self) -> Iterator[None]:
        """Translate Kafka's exceptions into sink errors; connection errors also discard the producer.

        Messages pending in the old producer would otherwise be sent later, between those that the caller writes again.
        """
        try:
            yield
        except _REFUSED as error:
            raise SinkRefusedError(f"Kafka refused a message for {self._topic}: {error}") from error
        except (KafkaConfigurationError, ValueError) as error:
            self.close()
            raise TwinError(f"Kafka cannot be used with these settings: {error}", field="kafka") from error
        except (AuthorizationError, PolicyViolationError) as error:
            self.close()
            raise SinkUnavailableError(f"Kafka at {self._servers} denied access: {error}") from error
        except (KafkaError, OSError) as error:
            self.close()
            raise SinkUnavailableError(f"Kafka at {self._servers} did not accept the batch: {error}") from error


def _check_size(battery_id: str, message: bytes) -> None:
    size = len(battery_id.encode()) + len(message) + _MESSAGE_OVERHEAD_BYTES
    if size > _LARGEST_REQUEST_BYTES:
        raise SinkRefusedError(
            f"A reading of {battery_id[:50]} is a message of {size} bytes; Kafka accepts {_LARGEST_REQUEST_BYTES}."
        )
