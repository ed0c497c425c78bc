"""Prometheus metrics of the stream scorer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.batch_scoring import BatchResult
from serving.service_metrics import DescriptionMetrics, PredictionMetrics, out_of_range_counter
from serving.state_restore import CAUSES
from serving.stream.message_parser import REJECTION_REASONS, DeadLetter, ParsedReadings, count_by_reason

_LAG_S = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
_CHECKPOINT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class StreamMetrics:
    """Metrics of one scorer process; all label values are exported from the start."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._messages = Counter("scorer_messages", "messages of the telemetry topic", registry=registry)
        self._dead_letters = Counter("scorer_dead_letters", "rejected messages", ["reason"], registry=registry)
        self._predictions = PredictionMetrics(registry)
        self.descriptions = DescriptionMetrics(registry)
        self._stale = Counter(
            "scorer_stale_readings", "readings not newer than their battery's state", ["kind"], registry=registry
        )
        self._unknown_fields = Counter(
            "scorer_unknown_fields", "ignored fields that are not in the contract", registry=registry
        )
        self._out_of_range = out_of_range_counter(registry)
        self.wrong_partition = Counter(
            "scorer_wrong_partition",
            "messages that are not on the partition that murmur2 gives their key",
            registry=registry,
        )
        self._restored = Counter("scorer_states_rebuilt", "states restored by replay", ["cause"], registry=registry)
        self._failures = Counter(
            "scorer_checkpoint_failures", "failed checkpoints, which are retried", ["part"], registry=registry
        )
        self.restarts = Counter("scorer_restarts", "restarts of the stream after an error", registry=registry)
        self.checkpoint = Histogram(
            "scorer_checkpoint_seconds",
            "duration of updating states, predicting, storing and sending in one checkpoint",
            buckets=_CHECKPOINT_S,
            registry=registry,
        )
        self._lag = Histogram(
            "scorer_lag_seconds", "from a message's timestamp until its prediction is stored", buckets=_LAG_S,
            registry=registry,
        )  # fmt: skip
        self._event_lag = Gauge(
            "scorer_event_lag_seconds", "age of the newest reading when its prediction is stored", registry=registry
        )
        self._consumer_lag = Gauge(
            "scorer_consumer_lag", "messages after the last committed offset", ["partition"], registry=registry
        )
        stale = ("late", "duplicate", "conflict")
        for counter, labels in ((self._dead_letters, REJECTION_REASONS), (self._stale, stale),
                                (self._restored, CAUSES), (self._failures, ("store", "kafka"))):  # fmt: skip
            for label in labels:
                counter.labels(label)

    def count_messages(self, messages: int, dead_letters: Sequence[DeadLetter], readings: ParsedReadings) -> None:
        """Count the messages of a completed checkpoint."""
        self._messages.inc(messages)
        self._unknown_fields.inc(readings.unknown_fields)
        for field, count in readings.out_of_range.items():
            self._out_of_range.labels(field).inc(count)
        for reason, count in count_by_reason(dead_letters).items():
            self._dead_letters.labels(reason).inc(count)

    def count_scores(self, result: BatchResult, lags_s: Iterable[float], event_lag_s: float | None) -> None:
        """Count the predictions, stale readings and lags of a completed checkpoint."""
        self._predictions.count(result)
        self._stale.labels("late").inc(result.late)
        self._stale.labels("duplicate").inc(result.duplicates - result.conflicts)
        self._stale.labels("conflict").inc(result.conflicts)
        for lag_s in lags_s:
            self._lag.observe(lag_s)
        if event_lag_s is not None:
            self._event_lag.set(event_lag_s)

    def count_restored(self, cause: str, count: int) -> None:
        """Count restored states."""
        self._restored.labels(cause).inc(count)

    def count_failure(self, dependency: str) -> None:
        """Count a failed checkpoint; `dependency` is the one that failed, `store` or `kafka`."""
        self._failures.labels(dependency).inc()

    def set_consumer_lag(self, partitions: Mapping[str, Mapping[str, Any]]) -> None:
        """Set the lag of every assigned partition from `serving.stream.topics.partition_statistics`."""
        self._consumer_lag.clear()
        for partition, about in partitions.items():
            if about.get("desired") and about.get("consumer_lag", -1) >= 0:
                self._consumer_lag.labels(partition).set(about["consumer_lag"])
