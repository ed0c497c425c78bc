"""One look at the store a second for everybody who watches: ten open pages cost what one does."""

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

from console.alerts.alert_lifecycle import Key, step
from console.alerts.alert_store import AlertStore
from console.alerts.rules import RULES, Category, Severity
from console.api.health import Metrics
from console.connection_pool import StoreRow, StoreUnavailableError
from console.queries import Queries

_log = logging.getLogger(__name__)

INTERVAL_S = 1.0
#: While the store is away, and while nobody watches: alerts go on.
SLOW_INTERVAL_S = 3.0
#: Looking takes at most this share of the time, unless nobody would have seen anything for as long as this.
_BUSY_SHARE = 0.2
_LONGEST_PAUSE_S = 10.0
#: A look that takes longer is said, and said again.
_OVERDUE_S = 3.0


@dataclass(frozen=True)
class Snapshot:
    """What was last seen.

    Attributes:
        rows: every battery by id (columns of `Queries.snapshots`), as of the last successful look.
        taken_at: when that was; None before the first.
        store_time: what the store's clock said then.  Ages of what is stored are told by it, and stand still with it.
        problem: why the store could not be looked at since, None where it could.
        open_alerts: severity by battery and rule.
        muted: those of them that somebody keeps out of the way.
        alerts_problem: why alerts could not be kept at that look, None where they could.
    """

    rows: Mapping[str, StoreRow] = field(default_factory=dict)
    taken_at: datetime | None = None
    store_time: datetime | None = None
    problem: str | None = None
    open_alerts: Mapping[Key, Severity] = field(default_factory=dict)
    muted: frozenset[Key] = frozenset()
    alerts_problem: str | None = None

    def alerts_of(self, *categories: Category) -> dict[Key, Severity]:
        """Open alerts of these categories that are not muted, the worst first."""
        shown = {
            key: severity
            for key, severity in self.open_alerts.items()
            if key not in self.muted and key[1] in RULES and RULES[key[1]].category in categories
        }
        return dict(sorted(shown.items(), key=lambda item: (item[1] != "CRITICAL", item[0])))


class Live:
    """Looks, keeps alerts alive, and tells who subscribed to `changed`: the snapshot and the ids that differ.

    It tells after every look, because ages go on where nothing else does.

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
            await asyncio.sleep(self._pause(time.monotonic() - began))

    def _pause(self, taken: float) -> float:
        """Seconds until the next look, after one that took so many."""
        if self.snapshot.problem is not None:
            return SLOW_INTERVAL_S
        wanted = INTERVAL_S if self.watchers else SLOW_INTERVAL_S
        return min(max(wanted - taken, taken / _BUSY_SHARE - taken, 0.05), _LONGEST_PAUSE_S)

    async def look(self) -> None:
        """One look; tells the subscribers, and meanwhile that it takes long."""
        began = time.monotonic()
        task = asyncio.create_task(asyncio.to_thread(self._look))
        try:
            while not (await asyncio.wait({task}, timeout=_OVERDUE_S))[0]:
                waited = time.monotonic() - began
                self._tell(self._troubled(f"The telemetry store has not answered for {waited:.0f} s."))
            snapshot = task.result()
            self._seen = time.monotonic()
        except StoreUnavailableError as error:
            snapshot = self._troubled(error.sentence)
        except Exception:  # noqa: BLE001 - said on every page and in the log
            # Whoever looks for everybody must not end.
            _log.exception("the store could not be looked at")
            snapshot = self._troubled("The console failed to read the telemetry store; its log says why.")
        finally:
            task.cancel()
        self._tell(snapshot)

    def _troubled(self, problem: str) -> Snapshot:
        return replace(self.snapshot, problem=problem)

    def _tell(self, snapshot: Snapshot) -> None:
        before, self.snapshot = self.snapshot, snapshot
        for problem in ("problem", "alerts_problem"):
            said = getattr(snapshot, problem)
            if said is not None and getattr(before, problem) is None:
                _log.warning("%s", said)
        changed = frozenset(
            battery_id for battery_id, row in snapshot.rows.items() if before.rows.get(battery_id) != row
        )
        self.changed.emit(snapshot, changed)

    def _look(self) -> Snapshot:
        store_time = self._queries.now()
        rows = self._queries.snapshots()
        seen = Snapshot({row["battery_id"]: row for row in rows}, datetime.now(UTC), store_time)
        return self._with_alerts(seen)

    def _with_alerts(self, seen: Snapshot) -> Snapshot:
        """`seen` with what is open after it, or with why that could not be kept: the rest is seen all the same."""
        is_open, muted, problem = self.snapshot.open_alerts, self.snapshot.muted, None
        try:
            is_open = self._alerts.open_severities()
            transitions = step(is_open, seen.rows.values())
            if transitions:
                self._alerts.apply(transitions)
                is_open = self._alerts.open_severities()
            muted = self._alerts.muted() if is_open else frozenset()
        except StoreUnavailableError as error:
            problem = error.sentence
        self._count(is_open)
        return replace(seen, open_alerts=is_open, muted=muted, alerts_problem=problem)

    def _count(self, is_open: Mapping[Key, Severity]) -> None:
        counts: dict[tuple[str, str], int] = {}
        for (_, rule), severity in is_open.items():
            counts[rule, severity] = counts.get((rule, severity), 0) + 1
        self._metrics.open_alerts.clear()
        for labels, count in counts.items():
            self._metrics.open_alerts.labels(*labels).set(count)


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
