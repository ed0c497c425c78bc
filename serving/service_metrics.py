"""What the service counts, for Prometheus; right for any number of workers.

With PROMETHEUS_MULTIPROC_DIR in the environment (BentoML sets it) every worker writes to files there
and any of them answers for all.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from features.targets import TARGET_NAMES
from serving.predictor import Predictor
from serving.request_scoring import Answer

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


#: What may fail when the champion is followed.
Reason = Literal["registry", "release", "challenger"]
#: Why a challenger's prediction is not kept: too many wait, the store refused it, the challenger failed, the end came.
Loss = Literal["full", "refused", "failed", "stopped"]


class ReleaseMetrics:
    """Which release this process answers from, and what keeps it from another."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # Gauges have labels, so that a process that never serves, like BentoML's parent, shows none.
        self._version = Gauge(
            "release_version", "Version that answers", ["name"], registry=registry, multiprocess_mode="liveall"
        )
        self._loaded = Gauge(
            "release_loaded_timestamp_seconds",
            "When the version that answers took over",
            ["name"],
            registry=registry,
            multiprocess_mode="liveall",
        )
        self._challenger = Gauge(
            "challenger_version",
            "Version that predicts beside the champion, 0 for none",
            ["target"],
            registry=registry,
            multiprocess_mode="liveall",
        )
        self._failures = Counter(
            "release_load_failures", "Attempts to follow the champion that failed", ["reason"], registry=registry
        )
        self._failing = Gauge(
            "release_load_failing",
            "1 while the last attempt failed",
            ["reason"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._failed: set[Reason] = set()

    def serving(self, champion: Predictor, challenger: Predictor | None) -> None:
        """Tell who answers from now on."""
        self._version.labels(champion.name).set(champion.version)
        self._loaded.labels(champion.name).set(time.time())
        shadows = {} if challenger is None else challenger.versions
        for target in TARGET_NAMES:
            self._challenger.labels(target).set(shadows.get(target, 0))

    def failed(self, reason: Reason) -> bool:
        """Count a failure; whether it is the first since this last succeeded."""
        self._failures.labels(reason).inc()
        self._failing.labels(reason).set(1)
        first = reason not in self._failed
        self._failed.add(reason)
        return first

    def succeeded(self, reason: Reason) -> None:
        """What failed, if it did, does not any more."""
        if reason in self._failed:
            self._failed.remove(reason)
            self._failing.labels(reason).set(0)


class ShadowMetrics:
    """What became of the predictions of challengers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._recorded = Counter("shadow_predictions", "Predictions of challengers stored", registry=registry)
        self._lost = Counter("shadow_predictions_lost", "Predictions not stored", ["reason"], registry=registry)

    def recorded(self, predictions: int) -> None:
        """Count predictions that are in the store."""
        self._recorded.inc(predictions)

    def lost(self, predictions: int, reason: Loss) -> None:
        """Count predictions that never will be."""
        self._lost.labels(reason).inc(predictions)


class Metrics:
    """Counters and histograms of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.release = ReleaseMetrics(self._registry)
        self.shadow = ShadowMetrics(self._registry)
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
        stale = sum(answer.stale_readings.tolist()) + sum(answer.stale_cycles.tolist())
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
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder is None:
            return generate_latest(self._registry)
        _forget_dead_workers(Path(folder))
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone)


def _forget_dead_workers(folder: Path) -> None:
    """Drop the gauges of workers that are gone; what they counted stays."""
    for file in folder.glob("gauge_live*_*.db"):
        process_id = int(file.stem.rpartition("_")[2])
        try:
            os.kill(process_id, 0)  # asks only
        except ProcessLookupError:
            mark_process_dead(process_id)  # type: ignore[no-untyped-call]
