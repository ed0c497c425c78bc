"""What the stream scorer counts, for Prometheus, on TWIN_SCORER_METRICS_PORT."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from features.targets import TARGET_NAMES
from serving.stream.checkpoint_scoring import Scored
from serving.stream.checkpoint_states import CAUSES
from serving.stream.message_parser import REASONS, DeadLetter, count_reasons
from telemetry.kafka_client import TELEMETRY_TOPIC

_LAG_S = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
_CHECKPOINT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class StreamMetrics:
    """Counters, gauges and histograms of one scorer; every labelled one is there from the start."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._messages = Counter("scorer_messages", "messages of the telemetry topic", registry=registry)
        self._letters = Counter("scorer_dead_letters", "messages that are no reading", ["reason"], registry=registry)
        self._predictions = Counter("predictions", "predictions stored", ["role", "target"], registry=registry)
        self._stale = Counter(
            "scorer_stale_readings", "readings not newer than their battery's state", ["kind"], registry=registry
        )
        self._unknown_fields = Counter(
            "scorer_unknown_fields", "fields not in the contract, ignored", registry=registry
        )
        self._rebuilt = Counter("scorer_states_rebuilt", "states rebuilt by replay", ["cause"], registry=registry)
        self._failures = Counter(
            "scorer_checkpoint_failures", "checkpoints that were not made and are repeated", ["part"], registry=registry
        )
        self.restarts = Counter("scorer_restarts", "times that the stream was built anew", registry=registry)
        self.checkpoint = Histogram(
            "scorer_checkpoint_seconds",
            "folding, predicting, storing and sending one checkpoint",
            buckets=_CHECKPOINT_S,
            registry=registry,
        )
        self._lag = Histogram(
            "scorer_lag_seconds", "from a message's time stamp to its prediction's being stored", buckets=_LAG_S,
            registry=registry,
        )  # fmt: skip
        self._event_lag = Gauge(
            "scorer_event_lag_seconds", "age of the newest reading when its prediction is stored", registry=registry
        )
        self._consumer_lag = Gauge(
            "scorer_consumer_lag", "messages behind the last checkpoint", ["partition"], registry=registry
        )
        for counter, labels in ((self._letters, REASONS), (self._stale, ("late", "duplicate")),
                                (self._rebuilt, CAUSES), (self._failures, ("store", "kafka"))):  # fmt: skip
            for label in labels:
                counter.labels(label)
        for target in TARGET_NAMES:
            self._predictions.labels("champion", target)

    def opened(self, messages: int, letters: Sequence[DeadLetter], unknown_fields: int) -> None:
        """Count the messages of a checkpoint that was made."""
        self._messages.inc(messages)
        self._unknown_fields.inc(unknown_fields)
        for reason, count in count_reasons(letters).items():
            self._letters.labels(reason).inc(count)

    def scored(self, scored: Scored, lags_s: Iterable[float], event_lag_s: float | None) -> None:
        """Count what a checkpoint that was made has given."""
        for labels, count in scored.predictions.items():
            self._predictions.labels(*labels).inc(count)
        self._stale.labels("late").inc(scored.late)
        self._stale.labels("duplicate").inc(scored.duplicates)
        for lag_s in lags_s:
            self._lag.observe(lag_s)
        if event_lag_s is not None:
            self._event_lag.set(event_lag_s)

    def rebuilt(self, cause: str, count: int) -> None:
        """Count rebuilt states."""
        self._rebuilt.labels(cause).inc(count)

    def failed(self, part: str) -> None:
        """Count a checkpoint that has to be repeated because of the `store` or of `kafka`."""
        self._failures.labels(part).inc()

    def on_statistics(self, statistics: str) -> None:
        """Take the lag of every owned partition from the consumer's statistics (JSON of librdkafka)."""
        partitions = json.loads(statistics).get("topics", {}).get(TELEMETRY_TOPIC, {}).get("partitions", {})
        self._consumer_lag.clear()
        for partition, about in partitions.items():
            if about.get("desired") and about.get("consumer_lag", -1) >= 0:
                self._consumer_lag.labels(partition).set(about["consumer_lag"])


@contextmanager
def metrics_server(host: str, port: int, metrics: StreamMetrics) -> Iterator[None]:
    """Serve `metrics` at http://host:port/metrics."""
    server, thread = start_http_server(port, addr=host, registry=metrics.registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
