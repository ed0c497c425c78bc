"""Rows that turn up behind the point up to which their battery was read: never folded, but stored, flagged and counted.

Whoever polls by time does not see them, so now and then the newest stretch is looked at again and compared with what
was read.  What comes later than that stretch is not noticed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serving.database.row_source import Cursor, Feed

#: Keys that are remembered of each battery, and so how late a row may be and still be counted: a minute at 2 Hz.
_KEYS = 120
_EVERY_S = 10.0


class LateRows:
    """Remembers the newest keys that this process has read of each battery."""

    def __init__(self, feed: Feed, every_s: float = _EVERY_S) -> None:
        self._feed = feed
        self._every_s = every_s
        self._batteries: dict[str, _Stretch] = {}
        self._looked_at = time.monotonic()

    def remember(self, battery_id: str, read_until: str | None, keys: Sequence[str]) -> None:
        """`keys` were read of a battery that had been read up to `read_until`."""
        stretch = self._batteries.get(battery_id)
        # Another process may have read in between: what it saw is not known here.
        if stretch is None or stretch.keys[-1] != read_until:
            stretch = self._batteries[battery_id] = _Stretch.begin(read_until)
        stretch.keys.extend(keys)

    def look(self, store: Cursor, read_until: Mapping[str, str | None]) -> dict[str, list[str]]:
        """The keys of late rows by battery, until they are `told`; looks only as often as it should.

        Args:
            read_until: for every battery how far it has been read, by whomever.
        """
        if time.monotonic() - self._looked_at < self._every_s:
            return {}
        self._looked_at = time.monotonic()
        ranges = {
            battery_id: (stretch.keys[0], stretch.keys[-1])
            for battery_id, stretch in self._batteries.items()
            if stretch.keys[-1] == read_until.get(battery_id)
        }
        late: dict[str, list[str]] = {}
        if ranges:
            for battery_id, keys in self._feed.between(store, ranges).items():
                if new := self._batteries[battery_id].strangers(keys):
                    late[battery_id] = new
        return late

    def told(self, late: Mapping[str, Sequence[str]]) -> None:
        """What `look` found has been stored and is not new any more."""
        for battery_id, keys in late.items():
            self._batteries[battery_id].late.update(keys)


@dataclass
class _Stretch:
    """The newest keys of a battery in their order, and those between them that turned up late and were told."""

    keys: deque[str]
    late: set[str] = field(default_factory=set)

    @classmethod
    def begin(cls, read_until: str | None) -> _Stretch:
        return cls(deque([] if read_until is None else [read_until], maxlen=_KEYS))

    def strangers(self, keys: Sequence[str]) -> list[str]:
        """Which of `keys`, all that there are now in this stretch, were neither read nor told before."""
        unread = set(keys) - set(self.keys)
        self.late &= unread
        return sorted(unread - self.late)
