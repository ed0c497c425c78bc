"""Live battery without physics that counts its readings, for tests of the live loop."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pandas as pd

HISTORY_END = datetime(2026, 1, 1, tzinfo=UTC)


class CountingBattery:
    """Battery without physics that always gives the same reading."""

    def __init__(self, number: int, history: int = 5) -> None:
        self._id = f"EV-{number}"
        self._history = history
        self.last_time = HISTORY_END
        self.read_delay_s = 0.0
        self.readings = 0

    @property
    def battery_id(self) -> str:
        return self._id

    def history(self) -> pd.DataFrame:
        times = [HISTORY_END - timedelta(seconds=30 * step) for step in reversed(range(self._history))]
        rows = [self._reading(row_time) | {"soh": 90.0, "soc": float("nan")} for row_time in times]
        return pd.DataFrame(rows)

    def batteries_row(self) -> pd.DataFrame:
        return pd.DataFrame([{"battery_id": self._id, "nominal_capacity_ah": 150.0, "chemistry": "NMC"}])

    def read(self, time_of_reading: datetime) -> dict[str, object]:
        assert time_of_reading > self.last_time
        self.last_time = time_of_reading
        self.readings += 1
        time.sleep(self.read_delay_s)
        return self._reading(time_of_reading)

    def save_state(self) -> bytes:
        return f"{self.readings} {self.last_time.isoformat()}".encode()

    def restore_state(self, saved: bytes) -> bool:
        readings, last_time = saved.decode().split()
        self.readings, self.last_time = int(readings), datetime.fromisoformat(last_time)
        return True

    def _reading(self, time_of_reading: datetime) -> dict[str, object]:
        return {
            "battery_id": self._id,
            "time": time_of_reading,
            "voltage": 350.0,
            "current": 10.0,
            "temperature": 25.0,
            "soc": 70.0,
            "soh": 91.0,
        }
