"""Predictions as they are kept: rows of the table `battery_predictions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from serving.feature_snapshots import FeatureSnapshots
from serving.predictor import TargetValues
from serving.surface import SURFACES, utc
from telemetry.batch import Row

Role = Literal["champion", "challenger"]


def prediction_rows(
    battery_ids: Sequence[str],
    moments: FeatureSnapshots,
    predicted: Mapping[str, TargetValues],
    horizons: Mapping[str, float],
    *,
    role: Role,
    predicted_at: datetime,
) -> list[Row]:
    """What was predicted for n moments as rows of `battery_predictions`, on the outside surface (soh in percent).

    A withheld prediction has no row, and neither has one before the battery's first reading: its time is
    the key.

    Args:
        battery_ids: of the n moments.
        predicted: of `Predictor.predict_snapshots`, `horizons` being that predictor's.
        predicted_at: now, on the wall clock, with its zone.
    """
    times = [utc(time_s) if known else None for time_s, known in zip(moments.time_s, moments.has_reading, strict=True)]
    ages = moments.cycles.tolist()
    rows: list[Row] = []
    for target, given in predicted.items():
        horizon_s = horizons.get(f"{target}_s")
        ahead = None if horizon_s is None else timedelta(seconds=horizon_s)
        name, _, version = (given.model or "").rpartition("/")
        values = SURFACES[target].outside(given.values).tolist()
        for battery_id, time, age, value in zip(battery_ids, times, ages, values, strict=True):
            if time is None or value != value:
                continue
            rows.append(
                {
                    "battery_id": battery_id,
                    "time": time,
                    "target": target,
                    "value": value,
                    "due": None if ahead is None else time + ahead,
                    "cycle_index": age,
                    "model_name": name,
                    "model_version": version,
                    "role": role,
                    "predicted_at": predicted_at,
                }
            )
    return rows
