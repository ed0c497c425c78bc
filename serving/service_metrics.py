"""Prometheus metrics of the prediction service, aggregated over all worker processes.

With PROMETHEUS_MULTIPROC_DIR in the environment (BentoML sets it) every worker writes its values to files there, and
each worker exposes the sum over all of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from features.plausibility import KIND_NAMES
from features.targets import TARGET_NAMES
from serving.batch_scoring import BatchResult
from serving.predictor import Predictor
from serving.request_decoding import DecodedRequest
from serving.request_scoring import ScoringResult

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


#: Steps of loading releases that may fail.
FailureReason = Literal["registry", "release", "challenger"]
#: Why a challenger's prediction is not stored: queue full, rejected by the store, challenger failed, process stopped.
LossReason = Literal["full", "refused", "failed", "stopped"]


class ReleaseMetrics:
    """Versions of the served models, and failures to load others."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # Gauges have labels, so that a process that does not serve, like BentoML's parent, exposes no value.
        self._version = Gauge(
            "release_version", "Version of the served release", ["name"], registry=registry, multiprocess_mode="liveall"
        )
        self._loaded = Gauge(
            "release_loaded_timestamp_seconds",
            "When the served release was loaded",
            ["name"],
            registry=registry,
            multiprocess_mode="liveall",
        )
        self._challenger = Gauge(
            "challenger_version",
            "Version of the challenger, 0 for none",
            ["target"],
            registry=registry,
            multiprocess_mode="liveall",
        )
        self._failures = Counter(
            "release_load_failures",
            "Failed attempts to read the registry or load models",
            ["reason"],
            registry=registry,
        )
        self._failing = Gauge(
            "release_load_failing",
            "1 if the last attempt failed",
            ["reason"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._failed: set[FailureReason] = set()

    def record_versions(self, champion: Predictor, challenger: Predictor | None) -> None:
        """Set the gauges to the versions that are served from now on."""
        self._version.labels(champion.name).set(champion.version)
        self._loaded.labels(champion.name).set(time.time())
        shadows = {} if challenger is None else challenger.versions
        for target in TARGET_NAMES:
            self._challenger.labels(target).set(shadows.get(target, 0))

    def record_failure(self, reason: FailureReason) -> bool:
        """Count a failure; returns whether it is the first since the last success."""
        self._failures.labels(reason).inc()
        self._failing.labels(reason).set(1)
        first = reason not in self._failed
        self._failed.add(reason)
        return first

    def record_success(self, reason: FailureReason) -> None:
        """Reset the failure gauge of `reason`."""
        if reason in self._failed:
            self._failed.remove(reason)
            self._failing.labels(reason).set(0)


def implausible_counter(registry: CollectorRegistry) -> Counter:
    """Counter of implausible readings by kind; all kinds are exported from the start."""
    counter = Counter(
        "implausible_readings", "Readings with the wrong unit, sign or cells", ["kind"], registry=registry
    )
    for name in KIND_NAMES:
        counter.labels(name)
    return counter


def out_of_range_counter(registry: CollectorRegistry) -> Counter:
    """Counter of optional values out of range, which count as missing, by field."""
    return Counter(
        "values_out_of_range", "Optional values out of range, taken as missing", ["field"], registry=registry
    )


class DescriptionMetrics:
    """Invalid descriptions of batteries in the telemetry store."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._invalid = Counter(
            "battery_values_invalid", "Columns of the table batteries that count as missing", ["field"],
            registry=registry,
        )  # fmt: skip

    def count(self, invalid: Mapping[str, int]) -> None:
        """Count batteries by the column that is outside of the contract."""
        for field, count in invalid.items():
            self._invalid.labels(field).inc(count)


class PredictionMetrics:
    """Predictions stored by the stream scorer or the database predictor, and withheld ones; exported from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._stored = Counter("predictions", "Stored predictions", ["target", "role"], registry=registry)
        self._withheld = Counter("predictions_withheld", "Withheld predictions", ["target"], registry=registry)
        self._implausible = implausible_counter(registry)
        for target in TARGET_NAMES:
            self._stored.labels(target, "champion")
            self._withheld.labels(target)

    def count(self, result: BatchResult) -> None:
        """Count the predictions of `result`, and those that the champion withheld."""
        for (role, target), count in result.predictions.items():
            self._stored.labels(target, role).inc(count)
        for kind, count in result.implausible.items():
            self._implausible.labels(kind).inc(count)
        for target in TARGET_NAMES:
            self._withheld.labels(target).inc(len(result.entries) - result.predictions["champion", target])


class ShadowMetrics:
    """Counters of the challengers' stored and lost predictions."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._stored = Counter("shadow_predictions", "Stored predictions of challengers", registry=registry)
        self._lost = Counter(
            "shadow_predictions_lost", "Predictions of challengers not stored", ["reason"], registry=registry
        )

    def count_stored(self, predictions: int) -> None:
        """Count stored predictions."""
        self._stored.inc(predictions)

    def count_lost(self, predictions: int, reason: LossReason) -> None:
        """Count predictions that will not be stored."""
        self._lost.labels(reason).inc(predictions)


class ServiceMetrics:
    """Counters and histograms of one service process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.release = ReleaseMetrics(self._registry)
        self.shadow = ShadowMetrics(self._registry)
        self.duration = Histogram(
            "prediction_request_duration_seconds",
            "From the start of POST /predict to its response",
            buckets=_SECONDS,
            registry=self._registry,
        )
        predictions = Counter("predictions", "Predictions", ["target"], registry=self._registry)
        withheld = Counter("predictions_withheld", "Withheld predictions", ["target"], registry=self._registry)
        # Resolved once: looking up a child by its label costs more than counting.
        self._predictions = {target: predictions.labels(target) for target in TARGET_NAMES}
        self._withheld = {target: withheld.labels(target) for target in TARGET_NAMES}
        self._stale = Counter(
            "stale_rows", "Readings and cycles left out because they are older than the state", registry=self._registry
        )
        self._unknown = Counter(
            "unknown_fields", "Ignored fields that are not in the contract", registry=self._registry
        )
        self._out_of_range = out_of_range_counter(self._registry)
        self._implausible = implausible_counter(self._registry)
        self._refused = Counter("requests_refused", "Error responses", ["status"], registry=self._registry)
        self._entries_refused = Counter(
            "entries_refused", "Batteries of a request that were not answered", ["status"], registry=self._registry
        )
        for status in ("500", "503"):
            self._refused.labels(status)
        self.abandoned = Counter(
            "requests_abandoned", "Requests whose client closed the connection before the response",
            registry=self._registry,
        )  # fmt: skip

    def count_predictions(self, result: ScoringResult) -> None:
        """Count predictions, withheld predictions and stale rows of `result`."""
        for target, values in result.predicted.items():
            count = values.withheld.count(None)
            if count:
                self._predictions[target].inc(count)
            if count < len(values.withheld):
                self._withheld[target].inc(len(values.withheld) - count)
        not_applied = (result.stale_readings, result.stale_cycles, result.duplicates, result.conflicts)
        stale = sum(sum(counts.tolist()) for counts in not_applied)
        if stale:
            self._stale.inc(stale)
        if result.implausible.any():
            for name, count in zip(KIND_NAMES, result.implausible.sum(axis=0).tolist(), strict=True):
                self._implausible.labels(name).inc(count)

    def count_ignored(self, decoded: DecodedRequest) -> None:
        """Count what was ignored in a request: unknown fields, values out of range and whole entries."""
        if decoded.unknown_fields:
            self._unknown.inc(decoded.unknown_fields)
        for field, count in decoded.out_of_range.items():
            self._out_of_range.labels(field).inc(count)
        for error in decoded.errors:
            self._entries_refused.labels(str(error.status)).inc()

    def count_refused(self, status: int) -> None:
        """Count an error response."""
        self._refused.labels(str(status)).inc()

    def exposition(self) -> bytes:
        """Export the metrics of all workers in Prometheus' text format."""
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder is None:
            return generate_latest(self._registry)
        _drop_gauges_of_dead_workers(Path(folder))
        all_workers = CollectorRegistry()
        MultiProcessCollector(all_workers)  # type: ignore[no-untyped-call]
        return generate_latest(all_workers)


def _drop_gauges_of_dead_workers(folder: Path) -> None:
    """Delete the gauge files of dead worker processes; their counters are kept."""
    for file in folder.glob("gauge_live*_*.db"):
        process_id = int(file.stem.rpartition("_")[2])
        try:
            os.kill(process_id, 0)  # signal 0 only checks whether the process exists
        except ProcessLookupError:
            mark_process_dead(process_id)  # type: ignore[no-untyped-call]
