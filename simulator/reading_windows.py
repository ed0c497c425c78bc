"""Random choice of the telematics logs of a battery whose readings are kept."""

from __future__ import annotations

import numpy as np
import pandas as pd

#: Spawn key of the choice; a battery's own random streams (`simulator.battery.random_streams`) are the first ones.
_SPAWN_KEY = 1000
#: Readings up to so long after the end of a log belong to it: their times are rounded, and clocks are not exact.
_SLACK = pd.Timedelta(minutes=1)


def sampled_windows(
    readings: pd.DataFrame, log_ends: pd.Series, windows: int | None, seed: int, index: int
) -> pd.DataFrame:
    """The readings of `windows` telematics logs of battery `index`, drawn without replacement, and of its last log.

    The last one is always among them, so that the end of the record and its alarms are there.

    Args:
        readings: of the whole life.
        log_ends: ascending times at which the logs end; the next log begins more than a minute later.
        windows: number of logs; None for all.
        seed: of the fleet.
    """
    last = len(log_ends) - 1
    if windows is None or windows >= last:
        return readings
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index, _SPAWN_KEY)))
    kept = np.append(rng.choice(last, size=windows, replace=False), last)
    log = np.minimum(np.searchsorted(log_ends + _SLACK, readings["time"]), last)
    return readings[np.isin(log, kept)].reset_index(drop=True)
