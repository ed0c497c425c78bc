"""The answer of `POST /predict`, as in the contract: its schema, and how a prediction is put into it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from features.state import encode
from features.state_update import closed_table
from serving.feature_snapshots import FeatureSnapshots
from serving.predictor import Predictor, TargetValues
from serving.request_scoring import Answer, Question
from serving.session_rows import cycle_rows
from serving.surface import SURFACES, Surface, rfc3339, utc
from telemetry.contract import CYCLE_FIELDS
from telemetry.schemas.request import Cycle
from telemetry.wire import json_values
from training.release import RUL_UNIT

_UNKNOWN_CAPACITY = "the nominal capacity is not known, so currents say little: send battery.nominal_capacity_ah"


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Value(_Answer):
    value: float | None = Field(description="null where the prediction is withheld")
    model: str | None = Field(description="registered model and version, e.g. battery-soh/9")
    withheld: str | None = Field(None, description="why there is no value")


class SohPrediction(_Value):
    """State of health now: capacity as a share of the nominal one."""

    unit: str = "%"


class TemperaturePrediction(_Value):
    """Temperature of the hottest probe at the time `due`."""

    unit: str = "degC"
    due: datetime | None = Field(None, description="when the prediction can be held against the truth")


class RulPrediction(_Value):
    """Remaining useful life."""

    unit: str = RUL_UNIT


class FailurePrediction(_Value):
    """Probability of end of life or a fault within the next `horizon_cycles`."""

    horizon_cycles: float | None = Field(None, description="equivalent full cycles")


class BatteryPrediction(_Answer):
    """What the twin says about one battery at the time of a reading."""

    battery_id: str
    time: datetime | None = Field(description="of the newest reading; null before the first")
    release: str = Field(description="the release that answered, e.g. battery-twin/12")
    state: str | None = Field(
        None, description="opaque, in the last entry of a battery; send it with the next request of this battery"
    )
    soh: SohPrediction
    temperature: TemperaturePrediction
    rul: RulPrediction
    failure_probability: FailurePrediction
    notes: list[str]
    closed_cycles: list[Cycle] | None = Field(  # type: ignore[valid-type]
        None, description="sessions that ended since the entry before, where the request asks for them"
    )


class PredictAnswer(_Answer):
    """One entry for each battery of the request, or for each of its readings, in its order."""

    predictions: list[BatteryPrediction]


class ErrorAnswer(_Answer):
    """What is wrong with the request, and where."""

    error: str
    field: str | None = None
    value: Any = None


def answer_entries(
    question: Question, answer: Answer, champion: Predictor, unknown_fields: Sequence[int]
) -> list[dict[str, Any]]:
    """The entries of `answer` in the form of `BatteryPrediction`, as plain values: they are made for every call.

    Args:
        champion: who gave the answer.
        unknown_fields: how many were ignored, by battery of the question.
    """
    rows = answer.battery_row.tolist()
    ids = [question.battery_ids[row] for row in rows]
    entries = prediction_messages(ids, answer.moments, answer.predicted, champion.label, champion.horizons)
    for i in itertools.compress(range(len(rows)), answer.is_last.tolist()):
        entries[i]["state"] = encode(question.states[rows[i]])
        if unknown_fields[rows[i]]:
            entries[i]["notes"].append(f"{_count(unknown_fields[rows[i]], 'field')} not in the contract ignored")
    for stale, noun in ((answer.stale_readings, "reading"), (answer.stale_cycles, "cycle")):
        for entry, count in zip(entries, stale.tolist(), strict=True):
            if count:
                were = "was" if count == 1 else "were"
                entry["notes"].append(f"{_count(count, noun)} older than the state {were} not folded")
    if question.closed_cycles:
        for entry in entries:
            entry["closed_cycles"] = []
        sessions = cycle_rows(closed_table(answer.closed), question.battery_ids)
        for i, session in zip(answer.closed_at.tolist(), sessions, strict=True):
            entries[i]["closed_cycles"].append(json_values(session, CYCLE_FIELDS))
    return entries


def prediction_messages(
    battery_ids: Sequence[str],
    moments: FeatureSnapshots,
    predicted: Mapping[str, TargetValues],
    release: str,
    horizons: Mapping[str, float],
) -> list[dict[str, Any]]:
    """What was predicted for n moments as messages on `ev_battery_predictions`: entries of the answer without `state`.

    Args:
        battery_ids: of the n moments.
        predicted: of `Predictor.predict_snapshots`; `release` and `horizons` are that predictor's.
    """
    times = [utc(time_s) if time_s == time_s else None for time_s in moments.time_s.tolist()]
    columns = {surface.field: _column(predicted[target], surface) for target, surface in SURFACES.items()}
    if "temperature_s" in horizons:
        ahead = timedelta(seconds=horizons["temperature_s"])
        for time, prediction in zip(times, columns["temperature"], strict=True):
            if time is not None:
                prediction["due"] = rfc3339(time + ahead)
    if "failure_cycles" in horizons:
        for prediction in columns["failure_probability"]:
            prediction["horizon_cycles"] = horizons["failure_cycles"]
    known = moments.nominal_capacity_known.tolist()
    return [
        {
            "battery_id": battery_ids[i],
            "time": rfc3339(times[i]),
            "release": release,
            **{field: column[i] for field, column in columns.items()},
            "notes": [] if known[i] else [_UNKNOWN_CAPACITY],
        }
        for i in range(len(moments))
    ]


def _column(given: TargetValues, surface: Surface) -> list[dict[str, Any]]:
    fixed = {"model": given.model} if surface.unit is None else {"model": given.model, "unit": surface.unit}
    return [
        {"value": value, **fixed} if reason is None else {"value": None, **fixed, "withheld": reason}
        for value, reason in zip(surface.outside(given.values).tolist(), given.reasons, strict=True)
    ]


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
