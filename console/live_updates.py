"""Poll of the telemetry store once a second that updates all open pages and the state of alerts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from nicegui import Event

from console.alerts.alert_lifecycle import Key, SeenReadings, find_transitions
from console.alerts.alert_store import AlertStore
from console.alerts.rules import RULES, Category, Severity
from console.api.health import ConsoleMetrics
from console.changes import FleetChanges
from console.connection_pool import StoreRow, StoreUnavailableError
from console.queries import Queries

_log = logging.getLogger(__name__)

INTERVAL_S = 1.0
#: Poll interval while the store is unavailable, and while no page is open (alerts are still updated).
SLOW_INTERVAL_S = 3.0
#: Upper bound of the share of time that polls take; the pause between two polls is never longer than `_MAX_PAUSE_S`.
_BUSY_SHARE = 0.2
_MAX_PAUSE_S = 10.0
#: A poll that takes longer is reported on every page, repeatedly.
_OVERDUE_S = 3.0
#: Interval at which the changes of the last day are read, while a page is open.
_CHANGES_INTERVAL_S = 60.0


@dataclass(frozen=True)
class FleetSnapshot:
    """State of all batteries and alerts at the last poll.

    Attributes:
        rows: row of every battery by id (columns of `Queries.snapshots`), as of the last successful poll.
        taken_at: time of that poll; None before the first.
        store_time: database clock at that poll.  Ages of rows are relative to it and do not grow while polls fail.
        problem: why the polls since then failed, None if they did not.
        open_alerts: severity by battery and rule.
        muted: keys of the open alerts that are muted.
        alerts_problem: why alerts could not be read or written at that poll, None if they could.
    """

    rows: Mapping[str, StoreRow] = field(default_factory=dict)
    taken_at: datetime | None = None
    store_time: datetime | None = None
    problem: str | None = None
    open_alerts: Mapping[Key, Severity] = field(default_factory=dict)
    muted: frozenset[Key] = frozenset()
    alerts_problem: str | None = None

    def alerts_of(self, *categories: Category) -> dict[Key, Severity]:
        """Open alerts of these categories that are not muted, CRITICAL first."""
        shown = {
            key: severity
            for key, severity in self.open_alerts.items()
            if key not in self.muted and key[1] in RULES and RULES[key[1]].category in categories
        }
        return dict(sorted(shown.items(), key=lambda item: (item[1] != "CRITICAL", item[0])))


class LiveUpdates:
    """Polls the store, updates the alerts, and publishes the snapshot and the ids of changed batteries to `changed`.

    It publishes after every poll, also an unchanged snapshot, so that pages can update the ages that they show.

    Attributes:
        snapshot: result of the last poll.
        changes: changes of the last day, at most a minute old; None until they have been read.
        open_pages: number of open browser pages.
    """

    def __init__(self, queries: Queries, alerts: AlertStore, metrics: ConsoleMetrics) -> None:
        self.snapshot = FleetSnapshot()
        self.changes: FleetChanges | None = None
        self.changed: Event[FleetSnapshot, frozenset[str]] = Event()
        self.open_pages = 0
        self._queries = queries
        self._alerts = alerts
        self._metrics = metrics
        self._seen = SeenReadings()
        self._polled_at = time.monotonic()
        metrics.open_pages.set_function(lambda: self.open_pages)
        metrics.snapshot_age.set_function(lambda: time.monotonic() - self._polled_at)

    async def run(self) -> None:
        """Poll until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_snapshots())
            group.create_task(self._follow_changes())

    async def _follow_snapshots(self) -> None:
        while True:
            began = time.monotonic()
            await self.poll()
            await asyncio.sleep(self._pause(time.monotonic() - began))

    async def _follow_changes(self) -> None:
        """Read the changes of the last day once a minute; pages show them with the next snapshot."""
        while True:
            if self.open_pages and self.snapshot.rows:
                try:
                    self.changes = await asyncio.to_thread(self._queries.changes, self.snapshot.rows)
                except StoreUnavailableError as error:
                    _log.warning("changes of the last day: %s", error.sentence)
                await asyncio.sleep(_CHANGES_INTERVAL_S)
            await asyncio.sleep(INTERVAL_S)

    def _pause(self, taken: float) -> float:
        """Seconds until the next poll, after one that took `taken` seconds."""
        if self.snapshot.problem is not None:
            return SLOW_INTERVAL_S
        wanted = INTERVAL_S if self.open_pages else SLOW_INTERVAL_S
        return min(max(wanted - taken, taken / _BUSY_SHARE - taken, 0.05), _MAX_PAUSE_S)

    async def poll(self) -> None:
        """Poll once and publish the result; a poll that takes long is reported while it runs."""
        began = time.monotonic()
        task = asyncio.create_task(asyncio.to_thread(self._read_snapshot))
        try:
            while not (await asyncio.wait({task}, timeout=_OVERDUE_S))[0]:
                waited = time.monotonic() - began
                self._publish(self._with_problem(f"Telemetry store has not responded for {waited:.0f} s."))
            snapshot = task.result()
            self._polled_at = time.monotonic()
        except StoreUnavailableError as error:
            snapshot = self._with_problem(error.sentence)
        except Exception:  # noqa: BLE001 - the poll loop must go on; shown on every page and logged
            _log.exception("the poll of the telemetry store failed")
            snapshot = self._with_problem("Reading the telemetry store failed in the console; see its log.")
        finally:
            task.cancel()
        self._publish(snapshot)

    def _with_problem(self, problem: str) -> FleetSnapshot:
        return replace(self.snapshot, problem=problem)

    def _publish(self, snapshot: FleetSnapshot) -> None:
        before, self.snapshot = self.snapshot, snapshot
        for problem in ("problem", "alerts_problem"):
            message = getattr(snapshot, problem)
            if message is not None and getattr(before, problem) is None:
                _log.warning("%s", message)
        changed = frozenset(
            battery_id for battery_id, row in snapshot.rows.items() if before.rows.get(battery_id) != row
        )
        self.changed.emit(snapshot, changed)

    def _read_snapshot(self) -> FleetSnapshot:
        store_time = self._queries.now()
        rows = self._queries.snapshots()
        snapshot = FleetSnapshot({row["battery_id"]: row for row in rows}, datetime.now(UTC), store_time)
        return self._with_alerts(snapshot)

    def _with_alerts(self, snapshot: FleetSnapshot) -> FleetSnapshot:
        """Update the stored alerts from `snapshot` and add them to it; on failure add the reason."""
        open_alerts, muted, problem = self.snapshot.open_alerts, self.snapshot.muted, None
        try:
            open_alerts = self._alerts.open_severities()
            transitions = find_transitions(open_alerts, snapshot.rows.values(), self._seen, snapshot.store_time)
            if transitions:
                self._alerts.apply(transitions)
                open_alerts = self._alerts.open_severities()
            muted = self._alerts.muted() if open_alerts else frozenset()
        except StoreUnavailableError as error:
            problem = error.sentence
        self._count(open_alerts)
        return replace(snapshot, open_alerts=open_alerts, muted=muted, alerts_problem=problem)

    def _count(self, open_alerts: Mapping[Key, Severity]) -> None:
        counts: dict[tuple[str, str], int] = {}
        for (_, rule), severity in open_alerts.items():
            counts[rule, severity] = counts.get((rule, severity), 0) + 1
        self._metrics.open_alerts.clear()
        for labels, count in counts.items():
            self._metrics.open_alerts.labels(*labels).set(count)


@contextlib.asynccontextmanager
async def polling(live: LiveUpdates) -> Any:
    """Context manager that runs the poll loop of `live` as a task."""
    task = asyncio.create_task(live.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
