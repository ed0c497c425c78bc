"""Prometheus exporter of the twin: reads the telemetry store at each scrape and serves the metrics of the contract.

An unknown value has no sample; it is never estimated.  Gauges are by battery, histograms and counters over the fleet by
target (`metric`), so the number of series grows with the batteries and the targets only.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime

import psycopg2
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from features.targets import TARGETS, Target
from monitoring.fleet_queries import CONFIRMED, FleetReader, FleetSnapshot, NewestPrediction, NewestReading
from monitoring.registry_poll import RegistryPoller
from monitoring.unreadable import DATA_ERRORS

logger = logging.getLogger(__name__)

#: Scrapes within this time share one read of the store.
_CACHE_S = 1.0
#: A scrape waits this long for the store, then reports it as down: Prometheus times out after 4 s, and would report the
#: exporter as down.
_READ_TIMEOUT_S = 2.5
#: A battery without any prediction has a lag only if its newest reading was stored this recently: others were imported.
_RECENTLY_SEEN_S = 3600.0

#: Values of `outcome` and `watch` in the table `retrains`.
RETRAIN_OUTCOMES = ("promoted", "not_promoted", "failed", "stopped")
WATCH_STATES = ("watching", "passed", "rolled_back", "superseded")

#: Gauge -> description, and its value of a reading.
_READING_GAUGES: dict[str, tuple[str, Callable[[NewestReading], float | None]]] = {
    "battery_soc_actual": ("state of charge, %", lambda one: one.soc),
    "battery_voltage": ("terminal voltage, V", lambda one: one.voltage),
    "battery_current": ("current, A, positive while discharging", lambda one: one.current),
    "battery_power": (
        "power, kW, positive while discharging",
        lambda one: None if one.voltage is None or one.current is None else one.voltage * one.current / 1e3,
    ),
    "battery_last_reading_timestamp_seconds": (
        "when the newest reading reached the store, s since the epoch",
        lambda one: one.stored_at.timestamp(),
    ),
}


@dataclass(frozen=True)
class _StoreState:
    """Result of one read of the store.

    Attributes:
        snapshot: None if the store is unavailable.
        predictions: number since the start, by battery.
    """

    snapshot: FleetSnapshot | None = None
    predictions: Mapping[str, int] = field(default_factory=dict)


class TwinCollector(Collector):
    """Reads the store at every scrape and holds the counters since the start.

    The store is read in a separate thread with a timeout, so that an unresponsive one is reported as down too.

    Args:
        clock: wall clock, s since the epoch.
    """

    def __init__(self, reader: FleetReader, registry: RegistryPoller, clock: Callable[[], float] = time.time) -> None:
        self._reader = reader
        self._registry = registry
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._pool = ThreadPoolExecutor(1)
        self._running_read: Future[_StoreState] | None = None
        self._state = _StoreState()

    def collect(self) -> Iterator[Metric]:
        """Read the store and yield every metric."""
        state = self._current_state()
        snapshot = state.snapshot
        yield _gauge("twin_store_up", "1 if the telemetry store is available", 0.0 if snapshot is None else 1.0)
        if snapshot is not None:
            yield from _battery_gauges(snapshot)
            registry = self._registry.state
            has_release = registry is not None and registry.release is not None
            yield from _lag(snapshot, self._clock(), has_release=has_release)
            yield from _accuracy(snapshot)
            yield from _model_batteries(snapshot)
            yield from _drift(snapshot)
            yield from _retrains(snapshot)
        made = CounterMetricFamily("predictions", "champion predictions stored, all targets", labels=["battery_id"])
        for battery_id, count in state.predictions.items():
            made.add_metric([battery_id], count)
        yield made
        skipped = CounterMetricFamily(
            "monitoring_unreadable", "batteries left out because of a row that cannot be read", labels=["step"]
        )
        for step, count in self._reader.unreadable.counts.items():
            skipped.add_metric([step], count)
        yield skipped
        first, *others = (family for histogram in self._reader.errors.values() for family in histogram.collect())
        first.samples += [sample for family in others for sample in family.samples]
        yield first
        yield from _registry(self._registry)

    def _current_state(self) -> _StoreState:
        with self._lock:
            if time.monotonic() - self._read_at > _CACHE_S:
                read, self._running_read = self._running_read or self._pool.submit(self._read), None
                try:
                    self._state = read.result(_READ_TIMEOUT_S)
                except TimeoutError:
                    logger.warning("the telemetry store did not respond within %g s", _READ_TIMEOUT_S)
                    self._running_read = read  # the next scrape waits for it
                    self._state = replace(self._state, snapshot=None)
                self._read_at = time.monotonic()
            return self._state

    def _read(self) -> _StoreState:
        snapshot = None
        try:
            snapshot = self._reader.read()
        except psycopg2.Error as error:
            logger.warning("the telemetry store could not be read: %s", str(error).strip())
        except DATA_ERRORS:
            logger.exception("the telemetry store holds a row that the metrics cannot be made from")
        return _StoreState(snapshot, dict(self._reader.predictions))


def _battery_gauges(snapshot: FleetSnapshot) -> Iterator[Metric]:
    for name, (description, value_of) in _READING_GAUGES.items():
        values = {reading.battery_id: value_of(reading) for reading in snapshot.readings}
        yield _by_battery(name, description, {key: value for key, value in values.items() if value is not None})
    for signal, is_high in CONFIRMED.items():
        milder = "lower" if is_high else "higher"
        yield _by_battery(
            f"battery_{signal}_confirmed",
            f"{signal}: the {milder} one of the newest two readings, or the newest once the next is overdue",
            {one.battery_id: one.confirmed[signal] for one in snapshot.readings if signal in one.confirmed},
        )
    valid_predictions = snapshot.valid_predictions()
    for target in TARGETS.values():
        yield from _target_gauges(target, snapshot, [one for one in valid_predictions if one.target == target.name])


def _target_gauges(target: Target, snapshot: FleetSnapshot, predictions: list[NewestPrediction]) -> Iterator[Metric]:
    """`battery_<target>_actual` and `_predicted`, of a forecast for now, with `_forecast` for the horizon from now."""
    name, described = f"battery_{target.name}", f"{target.shown.description}, {target.shown.unit}"
    actual = {battery_id: value for (battery_id, labelled), value in snapshot.actual.items() if labelled == target.name}
    for reading in snapshot.readings:
        if target.signal is not None and (value := reading.signals[target.signal]) is not None:
            actual[reading.battery_id] = value
    yield _by_battery(f"{name}_actual", f"{described}: measured, or newest ground truth", actual)
    predicted = f"{name}_predicted"
    if target.is_forecast:
        due = {one.battery_id: one.forecasts[target.name] for one in snapshot.readings if target.name in one.forecasts}
        yield _by_battery(predicted, f"{described}: forecast for the time of the newest reading", due)
        predicted = f"{name}_forecast"
    yield _by_battery(predicted, described, {one.battery_id: one.value for one in predictions})
    bounds = GaugeMetricFamily(f"{predicted}_interval", f"{described}: its interval", labels=["battery_id", "bound"])
    for prediction in predictions:
        for bound, limit in (("lower", prediction.lower), ("upper", prediction.upper)):
            if limit is not None:
                bounds.add_metric([prediction.battery_id, bound], limit)
    if bounds.samples:
        yield bounds


def _by_battery(name: str, description: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, description, labels=["battery_id"])
    for battery_id, value in values.items():
        gauge.add_metric([battery_id], value)
    return gauge


def _lag(snapshot: FleetSnapshot, now_s: float, *, has_release: bool) -> Iterator[Metric]:
    """Prediction lag by battery; without a release and predictions none are expected, so there is no lag."""
    lag = GaugeMetricFamily(
        "prediction_lag_seconds",
        "how long the oldest reading without a prediction has been waiting in the store",
        labels=["battery_id"],
    )
    is_expected = has_release or bool(snapshot.predictions)
    for reading in snapshot.readings:
        is_recent = now_s - reading.stored_at.timestamp() < _RECENTLY_SEEN_S
        if reading.predicted_until is not None or (is_expected and is_recent):
            lag.add_metric([reading.battery_id], _waiting_s(reading.waiting_since, now_s))
    yield lag


def _waiting_s(since: datetime | None, now_s: float) -> float:
    return 0.0 if since is None else max(now_s - since.timestamp(), 0.0)


def _accuracy(snapshot: FleetSnapshot) -> Iterator[Metric]:
    accuracy = GaugeMetricFamily(
        "prediction_accuracy", "100 x max(0, 1 - |error| / max(|actual|, floor)), newest outcomes, %", labels=["metric"]
    )
    error = GaugeMetricFamily(
        "prediction_mean_absolute_error",
        "of the newest outcomes, in the metric's unit",
        labels=["metric", "role"],
    )
    outcomes = GaugeMetricFamily("prediction_recent_outcomes", "number of newest outcomes", labels=["metric", "role"])
    coverage = GaugeMetricFamily(
        "prediction_interval_coverage",
        "share of newest outcomes inside their intervals",
        labels=["metric"],
    )
    with_interval = GaugeMetricFamily(
        "prediction_interval_outcomes", "number of newest outcomes with an interval", labels=["metric"]
    )
    for recent in snapshot.recent:
        error.add_metric([recent.target, recent.role], recent.mean_absolute_error)
        outcomes.add_metric([recent.target, recent.role], recent.count)
        if recent.role == "champion":
            accuracy.add_metric([recent.target], recent.accuracy)
            if recent.with_interval:
                coverage.add_metric([recent.target], recent.covered / recent.with_interval)
                with_interval.add_metric([recent.target], recent.with_interval)
    yield from (accuracy, error, outcomes, coverage, with_interval)


def _model_batteries(snapshot: FleetSnapshot) -> Iterator[Metric]:
    """Number of batteries by model of their newest prediction: several versions only while a release is replaced."""
    counts: dict[tuple[str, str, str], int] = {}
    for one in snapshot.predictions:
        key = (one.target, one.model_name, one.model_version)
        counts[key] = counts.get(key, 0) + 1
    info = GaugeMetricFamily(
        "model_batteries",
        "batteries whose newest prediction is from this model",
        labels=["metric", "model", "version"],
    )
    for labels, count in counts.items():
        info.add_metric(labels, count)
    yield info


def _drift(snapshot: FleetSnapshot) -> Iterator[Metric]:
    labels = ["metric", "kind"]
    score = GaugeMetricFamily("model_drift_score", "distance from the training reference", labels=labels)
    threshold = GaugeMetricFamily("model_drift_threshold", "drift score above which a window is out", labels=labels)
    drifting = GaugeMetricFamily(
        "model_drifting", "1 while the newest and enough of the last windows are out", labels=labels
    )
    for one in snapshot.drift:
        key = [one.target, one.kind]
        score.add_metric(key, one.score)
        threshold.add_metric(key, one.threshold)
        drifting.add_metric(key, float(one.is_drifting))
    yield from (score, threshold, drifting)


def _retrains(snapshot: FleetSnapshot) -> Iterator[Metric]:
    """Retraining counters, with a sample for every outcome, so that the first event is an increase."""
    finished = CounterMetricFamily("model_retrains", "finished retrainings by outcome", labels=["outcome"])
    for outcome in RETRAIN_OUTCOMES:
        finished.add_metric([outcome], snapshot.retrains.outcomes.get(outcome, 0))
    yield finished
    yield _gauge("model_retrain_running", "running retrainings", snapshot.retrains.running)
    watches = GaugeMetricFamily(
        "model_promotion_watches", "automatic promotions by state of their monitoring", labels=["state"]
    )
    for state in WATCH_STATES:
        watches.add_metric([state], snapshot.retrains.watches.get(state, 0))
    yield watches


def _registry(registry: RegistryPoller) -> Iterator[Metric]:
    yield _gauge("model_registry_up", "1 if the model registry is available", float(registry.is_up))
    state = registry.state
    if state is None:
        return
    trained = CounterMetricFamily("model_training", "model versions trained and registered", labels=["metric"])
    for target, count in state.trainings.items():
        trained.add_metric([target], count)
    yield trained
    events = CounterMetricFamily("model_registry_events", "events in the registry's history", labels=["kind"])
    for kind, count in state.events.items():
        events.add_metric([kind], count)
    yield events
    versions = GaugeMetricFamily("model_version", "version that an alias points at", labels=["metric", "role"])
    for role, aliases in (("champion", state.champions), ("challenger", state.challengers)):
        for target, version in aliases.items():
            versions.add_metric([target, role], version)
    yield versions
    if state.release is not None:
        yield _gauge("model_release", "version of the release that serves", state.release)


def _gauge(name: str, description: str, value: float) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, description)
    gauge.add_metric([], value)
    return gauge
