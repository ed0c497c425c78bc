"""Kafka producer of predictions and dead letters whose `flush` waits for the acknowledgement of all messages."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException, Message
from quixstreams.kafka import ConnectionConfig, Producer

from telemetry.sinks.base import SinkUnavailableError

_SETTINGS = {
    "enable.idempotence": True,
    # gzip is the only compression that all clients can read without an additional library.
    "compression.type": "gzip",
    "compression.level": 1,
    "linger.ms": 5,
    # Delivery reports of thousands of messages would cost more than sending them.
    "delivery.report.only.error": True,
}


class PredictionProducer:
    """Sends messages; `flush` returns when all of them are acknowledged."""

    def __init__(self, brokers: ConnectionConfig, timeout_s: float = 30.0) -> None:
        self._producer = Producer(brokers, extra_config=_SETTINGS)
        self._timeout_s = timeout_s
        self._error: KafkaError | None = None

    def send(self, topic: str, messages: Iterable[tuple[str | bytes, bytes]]) -> None:
        """Send `messages`, pairs of key and content, asynchronously.

        Raises:
            SinkUnavailableError: the producer does not accept messages, e.g. because its queue is full.
        """
        try:
            for key, content in messages:
                self._producer.produce(topic, content, key, on_delivery=self._on_delivery)
        except (BufferError, KafkaException) as error:
            raise self._failure(error) from error

    def flush(self) -> None:
        """Wait until the brokers have acknowledged all messages.

        Raises:
            SinkUnavailableError: they have not; all messages have to be sent again, and some may arrive twice.
        """
        missing = self._producer.flush(self._timeout_s)
        if missing or self._error is not None:
            raise self._failure(self._error or f"{missing} messages are not acknowledged")

    def _failure(self, reason: object) -> SinkUnavailableError:
        self._producer.purge()  # type: ignore[no-untyped-call]
        self._producer.poll(0)  # consumes the delivery reports of the purged messages
        self._error = None
        return SinkUnavailableError(f"Kafka did not accept the messages: {reason}")

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        self._error = error or self._error
