"""The Prometheus metrics of the contract, read from the store when Prometheus asks.

A value that is not known has no sample: it is never a guess.  Gauges are by battery, histograms and counts over the
fleet by target (`metric`), so that the number of series is that of the batteries and the targets.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime

import psycopg2
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from monitoring.fleet_queries import FleetReader, FleetSnapshot, NewestReading
from monitoring.registry_poll import RegistryPoller
from monitoring.target_metrics import TARGET_METRICS, TargetMetrics

logger = logging.getLogger(__name__)

#: Two that ask at once get one answer.
_CACHE_S = 1.0
#: A scrape waits so long for the store and then says that it is away: Prometheus gives up after 4 s, and would call the
#: exporter down.
_READ_TIMEOUT_S = 2.5
#: A battery that was never predicted waits for it only if it was heard of so lately: others came with an import.
_RECENTLY_SEEN_S = 3600.0

#: As the table `retrains` has them.
RETRAIN_OUTCOMES = ("promoted", "not_promoted", "failed", "stopped")
WATCH_STATES = ("watching", "passed", "rolled_back", "superseded")

#: Gauge -> what it means, and where a reading has it.
_READING_GAUGES: dict[str, tuple[str, Callable[[NewestReading], float | None]]] = {
    "battery_soc_actual": ("state of charge, %", lambda one: one.soc),
    "battery_temperature_actual": ("hottest probe, degC", lambda one: one.temperature),
    "battery_temperature_predicted": ("forecast for this moment, degC", lambda one: one.temperature_predicted),
    "battery_voltage": ("terminal voltage, V", lambda one: one.voltage),
    "battery_current": ("current, A, positive while discharging", lambda one: one.current),
    "battery_power": ("power, kW, positive while discharging", lambda one: one.voltage * one.current / 1e3),
    "battery_last_reading_timestamp_seconds": (
        "when the newest reading reached the store, s since the epoch",
        lambda one: one.stored_at.timestamp(),
    ),
}
#: Gauge -> what it means, and the target whose newest prediction it is.
_PREDICTION_GAUGES: dict[str, tuple[str, str]] = {
    "battery_soh_predicted": ("state of health, %", "soh"),
    "battery_temperature_forecast": ("temperature at the horizon from now, degC", "temperature"),
    "battery_rul_predicted": ("remaining equivalent full cycles", "rul"),
    "battery_failure_predicted": ("failure probability", "failure"),
}
#: Gauge -> what it means, and the target whose newest known truth it is.
_LABEL_GAUGES: dict[str, tuple[str, str]] = {
    "battery_rul_actual": ("remaining equivalent full cycles at the newest judged prediction, once it failed", "rul"),
    "battery_failure_actual": ("1 failed within the horizon of the newest judged prediction, 0 did not", "failure"),
}


@dataclass(frozen=True)
class _Answer:
    """What one reading of the store gave.

    Attributes:
        snapshot: None where the store did not answer.
        predictions: how many there were since the start, by battery.
        errors: of each target the cumulative buckets and the sum, since the start.
    """

    snapshot: FleetSnapshot | None = None
    predictions: Mapping[str, int] = field(default_factory=dict)
    errors: Sequence[tuple[str, list[tuple[str, float]], float]] = ()


class TwinCollector(Collector):
    """Reads the store at every scrape, and holds what is counted since the start.

    It is read in a thread of its own, so that one that neither answers nor refuses is said to be away as well.

    Args:
        clock: the wall clock, s since the epoch.
    """

    def __init__(self, reader: FleetReader, registry: RegistryPoller, clock: Callable[[], float] = time.time) -> None:
        self._reader = reader
        self._registry = registry
        self._clock = clock
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._pool = ThreadPoolExecutor(1)
        self._reading: Future[_Answer] | None = None
        self._histograms = {target: _Histogram(watched) for target, watched in TARGET_METRICS.items()}
        self._answer = self._counted(None)

    def collect(self) -> Iterator[Metric]:
        """Every metric, now."""
        answer = self._newest()
        snapshot = answer.snapshot
        yield _gauge("twin_store_up", "1 if the telemetry store answers", 0.0 if snapshot is None else 1.0)
        if snapshot is not None:
            yield from _battery_gauges(snapshot)
            state = self._registry.state
            has_release = state is not None and state.release is not None
            yield from _lag(snapshot, self._clock(), has_release=has_release)
            yield from _accuracy(snapshot)
            yield from _models(snapshot)
            yield from _drift(snapshot)
            yield from _retrains(snapshot)
        made = CounterMetricFamily("predictions", "champion predictions stored, all targets", labels=["battery_id"])
        for battery_id, count in answer.predictions.items():
            made.add_metric([battery_id], count)
        yield made
        errors = HistogramMetricFamily(
            "prediction_error", "absolute error of the champion, in the unit of the metric", labels=["metric"]
        )
        for target, buckets, total in answer.errors:
            errors.add_metric([target], buckets, total)
        yield errors
        yield from _registry(self._registry)

    def _newest(self) -> _Answer:
        with self._lock:
            if time.monotonic() - self._asked_at > _CACHE_S:
                reading, self._reading = self._reading or self._pool.submit(self._read), None
                try:
                    self._answer = reading.result(_READ_TIMEOUT_S)
                except TimeoutError:
                    logger.warning("the telemetry store did not answer within %g s", _READ_TIMEOUT_S)
                    self._reading = reading  # which goes on
                    self._answer = replace(self._answer, snapshot=None)
                self._asked_at = time.monotonic()
            return self._answer

    def _read(self) -> _Answer:
        snapshot = None
        try:
            snapshot = self._reader.read()
        except psycopg2.Error as error:
            logger.warning("the telemetry store could not be read: %s", str(error).strip())
        return self._counted(snapshot)

    def _counted(self, snapshot: FleetSnapshot | None) -> _Answer:
        for target, errors in self._reader.take_errors().items():
            for size in errors:
                self._histograms[target].observe(size)
        return _Answer(
            snapshot, dict(self._reader.predictions), [one.family_sample() for one in self._histograms.values()]
        )


class _Histogram:
    """Absolute errors of one target."""

    def __init__(self, watched: TargetMetrics) -> None:
        self._watched = watched
        self._counts = [0] * (len(watched.error_buckets) + 1)
        self._sum = 0.0

    def observe(self, error: float) -> None:
        self._counts[bisect_left(self._watched.error_buckets, error)] += 1
        self._sum += error

    def family_sample(self) -> tuple[str, list[tuple[str, float]], float]:
        """Target, cumulative buckets and sum, as `HistogramMetricFamily.add_metric` takes them."""
        bounds = [*(str(bound) for bound in self._watched.error_buckets), "+Inf"]
        total, buckets = 0, []
        for bound, count in zip(bounds, self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return self._watched.target, buckets, self._sum


def _battery_gauges(snapshot: FleetSnapshot) -> Iterator[Metric]:
    for name, (description, value_of) in _READING_GAUGES.items():
        gauge = GaugeMetricFamily(name, description, labels=["battery_id"])
        for reading in snapshot.readings:
            if (value := value_of(reading)) is not None:
                gauge.add_metric([reading.battery_id], value)
        yield gauge
    health = GaugeMetricFamily("battery_soh_actual", "state of health as the pack reports it or it was measured, %",
                               labels=["battery_id"])  # fmt: skip
    for reading in snapshot.readings:
        value = reading.soh if reading.soh is not None else snapshot.actual.get((reading.battery_id, "soh"))
        if value is not None:
            health.add_metric([reading.battery_id], value)
    yield health
    standing = snapshot.standing()
    for name, (description, target) in _PREDICTION_GAUGES.items():
        gauge = GaugeMetricFamily(name, description, labels=["battery_id"])
        bounds = GaugeMetricFamily(f"{name}_interval", f"{description}: its interval", labels=["battery_id", "bound"])
        for prediction in standing:
            if prediction.target == target:
                gauge.add_metric([prediction.battery_id], prediction.value)
                for bound, limit in (("lower", prediction.lower), ("upper", prediction.upper)):
                    if limit is not None:
                        bounds.add_metric([prediction.battery_id, bound], limit)
        yield gauge
        if bounds.samples:
            yield bounds
    for name, (description, target) in _LABEL_GAUGES.items():
        gauge = GaugeMetricFamily(name, description, labels=["battery_id"])
        for (battery_id, known), actual in snapshot.actual.items():
            if known == target:
                gauge.add_metric([battery_id], actual)
        yield gauge


def _lag(snapshot: FleetSnapshot, now_s: float, *, has_release: bool) -> Iterator[Metric]:
    """Of a store that nobody predicts from, and that nobody could, no battery waits."""
    lag = GaugeMetricFamily(
        "prediction_lag_seconds",
        "how long the oldest reading without a prediction has been waiting in the store",
        labels=["battery_id"],
    )
    is_predicted = has_release or bool(snapshot.predictions)
    for reading in snapshot.readings:
        is_heard_of = now_s - reading.stored_at.timestamp() < _RECENTLY_SEEN_S
        if reading.predicted_until is not None or (is_predicted and is_heard_of):
            lag.add_metric([reading.battery_id], _waiting_s(reading.waiting_since, now_s))
    yield lag


def _waiting_s(since: datetime | None, now_s: float) -> float:
    return 0.0 if since is None else max(now_s - since.timestamp(), 0.0)


def _accuracy(snapshot: FleetSnapshot) -> Iterator[Metric]:
    accuracy = GaugeMetricFamily(
        "prediction_accuracy", "100 x max(0, 1 - |error| / max(|actual|, floor)), newest outcomes, %", labels=["metric"]
    )
    error = GaugeMetricFamily(
        "prediction_mean_absolute_error", "of the newest outcomes, in the metric's unit", labels=["metric", "role"]
    )
    outcomes = GaugeMetricFamily("prediction_recent_outcomes", "how many those are", labels=["metric", "role"])
    coverage = GaugeMetricFamily(
        "prediction_interval_coverage", "share of truths inside their intervals, newest outcomes", labels=["metric"]
    )
    with_interval = GaugeMetricFamily(
        "prediction_interval_outcomes", "newest outcomes that had an interval", labels=["metric"]
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


def _models(snapshot: FleetSnapshot) -> Iterator[Metric]:
    """Who made the newest predictions, and for how many batteries: more than one only while a release is replaced."""
    counts: dict[tuple[str, str, str], int] = {}
    for one in snapshot.predictions:
        key = (one.target, one.model_name, one.model_version)
        counts[key] = counts.get(key, 0) + 1
    info = GaugeMetricFamily(
        "model_batteries", "batteries whose newest prediction a model made", labels=["metric", "model", "version"]
    )
    for labels, count in counts.items():
        info.add_metric(labels, count)
    yield info


def _drift(snapshot: FleetSnapshot) -> Iterator[Metric]:
    labels = ["metric", "kind"]
    score = GaugeMetricFamily("model_drift_score", "distance from the training reference", labels=labels)
    threshold = GaugeMetricFamily("model_drift_threshold", "score from which it counts as drift", labels=labels)
    drifting = GaugeMetricFamily("model_drifting", "1 while enough windows are out of bounds", labels=labels)
    for one in snapshot.drift:
        key = [one.target, one.kind]
        score.add_metric(key, one.score)
        threshold.add_metric(key, one.threshold)
        drifting.add_metric(key, float(one.is_drifting))
    yield from (score, threshold, drifting)


def _retrains(snapshot: FleetSnapshot) -> Iterator[Metric]:
    """All of the outcomes from the start, so that the first of its kind is an increase."""
    ended = CounterMetricFamily("model_retrains", "trainings on what was lived, by how they ended", labels=["outcome"])
    for outcome in RETRAIN_OUTCOMES:
        ended.add_metric([outcome], snapshot.retrains.outcomes.get(outcome, 0))
    yield ended
    yield _gauge("model_retrain_running", "trainings that have begun and not ended", snapshot.retrains.running)
    watches = GaugeMetricFamily(
        "model_promotion_watches", "promotions by themselves that are or were compared afterwards", labels=["state"]
    )
    for state in WATCH_STATES:
        watches.add_metric([state], snapshot.retrains.watches.get(state, 0))
    yield watches


def _registry(registry: RegistryPoller) -> Iterator[Metric]:
    yield _gauge("model_registry_up", "1 if the model registry answers", float(registry.is_up))
    state = registry.state
    if state is None:
        return
    trained = CounterMetricFamily("model_training", "models trained and registered", labels=["metric"])
    for target, count in state.trainings.items():
        trained.add_metric([target], count)
    yield trained
    events = CounterMetricFamily("model_registry_events", "changes in the registry", labels=["kind"])
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
