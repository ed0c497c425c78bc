"""One live battery and what was said of it last."""

from __future__ import annotations

from dataclasses import dataclass

from data.batch import Row, rows_of
from simulator.client import Answer
from simulator.live_battery import LiveBattery


@dataclass
class LiveTwin:
    """A battery with its newest reading and the newest answer about it.

    Attributes:
        identity: its row of the batteries table.
    """

    battery: LiveBattery
    identity: Row
    reading: Row | None = None
    answer: Answer | None = None

    @classmethod
    def of(cls, battery: LiveBattery) -> LiveTwin:
        """The twin of `battery`, before its first reading."""
        return cls(battery, rows_of(battery.batteries_row())[0])
