"""Converts predictions to rows of the table `battery_predictions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from features.targets import TARGETS
from serving.api_fields import utc
from serving.feature_snapshots import FeatureSnapshots
from serving.predictor import TargetValues
from telemetry.batch import Row

Role = Literal["champion", "challenger"]


def prediction_rows(
    battery_ids: Sequence[str],
    snapshots: FeatureSnapshots,
    predicted: Mapping[str, TargetValues],
    horizons: Mapping[str, float],
    *,
    role: Role,
    predicted_at: datetime,
) -> list[Row]:
    """Convert the predictions for n snapshots to rows of `battery_predictions`, in API units (soh in percent).

    A withheld prediction has no row, and neither has a prediction before the battery's first reading, because the
    time of the reading is part of the key.

    Args:
        battery_ids: battery of each snapshot.
        predicted: result of `Predictor.predict_snapshots`.
        horizons: of the same predictor.
        predicted_at: current wall-clock time, timezone-aware.
    """
    times = [
        utc(time_s) if known else None for time_s, known in zip(snapshots.time_s, snapshots.has_reading, strict=True)
    ]
    ages = snapshots.cycles.tolist()
    rows: list[Row] = []
    for target, values in predicted.items():
        horizon_s = horizons.get(f"{target}_s")
        ahead = None if horizon_s is None else timedelta(seconds=horizon_s)
        name, _, version = (values.model or "").rpartition("/")
        api_values = TARGETS[target].to_shown(values.values).tolist()
        for battery_id, time, age, value in zip(battery_ids, times, ages, api_values, strict=True):
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
