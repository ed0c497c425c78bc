"""Challengers in the service: they predict what the champion did, afterwards, and the store keeps what they said."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

from serving.feature_snapshots import FeatureSnapshots, concatenate
from serving.prediction_rows import prediction_rows
from serving.predictor import Predictor
from serving.service_metrics import Loss, ShadowMetrics
from telemetry.batch import Batch, Row
from telemetry.embedded.postgres import embedded_postgres
from telemetry.errors import TwinError
from telemetry.settings import Settings
from telemetry.sinks.base import SinkError, SinkRefusedError
from telemetry.sinks.postgres import StoreSink

logger = logging.getLogger(__name__)

#: FeatureSnapshots that may wait for the store, 2 kB each, and how many are predicted and written together.
CAPACITY = 10_000
_AT_ONCE = 1_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0


@dataclass(frozen=True)
class _Waiting:
    battery_ids: Sequence[str]
    moments: FeatureSnapshots
    challenger: Predictor


class ShadowRecorder:
    """A thread that lets challengers predict at moments that were answered, and writes what they say to the store.

    `offer` only queues: no request waits for a challenger or for the store, and none fails with them.  What does
    not fit into the queue while the store is away is lost, and counted.
    """

    def __init__(self, settings: Settings, metrics: ShadowMetrics, capacity: int = CAPACITY) -> None:
        self._settings = settings
        self._metrics = metrics
        self._capacity = capacity
        self._queue: deque[_Waiting] = deque()
        self._queued = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Begin to record."""
        self._thread.start()

    def offer(self, battery_ids: Sequence[str], moments: FeatureSnapshots, challenger: Predictor) -> None:
        """Take note of moments that were just answered; returns at once.

        Args:
            battery_ids: of the n moments.
            challenger: the one that belongs to the champion who answered.
        """
        with self._changed:
            if self._queued + len(moments) > self._capacity:
                self._lost(len(moments), challenger, "full")
                return
            self._queue.append(_Waiting(battery_ids, moments, challenger))
            self._queued += len(moments)
            self._changed.notify()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Write what waits and end; what is not written after `timeout_s` is lost."""
        self._stopping.set()
        with self._changed:
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        for waiting in self._take(self._capacity):
            self._lost(len(waiting.moments), waiting.challenger, "stopped")

    def _run(self) -> None:
        with _Store(self._settings) as store:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._queue or self._stopping.is_set())
                taken = self._take(_AT_ONCE)
                if not taken:
                    return
                for _, same in groupby(taken, key=lambda waiting: id(waiting.challenger)):
                    self._record(list(same), store)

    def _take(self, moments: int) -> list[_Waiting]:
        taken: list[_Waiting] = []
        with self._changed:
            while self._queue and moments > 0:
                taken.append(self._queue.popleft())
                moments -= len(taken[-1].moments)
                self._queued -= len(taken[-1].moments)
        return taken

    def _record(self, waiting: list[_Waiting], store: _Store) -> None:
        challenger = waiting[0].challenger
        count = sum(len(one.moments) for one in waiting)
        try:
            rows = _rows(waiting, challenger)
        except Exception:  # whatever a challenger does, the next one is heard
            logger.exception("the challengers %s failed", ", ".join(challenger.labels))
            self._lost(count, challenger, "failed")
            return
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                store.write(rows)
            except SinkRefusedError as error:
                logger.error("%s", error)
                self._metrics.lost(len(rows), "refused")
                return
            except (SinkError, TwinError, OSError) as error:
                if pause_s == _FIRST_PAUSE_S:
                    logger.warning("predictions of challengers wait: %s", error)
                if self._stopping.wait(pause_s):
                    self._metrics.lost(len(rows), "stopped")
                    return
                pause_s = min(2.0 * pause_s, _LONGEST_PAUSE_S)
            else:
                self._metrics.recorded(len(rows))
                return

    def _lost(self, moments: int, challenger: Predictor, reason: Loss) -> None:
        self._metrics.lost(moments * len(challenger.versions), reason)


def _rows(waiting: Sequence[_Waiting], challenger: Predictor) -> list[Row]:
    moments = concatenate([one.moments for one in waiting])
    battery_ids = [battery_id for one in waiting for battery_id in one.battery_ids]
    predicted = challenger.predict_snapshots(moments)
    now = datetime.now(UTC)
    return prediction_rows(battery_ids, moments, predicted, challenger.horizons, role="challenger", predicted_at=now)


class _Store:
    """The telemetry store, reached for when there is something to write."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open = ExitStack()
        self._sink: StoreSink | None = None
        self._ready = False

    def __enter__(self) -> _Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def write(self, rows: list[Row]) -> None:
        if self._sink is None:
            self._sink = StoreSink(self._dsn())
            self._open.callback(self._sink.close)
        if not self._ready:
            self._sink.setup()
            self._ready = True
        self._sink.write(Batch(predictions=rows))
        self._sink.flush()

    def _dsn(self) -> str:
        if self._settings.telemetry_dsn is not None:
            return self._settings.telemetry_dsn.get_secret_value()
        return self._open.enter_context(embedded_postgres(self._settings.var / "postgres"))
