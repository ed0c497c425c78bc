"""Converts entries of the prediction API to rows of the table `battery_predictions`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

from features.targets import TARGETS
from telemetry.batch import Row

Role = Literal["champion", "challenger"]


def prediction_rows(entries: Iterable[Mapping[str, Any]], *, role: Role, predicted_at: datetime) -> list[Row]:
    """The predictions in `entries` as rows, in the units of the API.

    A withheld prediction has no row, and neither has a prediction before the battery's first reading, because the
    time of the reading is part of the key.

    Args:
        entries: as in a response of `POST /predict`, with `time` and `due` as datetimes.
        predicted_at: wall-clock time, timezone-aware.
    """
    fields = [(target.shown.field, name) for name, target in TARGETS.items()]
    rows: list[Row] = []
    for entry in entries:
        if entry["time"] is None:
            continue
        for field, target in fields:
            prediction = entry.get(field)
            if prediction is None or prediction["value"] is None:
                continue
            lower, upper = prediction.get("interval") or (None, None)
            name, _, version = prediction["model"].rpartition("/")
            rows.append(
                {
                    "battery_id": entry["battery_id"],
                    "time": entry["time"],
                    "target": target,
                    "value": prediction["value"],
                    "lower": lower,
                    "upper": upper,
                    "due": prediction.get("due"),
                    "cycle_index": entry.get("cycle_index"),
                    "model_name": name,
                    "model_version": version,
                    "role": role,
                    "predicted_at": predicted_at,
                }
            )
    return rows
