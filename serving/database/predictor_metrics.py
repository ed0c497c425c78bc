"""Prometheus metrics of the database predictor."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.batch_scoring import BatchResult
from serving.database.row_source import NewRows
from serving.service_metrics import DescriptionMetrics, PredictionMetrics, ReleaseMetrics, out_of_range_counter

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


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
        self._out_of_range = out_of_range_counter(self.registry)
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
        self._predictions = PredictionMetrics(self.registry)
        self.descriptions = DescriptionMetrics(self.registry)

    def record_batch(self, rows: NewRows, result: BatchResult | None, seconds: float) -> None:
        """Count the rows and predictions of a batch that took `seconds`; `result` is None if there were no rows."""
        self.rows.inc(sum(map(len, rows.keys.values())))
        for name, count in rows.rejected.items():
            self.rejected.labels(name).inc(count)
        for name, count in rows.out_of_range.items():
            self._out_of_range.labels(name).inc(count)
        if result is None:
            self.lag.set(0.0)
            return
        self.history.inc(result.history)
        self.late.inc(result.late)
        self.duplicates.inc(result.duplicates)
        self.cycles.inc(len(result.batch.cycles))
        self._predictions.count(result)
        if (waited := rows.waited_s()) is not None:
            self.lag.set(waited)
        self.batch.observe(seconds)

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(name, about, registry=self.registry)

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(name, about, registry=self.registry)
