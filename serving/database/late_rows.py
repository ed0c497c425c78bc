"""Finds late rows: rows with times before the newest row that has been read, which polling by time does not return.

Late rows are stored, flagged and counted, but never applied to a state.  Every few seconds the range of each battery's
newest keys is read again and compared with the keys that were read.  Rows later than that range are not detected.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serving.database.row_source import Cursor, RowSource

#: Number of newest keys held for each battery, and so how many rows late a detected row may be: a minute at 2 Hz.
_KEYS = 120
_EVERY_S = 10.0


class LateRowDetector:
    """Holds the newest keys that this process has read of each battery and compares them with the table."""

    def __init__(self, row_source: RowSource, every_s: float = _EVERY_S) -> None:
        self._row_source = row_source
        self._every_s = every_s
        self._batteries: dict[str, _RecentKeys] = {}
        self._checked_at = time.monotonic()

    def record_read(self, battery_id: str, read_until: str | None, keys: Sequence[str]) -> None:
        """Record that `keys` were read of a battery that had been read up to `read_until`."""
        recent = self._batteries.get(battery_id)
        # If another process has read in between, its keys are unknown here.
        if recent is None or recent.keys[-1] != read_until:
            recent = self._batteries[battery_id] = _RecentKeys.starting_at(read_until)
        recent.keys.extend(keys)

    def find(self, store: Cursor, read_until: Mapping[str, str | None]) -> dict[str, list[str]]:
        """The keys of late rows by battery, repeated until `mark_stored`; reads the table at most every `every_s`.

        Args:
            read_until: by battery, the newest key that any process has read.
        """
        if time.monotonic() - self._checked_at < self._every_s:
            return {}
        self._checked_at = time.monotonic()
        ranges = {
            battery_id: (recent.keys[0], recent.keys[-1])
            for battery_id, recent in self._batteries.items()
            if recent.keys[-1] == read_until.get(battery_id)
        }
        late: dict[str, list[str]] = {}
        if ranges:
            for battery_id, keys in self._row_source.between(store, ranges).items():
                if new := self._batteries[battery_id].new_late_keys(keys):
                    late[battery_id] = new
        return late

    def mark_stored(self, late: Mapping[str, Sequence[str]]) -> None:
        """Record that the rows from `find` have been stored, so that `find` does not return them again."""
        for battery_id, keys in late.items():
            self._batteries[battery_id].late.update(keys)


@dataclass
class _RecentKeys:
    """The newest keys of a battery in order, and the late keys in their range that have been stored."""

    keys: deque[str]
    late: set[str] = field(default_factory=set)

    @classmethod
    def starting_at(cls, read_until: str | None) -> _RecentKeys:
        return cls(deque([] if read_until is None else [read_until], maxlen=_KEYS))

    def new_late_keys(self, keys: Sequence[str]) -> list[str]:
        """Those of `keys`, all keys now in the range, that were neither read nor stored as late."""
        unread = set(keys) - set(self.keys)
        self.late &= unread
        return sorted(unread - self.late)
