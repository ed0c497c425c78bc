"""Live battery with its newest reading and the newest predictions for it."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.live_battery import LiveBattery
from simulator.service_client import BatteryPredictions
from telemetry.batch import Row, rows_of


@dataclass
class LiveTwin:
    """A battery with its newest reading and newest predictions.

    Attributes:
        identity: its row of the batteries table.
    """

    battery: LiveBattery
    identity: Row
    reading: Row | None = None
    predictions: BatteryPredictions | None = None

    @classmethod
    def of(cls, battery: LiveBattery) -> LiveTwin:
        """The twin of `battery`, before its first reading."""
        return cls(battery, rows_of(battery.batteries_row())[0])
