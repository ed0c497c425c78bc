"""Quix Streams sink that scores the collected messages at each checkpoint and stores and sends the predictions.

Quix Streams flushes its sinks first, then writes the changelog of the states, commits the offsets and flushes the local
states (docs/decisions/0016).  The `State` object of a message stays valid until the changelog is written, so that all
state updates can be made in the flush: one read and one write of the state for each battery, one call for each forest.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg2
from quixstreams.sinks.base import BaseSink, SinkBackpressureError
from quixstreams.state import State

from features.state import FloatArray, to_bytes
from serving.batch_scoring import BatchResult, score_readings
from serving.response import to_json
from serving.scorer import ScorerSource
from serving.state_restore import RestoreIncompleteError, StateRestorer
from serving.stream.message_parser import DeadLetter, Message, ParsedReadings, ParserLimits, parse_messages
from serving.stream.partition_check import PartitionCheck
from serving.stream.producer import PredictionProducer
from serving.stream.scorer_metrics import StreamMetrics
from telemetry.backoff import backoff
from telemetry.kafka_client import DEAD_LETTER_TOPIC, PREDICTIONS_TOPIC
from telemetry.sinks.base import Sink, SinkError
from telemetry.wire import utc

Dependency = Literal["store", "kafka"]

#: Key of a battery's state in the state store of Quix Streams.
STATE_KEY = "twin"

_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 5.0

logger = logging.getLogger(__name__)


class _DependencyError(RuntimeError):
    """The store or Kafka failed during a checkpoint."""

    def __init__(self, dependency: Dependency, reason: str) -> None:
        super().__init__(reason)
        self.dependency = dependency


@dataclass(frozen=True)
class _Pending:
    message: Message
    partition: int
    timestamp_ms: int
    state: State[str, bytes]


class CheckpointSink(BaseSink):
    """Collects messages and scores them at the next checkpoint.

    Args:
        scorer_source: read once for each checkpoint, so that no checkpoint mixes two releases.
        store: where predictions (and readings, if `stores_readings`) are stored; None: not stored.
    """

    def __init__(
        self,
        scorer_source: ScorerSource,
        restorer: StateRestorer,
        store: Sink | None,
        producer: PredictionProducer,
        limits: ParserLimits,
        partition_check: PartitionCheck,
        metrics: StreamMetrics,
        *,
        stores_readings: bool,
    ) -> None:
        super().__init__(on_client_connect_success=lambda: None)
        self._scorer_source = scorer_source
        self._restorer = restorer
        self._store = store
        self._producer = producer
        self._limits = limits
        self._partition_check = partition_check
        self._metrics = metrics
        self._stores_readings = stores_readings
        self._pending: list[_Pending] = []
        self._pauses_s = backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
        self._store_is_ready = False
        # Revoked partitions are flushed from another thread.
        self._lock = threading.Lock()

    def setup(self) -> None:
        """Do nothing: connections are opened at the first checkpoint."""

    def add(self, value: Any, key: Any, timestamp: int, headers: Any, topic: str, partition: int, offset: int) -> None:
        """Collect one message; `value` is the pair of its content and the battery's `State`."""
        content, state = value
        content = content or b""
        message = Message(key, self._limits.cut(content), len(content))
        self._pending.append(_Pending(message, partition, timestamp, state))

    def on_paused(self) -> None:
        """Drop the collected messages, which will be read again."""
        self._pending = []

    def flush(self) -> None:
        """Score the collected messages.

        Raises:
            SinkBackpressureError: the store or the brokers are unavailable; nothing is committed, and Quix Streams
                reads the same messages again after a pause.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        with self._lock:
            try:
                self._checkpoint(pending)
            except RestoreIncompleteError as error:
                logger.info("%s; continuing", error)
                raise SinkBackpressureError(retry_after=0.1) from error
            except _DependencyError as error:
                self._metrics.count_failure(error.dependency)
                pause_s = next(self._pauses_s)
                logger.warning("checkpoint failed, retrying in %g s: %s", pause_s, error)
                raise SinkBackpressureError(retry_after=pause_s) from error
            self._pauses_s = backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)

    def _checkpoint(self, pending: Sequence[_Pending]) -> None:
        scorer = self._scorer_source.scorer
        assert scorer is not None  # noqa: S101 - the stream is started with a scorer
        began, now = time.perf_counter(), datetime.now(UTC)
        readings, dead_letters = parse_messages([item.message for item in pending], self._limits, now)
        battery_states = [pending[readings.message_index[first]].state for first in readings.first_indices()]
        with _as_dependency_error("store"):
            self._prepare_store()
            states = self._load_states(readings, battery_states)
        result = score_readings(readings.batch, states, scorer, now=now, stores_readings=self._stores_readings)
        with _as_dependency_error("store"):
            self._store_rows(result)
        with _as_dependency_error("kafka"):
            self._send(result, dead_letters, now)
        for battery_id, battery_state, state in zip(readings.batch.battery_ids, battery_states, states, strict=True):
            battery_state.set_bytes(STATE_KEY, to_bytes(state, battery_id))
        self._restorer.commit()
        self._metrics.checkpoint.observe(time.perf_counter() - began)
        self._count(pending, readings, dead_letters, result)

    def _load_states(self, readings: ParsedReadings, battery_states: Sequence[State[str, bytes]]) -> FloatArray:
        stored = [state.get_bytes(STATE_KEY) for state in battery_states]
        first = [utc(readings.batch.matrix[i, 0]) for i in readings.first_indices()]
        return self._restorer.load(readings.batch.battery_ids, stored, first)

    def _prepare_store(self) -> None:
        if self._store is None or self._store_is_ready:
            return
        self._store.setup()
        self._store_is_ready = True

    def _store_rows(self, result: BatchResult) -> None:
        if self._store is None or not len(result.batch):
            return
        self._store.write(result.batch)
        self._store.flush()

    def _send(self, result: BatchResult, dead_letters: Sequence[DeadLetter], now: datetime) -> None:
        self._producer.send(PREDICTIONS_TOPIC, ((entry["battery_id"], to_json(entry)) for entry in result.entries))
        self._producer.send(DEAD_LETTER_TOPIC, ((letter.key, letter.encode(now)) for letter in dead_letters))
        self._producer.flush()

    def _count(
        self,
        pending: Sequence[_Pending],
        readings: ParsedReadings,
        dead_letters: Sequence[DeadLetter],
        result: BatchResult,
    ) -> None:
        done_s = time.time()
        newest_s = readings.batch.matrix[:, 0].max(initial=-math.inf)
        self._metrics.count_messages(len(pending), dead_letters, readings)
        self._metrics.wrong_partition.inc(
            self._partition_check.misplaced((item.message.key, item.partition) for item in pending)
        )
        self._metrics.count_scores(
            result,
            lags_s=[done_s - pending[i].timestamp_ms / 1e3 for i in readings.message_index],
            event_lag_s=done_s - newest_s if len(readings.message_index) else None,
        )
        for cause, count in self._restorer.take_causes().items():
            self._metrics.count_restored(cause, count)
        self._metrics.descriptions.count(self._restorer.take_invalid())


@contextmanager
def _as_dependency_error(dependency: Dependency) -> Iterator[None]:
    try:
        yield
    except (SinkError, psycopg2.Error) as error:
        raise _DependencyError(dependency, str(error)) from error
