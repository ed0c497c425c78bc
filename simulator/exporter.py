"""Prometheus metrics of the live twin, on TWIN_METRICS_PORT."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from simulator.live_loop import LiveTwin
from simulator.outbox import Outbox
from simulator.tally import Tally

#: Gauge -> what it means and where it comes from.  A value that is not known has no sample: it is never a guess.
_GAUGES: dict[str, tuple[str, Callable[[LiveTwin], float | None]]] = {
    "battery_soc_actual": ("state of charge, %", lambda twin: _field(twin, "soc")),
    "battery_soh_actual": ("state of health where the pack reports it, %", lambda twin: _field(twin, "soh")),
    "battery_soh_predicted": ("state of health, %", lambda twin: _predicted(twin, "soh")),
    "battery_temperature_actual": ("hottest probe, degC", lambda twin: _field(twin, "temperature")),
    "battery_temperature_predicted": ("forecast for this moment, degC", lambda twin: twin.temperature_predicted),
    "battery_temperature_forecast": ("forecast from now, degC", lambda twin: _predicted(twin, "temperature")),
    "battery_rul_predicted": ("remaining equivalent full cycles", lambda twin: _predicted(twin, "rul")),
    "battery_failure_predicted": ("failure probability", lambda twin: _predicted(twin, "failure")),
    "battery_voltage": ("terminal voltage, V", lambda twin: _field(twin, "voltage")),
    "battery_current": ("current, A, positive while discharging", lambda twin: _field(twin, "current")),
    "battery_power": ("power, kW, positive while discharging", lambda twin: _power_kw(twin)),
}


class LiveCollector(Collector):
    """Reads the twins when Prometheus asks, so that a tick pays nothing for it."""

    def __init__(self, twins: Sequence[LiveTwin], tally: Tally, outboxes: Mapping[str, Outbox]) -> None:
        self._twins = twins
        self._tally = tally
        self._outboxes = outboxes

    def collect(self) -> Iterator[Metric]:
        """Every metric, now."""
        for name, (description, value_of) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, description, labels=["battery_id"])
            for twin in self._twins:
                value = value_of(twin)
                if value is not None:
                    gauge.add_metric([twin.battery.battery_id], value)
            yield gauge
        yield CounterMetricFamily("predictions", "answers of the service, one battery each", self._tally.predictions)
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


def _field(twin: LiveTwin, name: str) -> float | None:
    value = None if twin.reading is None else twin.reading.get(name)
    return None if value is None or value != value else float(cast(float, value))


def _predicted(twin: LiveTwin, target: str) -> float | None:
    return None if twin.answer is None else twin.answer.value(target)


def _power_kw(twin: LiveTwin) -> float | None:
    voltage, current = _field(twin, "voltage"), _field(twin, "current")
    return None if voltage is None or current is None else voltage * current / 1e3
