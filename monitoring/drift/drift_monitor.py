"""The watcher of drift: window after window of event time, each champion against what it was fitted on."""

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
from telemetry.errors import TwinError
from telemetry.settings import Settings

logger = logging.getLogger(__name__)

NO_REFERENCE = "no reference"
#: A store that was never looked at is looked at from so many windows back.
BACKFILL_WINDOWS = 60
#: Models that are measured at a time, and one that a rollback may bring back.
_CACHED_BOUNDS = 8
#: A window is looked at so long after its end was seen, when predictions and truths have arrived.
ALLOWED_LATENESS_S = 15.0
_RETRY_S = 5.0
#: A registry that could not be asked is asked again after this long.
_REGISTRY_RETRY_S = 30.0

#: Reference of a target's model by name and version; None where it has none.
ReferenceOf = Callable[[str, str, str], Reference | None]


@dataclass(frozen=True)
class DriftRound:
    """What one round did.

    Attributes:
        windows: rows of `drift_windows` that are new.
        more: there is more to do at once.
    """

    windows: int = 0
    more: bool = False


class DriftMonitor:
    """Writes `drift_windows` and `drift_status` from what the store holds.  Any number may run; one of them works.

    Args:
        reference_of: raises `RegistryUnavailableError` where it cannot be had now, and the windows of that model wait.
    """

    def __init__(self, dsn: str, reference_of: ReferenceOf, params: DriftParams) -> None:
        self._store = DriftStore(dsn)
        self._params = params
        self._length = timedelta(seconds=params.window_s)
        self._bounds_of = lru_cache(_CACHED_BOUNDS)(self._make_bounds)
        self._reference_of = reference_of
        self._ask_again_at: dict[tuple[str, str], float] = {}
        self._clocks: deque[tuple[float, datetime]] = deque()

    def run(self, stop: threading.Event, interval_s: float) -> None:
        """Rounds until `stop` is set, `interval_s` apart where nothing waits; errors of the database are waited out.

        Windows of the past are caught up with half of the time, the other half is left to whoever else uses the store.
        """
        try:
            while not stop.is_set():
                began = time.monotonic()
                try:
                    done = self.round(ALLOWED_LATENESS_S)
                except psycopg2.Error as error:
                    logger.warning("drift could not be looked for: %s", str(error).strip())
                    stop.wait(_RETRY_S)
                else:
                    stop.wait(time.monotonic() - began if done.more else interval_s)
        finally:
            self.close()

    def catch_up(self) -> int:
        """Rounds until no whole window waits; how many rows of `drift_windows` are new."""
        found = 0
        while True:
            done = self.round()
            found += done.windows
            if not done.more:
                return found

    def close(self) -> None:
        """Let go of the connection."""
        self._store.close()

    def round(self, lateness_s: float = 0.0) -> DriftRound:
        """Look at the next whole window of every champion that is due.

        Args:
            lateness_s: only at windows whose end was seen so long ago, on the wall clock.

        Raises:
            psycopg2.Error: the database did not answer; what was not done is done by a later round.
        """
        if not self._store.try_lock():
            return DriftRound()
        connection = self._store.connection()
        now = windows.clock(connection, self._params.min_batteries)
        if now is None:
            return DriftRound()
        followed = self._follow(now)
        until = self._settled(now, lateness_s)
        measured = [one for one in followed.values() if self._bounds(one) is not None]
        if until is None or not measured:
            return DriftRound()
        start = min(one.looked_until for one in measured)
        if start + self._length > until:
            return DriftRound()
        found = self._look(start, [one for one in measured if one.looked_until == start])
        waiting = [max(one.looked_until, start + self._length) for one in measured]
        return DriftRound(found, min(waiting) + self._length <= until)

    def _settled(self, now: datetime, lateness_s: float) -> datetime | None:
        """The clock as it was `lateness_s` ago."""
        at = time.monotonic()
        self._clocks.append((at, now))
        settled = None
        while self._clocks and self._clocks[0][0] <= at - lateness_s:
            settled = self._clocks.popleft()
        if settled is not None:
            self._clocks.appendleft(settled)
        return None if settled is None else settled[1]

    def _follow(self, now: datetime) -> dict[str, MonitoredModel]:
        """The champions that predict now; one that is new is followed from its first whole window on."""
        followed = self._store.followed()
        present = windows.champions(self._store.connection())
        new = {
            target: model
            for target, model in present.items()
            if target not in followed or (followed[target].model_name, followed[target].model_version) != model
        }
        if not new:
            return followed
        earliest = windows.window_start(now, self._params) - BACKFILL_WINDOWS * self._length
        battery_ids = windows.sample(self._store.connection(), earliest, now + self._length, self._params.batteries)
        for target, model in new.items():
            before = followed.get(target)
            begin = earliest if before is None else max(earliest, before.looked_until)
            since = windows.first_window(self._store.connection(), target, model, battery_ids, begin, now, self._params)
            followed[target] = self._begin(target, model, since)
        return followed

    def _begin(self, target: str, model: tuple[str, str], since: datetime) -> MonitoredModel:
        one = MonitoredModel(target, *model, since, since, "the registry has not been asked yet")
        self._store.follow(one)
        return one

    def _bounds(self, one: MonitoredModel) -> Bounds | None:
        """What `one` is measured by; None where that is not known now, or never: its note says which."""
        model = (one.model_name, one.model_version)
        if time.monotonic() < self._ask_again_at.get(model, 0.0):
            return None
        try:
            bounds, note = self._bounds_of(one.target, one.model_name, one.model_version)
        except RegistryUnavailableError as error:
            self._ask_again_at[model] = time.monotonic() + _REGISTRY_RETRY_S
            logger.warning("drift of %s waits for the registry: %s", one.target, error)
            bounds, note = None, "the registry is away"
        if note != one.note:
            self._store.explain(one, note)
        return bounds

    def _make_bounds(self, target: str, name: str, version: str) -> tuple[Bounds | None, str | None]:
        reference = self._reference_of(target, name, version)
        note = NO_REFERENCE if reference is None else too_small(reference, self._params)
        if reference is None or note is not None:
            logger.warning("drift of %s version %s is not measured: %s", name, version, note)
            return None, note
        return Bounds(reference, self._params), None

    def _look(self, start: datetime, champions: list[MonitoredModel]) -> int:
        end = start + self._length
        connection = self._store.connection()
        battery_ids = windows.sample(connection, start, end, self._params.batteries)
        moments = windows.moments(connection, battery_ids, start, self._params)
        found = 0
        for one in champions:
            bounds = self._bounds(one)
            if bounds is None:
                continue
            own = moments[TARGETS[one.target].cadence]
            seen: dict[DriftKind, windows.WindowValues] = {
                "features": own.of(bounds.names),
                "predictions": windows.predictions(connection, one, own),
                "errors": windows.errors(connection, one, start, end),
            }
            counting = [
                self._measured(kind, values, bounds, start)
                for kind, values in seen.items()
                if values.counts(self._params)
            ]
            self._store.write(one, counting, end, self._params)
            found += len(counting)
        return found

    def _measured(self, kind: DriftKind, values: windows.WindowValues, bounds: Bounds, start: datetime) -> DriftWindow:
        measured = bounds.measure(kind, values.battery, values.values)
        return DriftWindow(
            kind,
            start,
            start + self._length,
            samples=values.samples,
            batteries=values.batteries,
            score=measured.score,
            threshold=measured.threshold,
            detail={"moved": list(measured.moved.items())} if measured.moved else {},
        )


def registered_references(settings: Settings) -> ReferenceOf:
    """The references that the registry keeps beside its models."""

    def reference_of(target: str, name: str, version: str) -> Reference | None:
        domain = name.removesuffix(f"-{target}")
        if not version.isdecimal() or domain == name or not has_registry(settings):
            return None
        from mlflow.exceptions import MlflowException

        from training.registry.registry_store import RegistryStore

        try:
            rows = RegistryStore.open(settings, domain, fail_fast=True).reference(target, int(version))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise RegistryUnavailableError(str(error)) from error
        except TwinError as error:  # a name that no model of ours can have: somebody else predicts here
            logger.warning("no reference of %s version %s: %s", name, version, error.sentence)
            return None
        except OSError as error:
            raise RegistryUnavailableError(str(error)) from error
        return None if rows is None else Reference.of(target, rows)

    return reference_of
