"""Configures and runs the Quix Streams application of the stream scorer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

from confluent_kafka import TopicPartition
from quixstreams import Application, State
from quixstreams.kafka import ConnectionConfig

from serving.scorer import ScorerSource
from serving.state_restore import StateRestorer
from serving.stream.checkpoint import CheckpointSink
from serving.stream.message_parser import ParserLimits
from serving.stream.partition_check import PartitionCheck
from serving.stream.producer import PredictionProducer
from serving.stream.scorer_metrics import StreamMetrics
from serving.stream.topics import broker_config, ensure_topics, partition_statistics
from telemetry.kafka_client import TELEMETRY_TOPIC
from telemetry.settings import Settings
from telemetry.sinks.postgres import StoreSink
from telemetry.stores.connection import StoreConnection

#: A consumer that does not poll for this long loses its partitions to another consumer.
_MAX_POLL_S = 600.0
#: Time limit for restoring states in a checkpoint; the rest of `_MAX_POLL_S` is for scoring and storing.
_RESTORE_S = 60.0
#: Longest wait for a message, by which a due checkpoint can be delayed.
_POLL_S = 0.05
_STATISTICS_S = 2.0


def run_stream(settings: Settings, scorer_source: ScorerSource, metrics: StreamMetrics) -> None:
    """Score until SIGTERM or SIGINT, then commit the last checkpoint.

    Raises:
        TwinError: the settings lack the brokers, or the store has another schema version.
        quixstreams.exceptions.QuixException, confluent_kafka.KafkaException: the brokers were unavailable for too
            long, or the partitions were assigned to another consumer; uncommitted messages are read again.
    """
    brokers = broker_config(settings)
    check = PartitionCheck(ensure_topics(brokers, settings.scorer_group, settings.kafka_partitions))

    def on_statistics(statistics: str) -> None:
        partitions = partition_statistics(statistics)
        metrics.set_consumer_lag(partitions)
        check.partitions = max(check.partitions, len(partitions))  # Kafka adds partitions, and never removes one

    app = _application(settings, brokers, on_statistics)
    dsn = None if settings.telemetry_dsn is None else settings.telemetry_dsn.get_secret_value()
    with ExitStack() as stack:
        history = StoreConnection(dsn, "battery-twin-scorer", statement_timeout_s=None) if dsn else None
        sink = CheckpointSink(
            scorer_source,
            stack.enter_context(closing(StateRestorer(history, _RESTORE_S))),
            stack.enter_context(closing(StoreSink(dsn))) if dsn else None,
            PredictionProducer(brokers),
            ParserLimits(settings.scorer_message_bytes, settings.max_future_s),
            check,
            metrics,
            stores_readings=settings.scorer_stores_readings,
        )
        messages = app.dataframe(app.topic(TELEMETRY_TOPIC, value_deserializer="bytes", key_deserializer="bytes"))
        messages.apply(_with_state, stateful=True, metadata=True).sink(sink)
        app.run()


class _Application(Application):
    def _on_lost(self, consumer: object, topic_partitions: list[TopicPartition]) -> None:
        # Partitions are paused while the store is unavailable.  If they are lost, Quix Streams drops its record of the
        # pause but librdkafka does not, so that they would stay paused after the next assignment.
        self._consumer.resume(list(self._consumer.backpressured_tps))
        super()._on_lost(consumer, topic_partitions)


def _with_state(value: bytes | None, _key: object, _timestamp: int, _headers: object, state: State[str, bytes]) -> Any:
    return value, state


def _application(settings: Settings, brokers: ConnectionConfig, on_statistics: Callable[[str], None]) -> Application:
    return _Application(
        brokers,
        consumer_group=settings.scorer_group,
        auto_offset_reset="earliest",
        commit_interval=settings.scorer_checkpoint_s,
        commit_every=settings.scorer_checkpoint_messages,
        consumer_poll_timeout=_POLL_S,
        state_dir=settings.var / "scorer",
        loglevel=None,
        consumer_extra_config={
            "session.timeout.ms": int(settings.scorer_session_s * 1e3),
            "max.poll.interval.ms": int(_MAX_POLL_S * 1e3),
            "statistics.interval.ms": int(_STATISTICS_S * 1e3),
            "stats_cb": on_statistics,
        },
        # States compress well.
        producer_extra_config={"compression.type": "lz4", "linger.ms": 5},
    )
