"""Summaries of the charge and discharge sessions of one simulated battery, as the state update closes them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from features.battery_row import set_battery_from_row
from features.state import FloatArray, new_states
from features.state_update import readings_matrix, update_from_readings
from telemetry.contract import CYCLE_FIELDS
from telemetry.sources.base import complete


def cycle_summaries(readings: pd.DataFrame, battery: Mapping[str, object]) -> pd.DataFrame:
    """The closed sessions in all readings of a battery's life, columns of the contract's cycles.

    The same sessions with the same labels as the stage `features` closes from these readings.  `soh` is the one that
    the battery reported with the last reading of a session, `warning_level` the highest alarm during it.

    Args:
        readings: of one battery, columns of the contract.
        battery: its row of the batteries table.
    """
    readings = readings.sort_values("time", kind="stable", ignore_index=True)
    states = new_states(1)
    set_battery_from_row(states[0], battery)
    inputs = readings_matrix(readings)
    closed = update_from_readings(states, np.zeros(len(readings), dtype=np.int64), inputs).closed_table()
    # A session closed by a gap is labelled by its last reading before the gap.
    inside = readings.iloc[np.maximum(closed["reading"].to_numpy() - 1, 0)].reset_index(drop=True)
    starts_s, ends_s = closed["start_s"].to_numpy(), closed["end_s"].to_numpy()
    return complete(
        closed.assign(
            battery_id=str(battery["battery_id"]),
            start_time=_times(starts_s),
            end_time=_times(ends_s),
            soh=inside["soh"],
            warning_level=_highest(readings["warning_level"].to_numpy(dtype=float), inputs[:, 0], starts_s, ends_s),
        ),
        CYCLE_FIELDS,
    )


def _times(seconds: FloatArray) -> pd.Series:
    return pd.Series(pd.to_datetime(np.round(seconds * 1e6).astype("int64"), unit="us", utc=True))


def _highest(levels: FloatArray, times_s: FloatArray, starts_s: FloatArray, ends_s: FloatArray) -> FloatArray:
    """Highest of `levels` from each start to its end; missing ones do not count."""
    first, behind = np.searchsorted(times_s, starts_s), np.searchsorted(times_s, ends_s, side="right")
    return np.array([np.fmax.reduce(levels[a:b], initial=np.nan) for a, b in zip(first, behind, strict=True)])
