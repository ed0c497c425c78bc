"""Prometheus metrics of the live simulator itself, on TWIN_SIMULATOR_METRICS_PORT; `monitoring` has the batteries'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from simulator.run_statistics import RunStatistics
from telemetry.spool.delivery import Delivery
from telemetry.spool.spool import Spool
from telemetry.spool.spool_metrics import spool_metrics


class LiveCollector(Collector):
    """Reads the counts when Prometheus asks, so that a tick pays nothing for it."""

    def __init__(self, tally: RunStatistics, spool: Spool, deliveries: Sequence[Delivery]) -> None:
        self._tally = tally
        self._spool = spool
        self._deliveries = deliveries

    def collect(self) -> Iterator[Metric]:
        """Every metric, now."""
        tally = self._tally
        yield CounterMetricFamily("live_predictions", "answers of the service, one reading each", tally.predictions)
        yield CounterMetricFamily("live_readings", "readings produced and kept", tally.produced)
        yield CounterMetricFamily("live_refused_readings", "readings that the spool had no room for", tally.refused)
        yield CounterMetricFamily("live_prediction_errors", "calls without an answer", tally.errors)
        yield CounterMetricFamily("live_missed_ticks", "ticks that were not made in time", tally.missed_ticks)
        yield from spool_metrics(self._spool, self._deliveries)


@contextmanager
def metrics_server(host: str, port: int, collector: Collector) -> Iterator[None]:
    """Serve `collector` at http://host:port/metrics."""
    registry = CollectorRegistry()
    registry.register(collector)
    server, thread = start_http_server(port, addr=host, registry=registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
