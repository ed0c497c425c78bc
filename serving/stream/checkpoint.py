"""What happens at a checkpoint; the order is the subject of docs/decisions/0016.

Quix Streams flushes its sinks first, then writes the changelog of the states, commits the offsets and flushes the
local states.  A `State` that a message brought along stays valid until the changelog is written, so the whole fold can
wait for the flush: one read and one write of a state a battery, one call for each forest.
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
from typing import Any, Literal, Protocol

from quixstreams.sinks.base import BaseSink, SinkBackpressureError
from quixstreams.state import State

from features.state import FloatArray, to_bytes
from serving.scorer import Scorer
from serving.stream.checkpoint_scoring import Scored, score
from serving.stream.checkpoint_states import NotYetError, States
from serving.stream.message_parser import DeadLetter, Limits, Message, Readings, open_messages
from serving.stream.producer import PredictionProducer
from serving.stream.scorer_metrics import StreamMetrics
from serving.surface import utc
from telemetry.kafka_client import DEAD_LETTER_TOPIC, PREDICTIONS_TOPIC
from telemetry.sinks.base import Sink, SinkError

Part = Literal["store", "kafka"]

#: Under this key a battery's state lies in Quix Streams' store.
STATE_KEY = "twin"

_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 5.0

logger = logging.getLogger(__name__)


class Releases(Protocol):
    """Who predicts now; see `serving.champion.Champion`."""

    scorer: Scorer | None


class _PartError(RuntimeError):
    """The store or Kafka did not do its part of a checkpoint."""

    def __init__(self, part: Part, reason: str) -> None:
        super().__init__(reason)
        self.part = part


@dataclass(frozen=True)
class _Pending:
    message: Message
    timestamp_ms: int
    state: State[str, bytes]


class CheckpointSink(BaseSink):
    """Collects the messages of a checkpoint and scores them when it is made.

    Args:
        releases: read once a checkpoint, so that none mixes two releases.
        store: where predictions (and readings, if `stores_readings`) are kept; None: nowhere.
    """

    def __init__(
        self,
        releases: Releases,
        states: States,
        store: Sink | None,
        outlet: PredictionProducer,
        limits: Limits,
        metrics: StreamMetrics,
        *,
        stores_readings: bool,
    ) -> None:
        super().__init__(on_client_connect_success=lambda: None)
        self._releases = releases
        self._states = states
        self._store = store
        self._outlet = outlet
        self._limits = limits
        self._metrics = metrics
        self._stores_readings = stores_readings
        self._pending: list[_Pending] = []
        self._failures = 0
        self._store_is_ready = False
        # A partition that is taken away is flushed from another thread, which may be slow to end.
        self._lock = threading.Lock()

    def setup(self) -> None:
        """Nothing to do: what cannot be reached now is tried at each checkpoint."""

    def add(self, value: Any, key: Any, timestamp: int, headers: Any, topic: str, partition: int, offset: int) -> None:
        """Take over one message; `value` is its content and the battery's `State`."""
        content, state = value
        content = content or b""
        self._pending.append(_Pending(Message(key, self._limits.cut(content), len(content)), timestamp, state))

    def on_paused(self) -> None:
        """Forget what has been collected: it will be read again."""
        self._pending = []

    def flush(self) -> None:
        """Score what has been collected.

        Raises:
            SinkBackpressureError: the store or the brokers are away; nothing is committed, and Quix Streams reads
                the same messages again after a pause.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        with self._lock:
            try:
                self._checkpoint(pending)
            except NotYetError as error:
                logger.info("%s; going on", error)
                raise SinkBackpressureError(retry_after=0.1) from error
            except _PartError as error:
                self._metrics.failed(error.part)
                retry_s = min(_FIRST_RETRY_S * 2.0**self._failures, _LONGEST_RETRY_S)
                self._failures += 1
                logger.warning("checkpoint not made, again in %g s: %s", retry_s, error)
                raise SinkBackpressureError(retry_after=retry_s) from error
            self._failures = 0

    def _checkpoint(self, pending: Sequence[_Pending]) -> None:
        scorer = self._releases.scorer
        assert scorer is not None  # noqa: S101 - the stream begins when there is one
        began, now = time.perf_counter(), datetime.now(UTC)
        readings, letters = open_messages([one.message for one in pending], self._limits, now)
        owners = [pending[readings.place[first]].state for first in readings.first_of()]
        with _part("store"):
            self._prepare_store()
            states = self._states_before(readings, owners)
        scored = score(readings, states, scorer, now=now, stores_readings=self._stores_readings)
        with _part("store"):
            self._keep(scored)
        with _part("kafka"):
            self._send(scored, letters, now)
        for owner, state in zip(owners, states, strict=True):
            owner.set_bytes(STATE_KEY, to_bytes(state))
        self._states.settle()
        self._metrics.checkpoint.observe(time.perf_counter() - began)
        self._count(pending, readings, letters, scored)

    def _states_before(self, readings: Readings, owners: Sequence[State[str, bytes]]) -> FloatArray:
        kept = [owner.get_bytes(STATE_KEY) for owner in owners]
        first = [utc(readings.matrix[i, 0]) for i in readings.first_of()]
        return self._states.before(readings.battery_ids, kept, first)

    def _prepare_store(self) -> None:
        if self._store is None or self._store_is_ready:
            return
        self._store.setup()
        self._store_is_ready = True

    def _keep(self, scored: Scored) -> None:
        if self._store is None or not len(scored.batch):
            return
        self._store.write(scored.batch)
        self._store.flush()

    def _send(self, scored: Scored, letters: Sequence[DeadLetter], now: datetime) -> None:
        self._outlet.send(PREDICTIONS_TOPIC, scored.messages)
        self._outlet.send(DEAD_LETTER_TOPIC, ((letter.key, letter.encode(now)) for letter in letters))
        self._outlet.flush()

    def _count(
        self, pending: Sequence[_Pending], readings: Readings, letters: Sequence[DeadLetter], scored: Scored
    ) -> None:
        done_s = time.time()
        newest_s = readings.matrix[:, 0].max(initial=-math.inf)
        self._metrics.opened(len(pending), letters, readings.unknown_fields)
        self._metrics.scored(
            scored,
            lags_s=[done_s - pending[place].timestamp_ms / 1e3 for place in readings.place],
            event_lag_s=done_s - newest_s if len(readings) else None,
        )
        for cause, count in self._states.take_rebuilt().items():
            self._metrics.rebuilt(cause, count)


@contextmanager
def _part(part: Part) -> Iterator[None]:
    try:
        yield
    except SinkError as error:
        raise _PartError(part, str(error)) from error
