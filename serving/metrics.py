"""What the service counts, for Prometheus; right for any number of workers.

With PROMETHEUS_MULTIPROC_DIR in the environment (BentoML sets it) every worker writes to files there
and any of them answers for all.
"""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from features.targets import TARGET_NAMES
from serving.answer import Answer

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """Counters and histograms of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.duration = Histogram(
            "prediction_request_duration_seconds",
            "From the first byte of POST /predict to its answer",
            buckets=_SECONDS,
            registry=self._registry,
        )
        predictions = Counter("predictions", "Predictions given", ["target"], registry=self._registry)
        withheld = Counter("predictions_withheld", "Predictions withheld", ["target"], registry=self._registry)
        # Looked up once: finding a child by its label costs more than counting.
        self._predictions = {target: predictions.labels(target) for target in TARGET_NAMES}
        self._withheld = {target: withheld.labels(target) for target in TARGET_NAMES}
        self._stale = Counter(
            "stale_rows", "Readings and cycles not folded, being older than the state", registry=self._registry
        )
        self._unknown = Counter(
            "unknown_fields", "Fields that are not in the contract, ignored", registry=self._registry
        )
        self._refused = Counter("requests_refused", "Requests not answered", ["status"], registry=self._registry)

    def answered(self, answer: Answer) -> None:
        """Count what somebody got."""
        for target, values in answer.predicted.items():
            given = values.reasons.count(None)
            if given:
                self._predictions[target].inc(given)
            if given < len(values.reasons):
                self._withheld[target].inc(len(values.reasons) - given)
        stale = int(answer.stale_readings.sum() + answer.stale_cycles.sum())
        if stale:
            self._stale.inc(stale)

    def ignored(self, unknown_fields: int) -> None:
        """Count fields that are not in the contract."""
        if unknown_fields:
            self._unknown.inc(unknown_fields)

    def refused(self, status: int) -> None:
        """Count a request that got an error."""
        self._refused.labels(str(status)).inc()

    def exposition(self) -> bytes:
        """Everything counted so far, over all workers, in Prometheus' text format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone)
