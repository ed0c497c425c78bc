"""Shadow mode of the service: a background thread that predicts with the challengers and stores their predictions."""

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
from serving.predictor import Predictor
from serving.scorer import score
from serving.service_metrics import LossReason, ShadowMetrics
from telemetry.backoff import backoff
from telemetry.batch import Batch, Row
from telemetry.embedded.postgres import embedded_postgres
from telemetry.errors import TwinError
from telemetry.settings import Settings
from telemetry.sinks.base import SinkError, SinkRefusedError
from telemetry.sinks.postgres import StoreSink

logger = logging.getLogger(__name__)

#: Capacity of the queue in snapshots of 2 kB, and the largest number that is predicted and stored together.
CAPACITY = 10_000
_BATCH_SNAPSHOTS = 1_000
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 10.0


@dataclass(frozen=True)
class _Queued:
    battery_ids: Sequence[str]
    snapshots: FeatureSnapshots
    challenger: Predictor


class ShadowRecorder:
    """Predicts with the challengers from snapshots that the champion has scored, in a thread, and stores the results.

    `submit` only appends to a queue: no request waits for a challenger or for the store, or fails because of them.
    Snapshots that do not fit into the queue while the store is unavailable are lost and counted.
    """

    def __init__(self, settings: Settings, metrics: ShadowMetrics, capacity: int = CAPACITY) -> None:
        self._settings = settings
        self._metrics = metrics
        self._capacity = capacity
        self._queue: deque[_Queued] = deque()
        self._queued_snapshots = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, battery_ids: Sequence[str], snapshots: FeatureSnapshots, challenger: Predictor) -> None:
        """Queue snapshots that the champion has scored; returns at once.

        Args:
            battery_ids: battery of each snapshot.
            challenger: of the scorer that was used for the request.
        """
        with self._changed:
            if self._queued_snapshots + len(snapshots) > self._capacity:
                self._count_lost(len(snapshots), challenger, "full")
                return
            self._queue.append(_Queued(battery_ids, snapshots, challenger))
            self._queued_snapshots += len(snapshots)
            self._changed.notify()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Store the queued predictions and stop the thread; those not stored after `timeout_s` are lost."""
        self._stopping.set()
        with self._changed:
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        for queued in self._take(self._capacity):
            self._count_lost(len(queued.snapshots), queued.challenger, "stopped")

    def _run(self) -> None:
        with _PredictionStore(self._settings) as store:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._queue or self._stopping.is_set())
                taken = self._take(_BATCH_SNAPSHOTS)
                if not taken:
                    return
                for _, same in groupby(taken, key=lambda item: id(item.challenger)):
                    self._record(list(same), store)

    def _take(self, snapshots: int) -> list[_Queued]:
        taken: list[_Queued] = []
        with self._changed:
            while self._queue and snapshots > 0:
                taken.append(self._queue.popleft())
                snapshots -= len(taken[-1].snapshots)
                self._queued_snapshots -= len(taken[-1].snapshots)
        return taken

    def _record(self, queued: list[_Queued], store: _PredictionStore) -> None:
        challenger = queued[0].challenger
        count = sum(len(item.snapshots) for item in queued)
        try:
            rows = _rows(queued, challenger)
        except Exception:  # a failed challenger must not stop the thread
            logger.exception("the challengers %s failed", ", ".join(challenger.labels))
            self._count_lost(count, challenger, "failed")
            return
        for attempt, pause_s in enumerate(backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)):
            try:
                store.write(rows)
            except SinkRefusedError as error:
                logger.error("%s", error)
                self._metrics.count_lost(len(rows), "refused")
                return
            except (SinkError, TwinError, OSError) as error:
                if attempt == 0:
                    logger.warning("predictions of challengers cannot be stored yet: %s", error)
                if self._stopping.wait(pause_s):
                    self._metrics.count_lost(len(rows), "stopped")
                    return
            else:
                self._metrics.count_stored(len(rows))
                return

    def _count_lost(self, snapshots: int, challenger: Predictor, reason: LossReason) -> None:
        self._metrics.count_lost(snapshots * len(challenger.versions), reason)


def _rows(queued: Sequence[_Queued], challenger: Predictor) -> list[Row]:
    snapshots = concatenate([item.snapshots for item in queued])
    battery_ids = [battery_id for item in queued for battery_id in item.battery_ids]
    return score(challenger, battery_ids, snapshots, "challenger", datetime.now(UTC)).rows


class _PredictionStore(ExitStack):
    """Writes rows to the telemetry store, which is opened at the first write."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._sink: StoreSink | None = None
        self._is_migrated = False

    def write(self, rows: list[Row]) -> None:
        if self._sink is None:
            self._sink = StoreSink(self._dsn())
            self.callback(self._sink.close)
        if not self._is_migrated:
            self._sink.setup()
            self._is_migrated = True
        self._sink.write(Batch(predictions=rows))
        self._sink.flush()

    def _dsn(self) -> str:
        if self._settings.telemetry_dsn is not None:
            return self._settings.telemetry_dsn.get_secret_value()
        return self.enter_context(embedded_postgres(self._settings.var / "postgres"))
