"""One look at the store a second for everybody who watches: ten open pages cost what one does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nicegui import Event

from monitoring.console.alerts.life import Key, step
from monitoring.console.alerts.rules import RULES, Category, Severity
from monitoring.console.alerts.store import AlertStore
from monitoring.console.api.health import Metrics
from monitoring.console.database import StoreAwayError, StoreRow
from monitoring.console.queries import Queries

_log = logging.getLogger(__name__)

INTERVAL_S = 1.0
#: While the store is away, and while nobody watches: alerts go on.
SLOW_INTERVAL_S = 3.0
#: Looking takes at most this share of the time.
_BUSY_SHARE = 0.2


@dataclass(frozen=True)
class Snapshot:
    """What was last seen.

    Attributes:
        rows: every battery by id (columns of `Queries.snapshots`), as of the last successful look.
        taken_at: when that was; None before the first.
        problem: why the store could not be looked at since, None where it could.
        open_alerts: severity by battery and rule.
        muted: those of them that somebody keeps out of the way.
    """

    rows: Mapping[str, StoreRow] = field(default_factory=dict)
    taken_at: datetime | None = None
    problem: str | None = None
    open_alerts: Mapping[Key, Severity] = field(default_factory=dict)
    muted: frozenset[Key] = frozenset()

    def alerts_of(self, *categories: Category) -> dict[Key, Severity]:
        """Open alerts of these categories that are not muted, the worst first."""
        shown = {
            key: severity
            for key, severity in self.open_alerts.items()
            if key not in self.muted and key[1] in RULES and RULES[key[1]].category in categories
        }
        return dict(sorted(shown.items(), key=lambda item: (item[1] != "CRITICAL", item[0])))


class Live:
    """Looks, keeps alerts alive, and tells who subscribed to `changed`: a new snapshot and the ids that differ.

    Attributes:
        snapshot: the last one.
        watchers: pages that are open.
    """

    def __init__(self, queries: Queries, alerts: AlertStore, metrics: Metrics) -> None:
        self.snapshot = Snapshot()
        self.changed: Event[Snapshot, frozenset[str]] = Event()
        self.watchers = 0
        self._queries = queries
        self._alerts = alerts
        self._metrics = metrics
        self._seen = time.monotonic()
        metrics.watchers.set_function(lambda: self.watchers)
        metrics.snapshot_age.set_function(lambda: time.monotonic() - self._seen)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            began = time.monotonic()
            await self.look()
            taken = time.monotonic() - began
            wanted = INTERVAL_S if self.watchers and self.snapshot.problem is None else SLOW_INTERVAL_S
            await asyncio.sleep(max(wanted - taken, taken / _BUSY_SHARE - taken, 0.05))

    async def look(self) -> None:
        """One look; tells the subscribers if anything differs."""
        before = self.snapshot
        try:
            self.snapshot = await asyncio.to_thread(self._look)
            self._seen = time.monotonic()
        except StoreAwayError as error:
            self.snapshot = Snapshot(before.rows, before.taken_at, error.sentence, before.open_alerts, before.muted)
        changed = frozenset(
            battery_id for battery_id, row in self.snapshot.rows.items() if before.rows.get(battery_id) != row
        )
        if changed or _said(before) != _said(self.snapshot):
            self.changed.emit(self.snapshot, changed)

    def _look(self) -> Snapshot:
        rows = self._queries.snapshots()
        open_alerts = self._keep_alerts(rows)
        muted = self._alerts.muted() if open_alerts else frozenset()
        return Snapshot({row["battery_id"]: row for row in rows}, datetime.now(UTC), None, open_alerts, muted)

    def _keep_alerts(self, rows: list[StoreRow]) -> Mapping[Key, Severity]:
        is_open = self._alerts.open_severities()
        transitions = step(is_open, rows)
        if transitions:
            self._alerts.apply(transitions)
            is_open = self._alerts.open_severities()
        self._count(is_open)
        return is_open

    def _count(self, is_open: Mapping[Key, Severity]) -> None:
        counts: dict[tuple[str, str], int] = {}
        for (_, rule), severity in is_open.items():
            counts[rule, severity] = counts.get((rule, severity), 0) + 1
        self._metrics.open_alerts.clear()
        for labels, count in counts.items():
            self._metrics.open_alerts.labels(*labels).set(count)


def _said(snapshot: Snapshot) -> tuple[object, ...]:
    return snapshot.problem, snapshot.open_alerts, snapshot.muted


@contextlib.asynccontextmanager
async def looking(live: Live) -> Any:
    """`live` looks meanwhile."""
    task = asyncio.create_task(live.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
