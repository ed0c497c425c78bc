"""Closed sessions as they are kept: rows of the table `battery_cycles`, from which health and life are learned again.

The service, the stream scorer and the database predictor all write them through here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from features.state import FloatArray
from features.state_update import IntArray
from telemetry.batch import Row, rows_of


def cycle_rows(
    closed: pd.DataFrame,
    battery_ids: Sequence[str],
    *,
    battery_row: IntArray | None = None,
    soh: FloatArray | None = None,
) -> list[Row]:
    """The sessions that ended during a fold, in the columns of `telemetry.contract.CYCLE_FIELDS`.

    Health is a label: what the pack reported with the last reading inside the session, as in training
    (`features.table`).  Where that reading was folded earlier it is missing here, and the store adds it from the
    readings that it holds.

    Args:
        closed: of `ReadingUpdates.closed_table`.
        battery_ids: by row of the states that were folded into.
        battery_row: int64[n], of the readings that were folded.
        soh: float64[n], percent, reported with each of them; NaN where it was not.
    """
    if closed.empty:
        return []
    columns = rows_of(closed.drop(columns=["battery_row", "reading", "start_s", "end_s"]))
    labels = _last_inside(closed, battery_row, soh)
    return [
        {
            "battery_id": battery_ids[battery],
            "start_time": _utc(start_s),
            "end_time": _utc(end_s),
            "soh": label,
            **values,
        }
        for battery, start_s, end_s, label, values in zip(
            closed["battery_row"].tolist(),
            closed["start_s"].tolist(),
            closed["end_s"].tolist(),
            labels,
            columns,
            strict=True,
        )
    ]


def _last_inside(closed: pd.DataFrame, battery_row: IntArray | None, soh: FloatArray | None) -> list[float | None]:
    if battery_row is None or soh is None:
        return [None] * len(closed)
    labels: list[float | None] = []
    for battery, ended_by in zip(closed["battery_row"], closed["reading"], strict=True):
        before = np.flatnonzero(battery_row[:ended_by] == battery)
        labels.append(float(soh[before[-1]]) if len(before) else None)
    return labels


def _utc(time_s: float) -> datetime:
    return datetime.fromtimestamp(time_s, UTC)
