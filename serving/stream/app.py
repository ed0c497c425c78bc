"""The Quix Streams application around the checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import TopicPartition
from quixstreams import Application, State
from quixstreams.kafka import ConnectionConfig

from serving.stream.checkpoint import CheckpointSink, Releases
from serving.stream.checkpoint_states import NoHistory, States
from serving.stream.message_parser import Limits
from serving.stream.producer import PredictionProducer
from serving.stream.scorer_metrics import StreamMetrics
from serving.stream.state_restore import Past
from serving.stream.topics import connection, ensure_topics
from telemetry.kafka_client import TELEMETRY_TOPIC
from telemetry.settings import Settings
from telemetry.sinks.postgres import StoreSink

#: A consumer that does not ask for messages for so long loses its batteries to another.
_MAX_POLL_S = 600.0
#: So long a checkpoint may rebuild states; the rest of that time is for predicting, storing and a slow store.
_REBUILD_S = 60.0
#: How long one look for a message may hold up a checkpoint that is due.
_POLL_S = 0.05
_STATISTICS_S = 2.0


def run_stream(settings: Settings, releases: Releases, metrics: StreamMetrics) -> None:
    """Score until SIGTERM or SIGINT, and commit what was done.

    Raises:
        TwinError: the settings do not say how to reach the brokers, or the store is of another version.
        quixstreams.exceptions.QuixException, confluent_kafka.KafkaException: the brokers were away for too long or
            have given the batteries to another; what was not committed will be read again.
    """
    brokers = connection(settings)
    ensure_topics(brokers, settings.scorer_group, settings.kafka_partitions)
    app = _application(settings, brokers, metrics.on_statistics)
    with _store(settings) as (store, states):
        sink = CheckpointSink(
            releases,
            states,
            store,
            PredictionProducer(brokers),
            Limits(settings.scorer_message_bytes, settings.max_future_s),
            metrics,
            stores_readings=settings.scorer_stores_readings,
        )
        messages = app.dataframe(app.topic(TELEMETRY_TOPIC, value_deserializer="bytes", key_deserializer="bytes"))
        messages.apply(_with_state, stateful=True, metadata=True).sink(sink)
        app.run()


class _Application(Application):
    def _on_lost(self, consumer: object, topic_partitions: list[TopicPartition]) -> None:
        # Partitions are paused while the store is away.  Quix Streams forgets that when they are lost, and the client
        # does not: given back, they would stay silent for ever.
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
        # States are mostly of few different bytes.
        producer_extra_config={"compression.type": "lz4", "linger.ms": 5},
    )


@contextmanager
def _store(settings: Settings) -> Iterator[tuple[StoreSink | None, States]]:
    if settings.telemetry_dsn is None:
        yield None, States(NoHistory(), _REBUILD_S)
        return
    store, past = StoreSink.from_settings(settings), Past(settings.telemetry_dsn.get_secret_value())
    try:
        yield store, States(past, _REBUILD_S)
    finally:
        store.close()
        past.close()
