"""Runs drift detection: measures each window of event time of each champion against its training reference."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

import psycopg2

from features.targets import TARGETS
from monitoring.drift import windows
from monitoring.drift.bounds import Bounds, too_small
from monitoring.drift.drift_params import DriftParams
from monitoring.drift.drift_store import DriftKind, DriftStore, DriftWindow, MonitoredModel
from monitoring.drift.training_reference import Reference
from monitoring.registry_poll import RegistryUnavailableError, has_registry
from monitoring.unreadable import DATA_ERRORS, UnreadableRows
from telemetry.errors import TwinError
from telemetry.settings import Settings

logger = logging.getLogger(__name__)

NO_REFERENCE = "no reference"
REGISTRY_UNAVAILABLE = "the registry is unavailable"
#: Windows that are backfilled when a target is monitored for the first time.
BACKFILL_WINDOWS = 60
#: Cached bounds: the models measured at a time, and those that a rollback may bring back.
_CACHED_BOUNDS = 8
#: Wall-clock delay between the watermark passing a window's end and its measurement, for late predictions and labels.
ALLOWED_LATENESS_S = 15.0
_RETRY_S = 5.0
#: Backoff after a failed request to the registry.
_REGISTRY_RETRY_S = 30.0

#: Training reference by target, model name and version; None without one.
ReferenceOf = Callable[[str, str, str], Reference | None]


@dataclass(frozen=True)
class DriftRound:
    """Result of one run.

    Attributes:
        windows: number of new rows of `drift_windows`.
        more: another window is due now.
    """

    windows: int = 0
    more: bool = False


class DriftMonitor:
    """Writes `drift_windows` and `drift_status` from the store.  Any number may run; an advisory lock admits one.

    Args:
        reference_of: raises `RegistryUnavailableError` while it cannot be read; the windows of that model wait.
        max_future_s: as in `StoreConnection`.
        unreadable: counts the batteries that a window leaves out.
    """

    def __init__(
        self,
        dsn: str,
        reference_of: ReferenceOf,
        params: DriftParams,
        max_future_s: float | None = None,
        unreadable: UnreadableRows | None = None,
    ) -> None:
        self._store = DriftStore(dsn, max_future_s)
        self._params = params
        self._unreadable = UnreadableRows() if unreadable is None else unreadable
        self._length = timedelta(seconds=params.window_s)
        self._bounds_of = lru_cache(_CACHED_BOUNDS)(self._make_bounds)
        self._reference_of = reference_of
        self._retry_at: dict[tuple[str, str], float] = {}
        self._watermarks: deque[tuple[float, datetime]] = deque()

    def run(self, stop: threading.Event, interval_s: float) -> None:
        """Run until `stop` is set, every `interval_s` when no window is due; errors of the store are retried.

        The backfill of old windows uses half of the time, so that other users of the store are not starved.
        """
        try:
            while not stop.is_set():
                started = time.monotonic()
                try:
                    result = self.run_once(ALLOWED_LATENESS_S)
                except psycopg2.Error as error:
                    logger.warning("drift could not be measured: %s", str(error).strip())
                    stop.wait(_RETRY_S)
                except DATA_ERRORS:
                    logger.exception("the telemetry store holds rows in which drift cannot be measured")
                    stop.wait(_RETRY_S)
                else:
                    stop.wait(time.monotonic() - started if result.more else interval_s)
        finally:
            self.close()

    def catch_up(self) -> int:
        """Run until no complete window is due; returns the number of new rows of `drift_windows`."""
        new_windows = 0
        while True:
            result = self.run_once()
            new_windows += result.windows
            if not result.more:
                return new_windows

    def close(self) -> None:
        """Close the connection."""
        self._store.close()

    def run_once(self, lateness_s: float = 0.0) -> DriftRound:
        """Measure the next complete window of every champion that is due.

        Args:
            lateness_s: wait this long, on the wall clock, after the watermark has passed the end of a window.

        Raises:
            psycopg2.Error: the database failed; the next run resumes.
        """
        if not self._store.try_lock():
            return DriftRound()
        connection = self._store.connection()
        watermark = windows.watermark(connection, self._params.min_batteries)
        if watermark is None:
            return DriftRound()
        models = self._update_monitored(watermark)
        until = self._delayed_watermark(watermark, lateness_s)
        measurable = [model for model in models.values() if self._bounds(model) is not None]
        if until is None or not measurable:
            return DriftRound()
        start = min(model.looked_until for model in measurable)
        if start + self._length > until:
            return DriftRound()
        new_windows = self._measure_window(start, [model for model in measurable if model.looked_until == start])
        next_starts = [max(model.looked_until, start + self._length) for model in measurable]
        return DriftRound(new_windows, min(next_starts) + self._length <= until)

    def _delayed_watermark(self, watermark: datetime, lateness_s: float) -> datetime | None:
        """The watermark as it was `lateness_s` ago."""
        now = time.monotonic()
        self._watermarks.append((now, watermark))
        delayed = None
        while self._watermarks and self._watermarks[0][0] <= now - lateness_s:
            delayed = self._watermarks.popleft()
        if delayed is not None:
            self._watermarks.appendleft(delayed)
        return None if delayed is None else delayed[1]

    def _update_monitored(self, watermark: datetime) -> dict[str, MonitoredModel]:
        """The current champions; a new one is monitored from its first complete window on."""
        monitored = self._store.monitored_models()
        current = windows.current_champions(self._store.connection())
        new = {
            target: model
            for target, model in current.items()
            if target not in monitored or (monitored[target].model_name, monitored[target].model_version) != model
        }
        if not new:
            return monitored
        earliest = windows.window_start(watermark, self._params) - BACKFILL_WINDOWS * self._length
        battery_ids = windows.sample_batteries(
            self._store.connection(), earliest, watermark + self._length, self._params.batteries
        )
        for target, (name, version) in new.items():
            previous = monitored.get(target)
            start = earliest if previous is None else max(earliest, previous.looked_until)
            since = windows.first_window(
                self._store.connection(), target, (name, version), battery_ids, start, watermark, self._params
            )
            monitored[target] = MonitoredModel(target, name, version, since, since, "the registry is not read yet")
            self._store.start_monitoring(monitored[target])
        return monitored

    def _bounds(self, model: MonitoredModel) -> Bounds | None:
        """Bounds of `model`; None while the registry is unavailable or without a usable reference: see its note."""
        key = (model.model_name, model.model_version)
        if time.monotonic() < self._retry_at.get(key, 0.0):
            return None
        try:
            bounds, note = self._bounds_of(model.target, model.model_name, model.model_version)
        except RegistryUnavailableError as error:
            self._retry_at[key] = time.monotonic() + _REGISTRY_RETRY_S
            logger.warning("drift of %s waits for the registry: %s", model.target, error)
            bounds, note = None, REGISTRY_UNAVAILABLE
        if note != model.note:
            self._store.set_note(model, note)
        return bounds

    def _make_bounds(self, target: str, name: str, version: str) -> tuple[Bounds | None, str | None]:
        reference = self._reference_of(target, name, version)
        note = NO_REFERENCE if reference is None else too_small(reference, self._params)
        if reference is None or note is not None:
            logger.warning("drift of %s version %s is not measured: %s", name, version, note)
            return None, note
        return Bounds(reference, self._params), None

    def _measure_window(self, start: datetime, champions: list[MonitoredModel]) -> int:
        end = start + self._length
        connection = self._store.connection()
        battery_ids = windows.sample_batteries(connection, start, end, self._params.batteries)
        features = windows.window_features(connection, battery_ids, start, self._params, self._unreadable)
        new_windows = 0
        for model in champions:
            bounds = self._bounds(model)
            if bounds is None:
                continue
            rows = features[TARGETS[model.target].cadence]
            by_kind: dict[DriftKind, windows.WindowValues] = {
                "features": rows.columns(bounds.names),
                "predictions": windows.predictions(connection, model, rows),
                "errors": windows.errors(connection, model, start, end),
            }
            measured = [
                self._measure(kind, values, bounds, start)
                for kind, values in by_kind.items()
                if values.is_sufficient(self._params)
            ]
            self._store.write(model, measured, end, self._params)
            new_windows += len(measured)
        return new_windows

    def _measure(self, kind: DriftKind, values: windows.WindowValues, bounds: Bounds, start: datetime) -> DriftWindow:
        distance = bounds.measure(kind, values.battery, values.values)
        return DriftWindow(
            kind,
            start,
            start + self._length,
            samples=values.samples,
            batteries=values.batteries,
            score=distance.score,
            threshold=distance.threshold,
            detail={"moved": list(distance.moved.items())} if distance.moved else {},
        )


def registered_references(settings: Settings) -> ReferenceOf:
    """Loader of the training references that are registered with the models."""

    def reference_of(target: str, name: str, version: str) -> Reference | None:
        namespace = name.removesuffix(f"-{target}")
        if not version.isdecimal() or namespace == name or not has_registry(settings):
            return None
        from mlflow.exceptions import MlflowException

        from training.registry.registry_store import RegistryStore

        try:
            rows = RegistryStore.open(settings, namespace, fail_fast=True).reference(target, int(version))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise RegistryUnavailableError(str(error)) from error
        except TwinError as error:
            if error.field != "domain":
                raise RegistryUnavailableError(error.sentence) from error
            # Not a valid name of this registry: another system writes predictions here.
            logger.warning("no training reference for %s version %s: %s", name, version, error.sentence)
            return None
        except OSError as error:
            raise RegistryUnavailableError(str(error)) from error
        return None if rows is None else Reference.from_rows(target, rows)

    return reference_of
