"""Interface of a battery in the live simulator."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import pandas as pd


class LiveBattery(Protocol):
    """A battery that gives readings on request; `simulator.live_pack.LivePack` implements it."""

    @property
    def battery_id(self) -> str:
        """The battery's id."""
        ...

    @property
    def last_time(self) -> datetime:
        """Event time of the last reading, including those of the history."""
        ...

    def history(self) -> pd.DataFrame:
        """Readings before the live run, in time order."""
        ...

    def batteries_row(self) -> pd.DataFrame:
        """Batteries table with the row of this battery."""
        ...

    def read(self, time: datetime) -> dict[str, object] | None:
        """Simulate until `time` and return the reading; None where the battery sends none."""
        ...

    def save_state(self) -> bytes:
        """State after the last reading, for `restore_state`."""
        ...

    def restore_state(self, saved: bytes) -> bool:
        """Continue from `saved`; False, and no change, where that is of another battery."""
        ...
