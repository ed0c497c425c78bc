"""Prometheus metrics of the live simulator itself, on TWIN_SIMULATOR_METRICS_PORT; `monitoring` has the batteries'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from simulator.outbox import Outbox
from simulator.tally import Tally


class LiveCollector(Collector):
    """Reads the counts when Prometheus asks, so that a tick pays nothing for it."""

    def __init__(self, tally: Tally, outboxes: Mapping[str, Outbox]) -> None:
        self._tally = tally
        self._outboxes = outboxes

    def collect(self) -> Iterator[Metric]:
        """Every metric, now."""
        yield CounterMetricFamily(
            "live_predictions", "answers of the service, one battery each", self._tally.predictions
        )
        yield CounterMetricFamily("live_readings", "readings produced", self._tally.produced)
        yield CounterMetricFamily("live_prediction_errors", "calls without an answer", self._tally.errors)
        yield CounterMetricFamily("live_missed_ticks", "ticks that were not made in time", self._tally.missed_ticks)
        waiting = GaugeMetricFamily("live_waiting_readings", "not acknowledged by the sink yet", labels=["sink"])
        for name, outbox in self._outboxes.items():
            waiting.add_metric([name], outbox.waiting_readings)
        yield waiting


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
