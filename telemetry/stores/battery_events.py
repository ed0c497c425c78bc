"""Reads and writes the table `battery_events`: replacements, resets, capacity tests and failures of batteries."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from telemetry.contract import BatteryEventKind
from telemetry.stores.connection import Cursor

#: Events that change the state of a battery; the others are labels.
_OF_THE_STATE: tuple[BatteryEventKind, ...] = ("replaced", "bms_reset")


@dataclass(frozen=True)
class BatteryEvent:
    """One event of one battery; `value` in Ah, of a capacity test."""

    time: datetime
    event: BatteryEventKind
    value: float | None = None


@dataclass(frozen=True)
class StateEvents:
    """The events up to some time that change the state of one battery.

    Attributes:
        began: time of the newest replacement: the state has no row from before.
        resets: times of the resets since then, ascending.
        checksum: of these times, for the state that includes the events; 0 without events.
    """

    began: datetime | None = None
    resets: tuple[datetime, ...] = ()
    checksum: int = 0

    @classmethod
    def of(cls, events: Sequence[BatteryEvent], until: datetime | None) -> StateEvents:
        """The events of one battery up to and including `until`."""
        known = [one for one in events if until is None or one.time <= until]
        began = max((one.time for one in known if one.event == "replaced"), default=None)
        resets = sorted(one.time for one in known if one.event == "bms_reset" and (began is None or one.time > began))
        if began is None and not resets:
            return cls()
        text = " ".join(str(time and time.timestamp()) for time in (began, *resets))
        return cls(began, tuple(resets), zlib.crc32(text.encode()))


NO_EVENTS = StateEvents()


def state_events(cursor: Cursor, battery_ids: Sequence[str]) -> dict[str, list[BatteryEvent]]:
    """The events that change states, by battery; batteries without any are left out."""
    cursor.execute(
        "SELECT battery_id, time, event FROM battery_events WHERE battery_id = ANY(%s) AND event = ANY(%s) "
        "ORDER BY battery_id, time",
        (list(battery_ids), list(_OF_THE_STATE)),
    )
    found: dict[str, list[BatteryEvent]] = {}
    for battery_id, time, event in cursor.fetchall():
        found.setdefault(battery_id, []).append(BatteryEvent(time, event))
    return found
