"""What the live simulator asks of a battery."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import pandas as pd


class LiveBattery(Protocol):
    """A battery in the middle of its life; `simulator.live_pack.LivePack` is one."""

    @property
    def battery_id(self) -> str:
        """The battery's id."""
        ...

    @property
    def last_time(self) -> datetime:
        """Event time of the last reading, that of the history included."""
        ...

    def history(self) -> pd.DataFrame:
        """Readings of its past, in time order."""
        ...

    def batteries_row(self) -> pd.DataFrame:
        """The batteries table of this one battery."""
        ...

    def read(self, time: datetime) -> dict[str, object]:
        """Live until `time` and give the reading of that moment."""
        ...

    def memory(self) -> bytes:
        """What it has to know to go on after its last reading."""
        ...

    def resume(self, memory: bytes) -> bool:
        """Go on where `memory` was taken; False, and it lives on as it is, where that was of another battery."""
        ...
