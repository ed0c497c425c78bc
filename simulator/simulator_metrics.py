"""Prometheus metrics of the live simulator process; those of the batteries are in `monitoring`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from simulator.run_statistics import RunStatistics
from telemetry.spool.delivery import Delivery
from telemetry.spool.spool import Spool
from telemetry.spool.spool_metrics import spool_metrics


class LiveCollector(Collector):
    """Collector that reads the run statistics on each scrape, so that ticks have no overhead."""

    def __init__(self, statistics: RunStatistics, spool: Spool, deliveries: Sequence[Delivery]) -> None:
        self._statistics = statistics
        self._spool = spool
        self._deliveries = deliveries

    def collect(self) -> Iterator[Metric]:
        """Current value of every metric."""
        statistics = self._statistics
        yield CounterMetricFamily("live_predictions", "readings with predictions", statistics.predictions)
        yield CounterMetricFamily("live_readings", "readings appended to the spool", statistics.produced)
        yield CounterMetricFamily("live_refused_readings", "readings refused by the full spool", statistics.refused)
        yield CounterMetricFamily("live_prediction_errors", "failed requests and refused appends", statistics.errors)
        yield CounterMetricFamily("live_missed_ticks", "scheduled ticks that were skipped", statistics.missed_ticks)
        yield from spool_metrics(self._spool, self._deliveries)
