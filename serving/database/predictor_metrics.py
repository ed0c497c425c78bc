"""Prometheus metrics of the database predictor."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from features.targets import TARGET_NAMES
from serving.database.row_source import NewRows
from serving.scorer import Scores
from serving.service_metrics import ReleaseMetrics

_ROLES = ("champion", "challenger")
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True)
class BatchResult:
    """Rows, scores and counts of one batch.

    Attributes:
        scores: None if there was nothing to predict.
        history: rows that updated a state without a prediction, because they are older than the consumer.
        late: rows older than their battery's state; stored and flagged, never applied.
        duplicates: rows with the time of their battery's state, not applied.
        cycles: sessions that ended and were stored.
    """

    rows: NewRows
    scores: Scores | None = None
    history: int = 0
    late: int = 0
    duplicates: int = 0
    cycles: int = 0


class DatabaseMetrics:
    """Metrics of one process; all labels have a bounded number of values."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.release = ReleaseMetrics(self.registry)
        self.rows = self._counter("database_rows_read", "Rows read")
        self.history = self._counter(
            "database_rows_past", "Rows from before the first start, applied but not predicted"
        )
        self.late = self._counter("database_rows_late", "Rows older than their battery's state, never applied")
        self.duplicates = self._counter("database_rows_duplicate", "Rows with the time of their battery's state")
        self.rejected = Counter(
            "database_rows_refused", "Rows left out because of a contract violation", ["field"], registry=self.registry
        )
        self.cycles = self._counter("database_cycles", "Sessions that ended and were stored")
        self.replays = self._counter("database_replays", "States restored from the store")
        self.failures = Counter(
            "database_failures", "Failed batches, which are retried", ["what"], registry=self.registry
        )
        self.batch = Histogram(
            "database_batch_duration_seconds", "From the query for new rows to the commit of the predictions",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.lag = self._gauge("database_lag_seconds", "Waiting time of the oldest row of the newest batch")
        self.waiting = self._gauge("database_batteries_waiting", "Batteries with unread rows")
        predictions = Counter("predictions", "Predictions", ["target", "role"], registry=self.registry)
        withheld = Counter("predictions_withheld", "Withheld predictions", ["target"], registry=self.registry)
        self._predictions = {
            (target, role): predictions.labels(target, role) for target in TARGET_NAMES for role in _ROLES
        }
        self._withheld = {target: withheld.labels(target) for target in TARGET_NAMES}

    def record_batch(self, result: BatchResult, seconds: float) -> None:
        """Count the rows and predictions of a batch that took `seconds`."""
        read = sum(map(len, result.rows.keys.values()))
        if not read:
            self.lag.set(0.0)
            return
        self.rows.inc(read)
        self.history.inc(result.history)
        self.late.inc(result.late)
        self.duplicates.inc(result.duplicates)
        self.cycles.inc(result.cycles)
        for name, count in result.rows.rejected.items():
            self.rejected.labels(name).inc(count)
        if result.scores is not None:
            self._count_predictions(result.scores)
        if (waited := result.rows.waited_s()) is not None:
            self.lag.set(waited)
        self.batch.observe(seconds)

    def _count_predictions(self, scores: Scores) -> None:
        for role, predicted in (("champion", scores.champion), ("challenger", scores.challenger or {})):
            for target, values in predicted.items():
                count = values.reasons.count(None)
                self._predictions[target, role].inc(count)
                if role == "champion":
                    self._withheld[target].inc(len(values.reasons) - count)

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(name, about, registry=self.registry)

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(name, about, registry=self.registry)
