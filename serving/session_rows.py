"""Converts closed charge and discharge sessions to rows of `battery_cycles`, the training data of SoH, RUL and failure.

Shared by the service, the stream scorer and the database predictor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from features.state import FloatArray
from features.state_update import IntArray, closed_table
from telemetry.batch import Row, rows_of
from telemetry.wire import utc


def cycle_rows(
    closed_sessions: FloatArray,
    battery_ids: Sequence[str],
    *,
    battery_row: IntArray | None = None,
    soh: FloatArray | None = None,
) -> list[Row]:
    """Convert the sessions that ended in a state update to rows with the columns of `telemetry.contract.CYCLE_FIELDS`.

    `soh` is a label: the value that the pack reported with the last reading inside the session, as in training
    (`features.table`).  It is missing if that reading was applied in an earlier update; the store then sets it from
    its readings.

    Args:
        closed_sessions: float64[m, CLOSED_SIZE].
        battery_ids: by row of the updated states.
        battery_row: int64[n], row of the states of each reading of the update.
        soh: float64[n], percent, reported with each reading; NaN where missing.
    """
    if not len(closed_sessions):
        return []
    closed = closed_table(closed_sessions)
    columns = rows_of(closed.drop(columns=["battery_row", "reading", "start_s", "end_s"]))
    labels = _last_inside(closed, battery_row, soh)
    return [
        {
            "battery_id": battery_ids[battery],
            "start_time": utc(start_s),
            "end_time": utc(end_s),
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
