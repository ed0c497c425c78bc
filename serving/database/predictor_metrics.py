"""What the database predictor counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from features.targets import TARGET_NAMES
from serving.scorer import Scores
from serving.service_metrics import ReleaseMetrics

if TYPE_CHECKING:
    from serving.database.batch import Done

_ROLES = ("champion", "challenger")
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class DatabaseMetrics:
    """Counters of one process; none of them has a label without a bound."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.release = ReleaseMetrics(self.registry)
        self.rows = self._counter("database_rows_read", "Rows read")
        self.past = self._counter("database_rows_past", "Rows of the time before the first start, folded only")
        self.late = self._counter("database_rows_late", "Rows older than their battery's state, never folded")
        self.duplicates = self._counter("database_rows_duplicate", "Rows of the very time of their battery's state")
        self.refused = Counter(
            "database_rows_refused", "Rows against the contract, left out", ["field"], registry=self.registry
        )
        self.cycles = self._counter("database_cycles", "Sessions that ended and were stored")
        self.replays = self._counter("database_replays", "States rebuilt from the store")
        self.failures = Counter(
            "database_failures", "Batches that failed and are tried again", ["what"], registry=self.registry
        )
        self.batch = Histogram(
            "database_batch_duration_seconds", "From a look at the table to the commit of the predictions",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.lag = self._gauge("database_lag_seconds", "Time that the oldest row of the newest batch had waited")
        self.waiting = self._gauge("database_batteries_waiting", "Batteries with rows that have not been read yet")
        predictions = Counter("predictions", "Predictions given", ["target", "role"], registry=self.registry)
        withheld = Counter("predictions_withheld", "Predictions withheld", ["target"], registry=self.registry)
        self._predictions = {
            (target, role): predictions.labels(target, role) for target in TARGET_NAMES for role in _ROLES
        }
        self._withheld = {target: withheld.labels(target) for target in TARGET_NAMES}

    def done(self, done: Done, seconds: float) -> None:
        """Count what a batch did."""
        read = sum(map(len, done.rows.keys.values()))
        if not read:
            self.lag.set(0.0)
            return
        self.rows.inc(read)
        self.past.inc(done.past)
        self.late.inc(done.late)
        self.duplicates.inc(done.duplicates)
        self.cycles.inc(done.cycles)
        for name, count in done.rows.refused.items():
            self.refused.labels(name).inc(count)
        if done.scores is not None:
            self._predicted(done.scores)
        if (waited := done.rows.waited_s()) is not None:
            self.lag.set(waited)
        self.batch.observe(seconds)

    def _predicted(self, scores: Scores) -> None:
        for role, predicted in (("champion", scores.champion), ("challenger", scores.challenger or {})):
            for target, values in predicted.items():
                given = values.reasons.count(None)
                self._predictions[target, role].inc(given)
                if role == "champion":
                    self._withheld[target].inc(len(values.reasons) - given)

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(name, about, registry=self.registry)

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(name, about, registry=self.registry)


@contextmanager
def metrics_server(host: str, port: int, metrics: DatabaseMetrics) -> Iterator[None]:
    """GET /metrics on `host`:`port` meanwhile."""
    server, thread = start_http_server(port, host, metrics.registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
