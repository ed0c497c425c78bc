"""Response schema of `POST /predict`, and conversion of predictions to response entries and Kafka messages."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, create_model

from features import plausibility
from features.state import encode
from features.targets import TARGETS, Target
from serving.feature_snapshots import FeatureSnapshots
from serving.predictor import Predictor, TargetValues
from serving.reasons import MAX_REASONS
from serving.request_scoring import ScoringRequest, ScoringResult
from serving.session_rows import cycle_rows
from telemetry.contract import CYCLE_FIELDS
from telemetry.errors import TwinError, error_body
from telemetry.schemas.request import Cycle, EntryError
from telemetry.wire import json_values, utc

_UNKNOWN_CAPACITY = (
    "the nominal capacity is unknown, so features relative to it are missing: send battery.nominal_capacity_ah"
)


class _ResponseModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Value(_ResponseModel):
    value: float | None = Field(description="null if the prediction is withheld")
    model: str | None = Field(description="registered model and version, e.g. battery-soh/9")
    withheld: str | None = Field(None, description="reason for withholding the value")
    out_of_domain: str | None = Field(
        None, description="how the battery differs from those that the model was trained on; the value has no interval"
    )


class ReasonEntry(_ResponseModel):
    """One of the signals that contribute most to a prediction."""

    signal: str = Field(description="what is measured, e.g. resistance_ohm; a feature of no signal is its own")
    feature: str = Field(description="the statistic of the signal that contributes most, e.g. resistance_ohm__last")
    value: float | None = Field(description="of the feature; null if it is missing")
    contribution: float = Field(description="of all statistics of the signal; positive: raises the prediction")


def _prediction_model(target: Target) -> type[_Value]:
    fields: dict[str, Any] = {}
    if target.kind == "regression":
        fields["unit"] = (str, target.shown.unit)
        fields["interval"] = (
            tuple[float, float] | None,
            Field(None, description="lower and upper end; absent without a prediction interval"),
        )
        fields["coverage"] = (float | None, Field(None, description="probability that the interval is right"))
    if target.matures == "seconds":
        fields["due"] = (datetime | None, Field(None, description="time that the value is predicted for"))
    if target.matures == "cycles":
        fields["horizon_cycles"] = (float | None, Field(None, description="equivalent full cycles"))
    if target.explained:
        unit = "log-odds of `value`" if target.kind == "classification" else target.shown.unit
        about = (
            f"if requested: at most {MAX_REASONS} signals, the strongest first, with their contributions in {unit} "
            "relative to the mean of the training rows; absent if the value is withheld"
        )
        fields["reasons"] = (list[ReasonEntry] | None, Field(None, description=about))
    name = "".join(part.capitalize() for part in target.name.split("_"))
    description = f"{target.title}: {target.shown.description}."
    return create_model(f"{name}Prediction", __base__=_Value, __doc__=description, **fields)


class _Entry(_ResponseModel):
    battery_id: str
    time: datetime | None = Field(description="of the newest reading; null before the first")
    release: str = Field(description="the release that predicted, e.g. battery-twin/12")
    state: str | None = Field(
        None, description="opaque, in the last entry of a battery; send it with the next request for this battery"
    )
    cycle_index: float = Field(description="age of the battery at `time` in equivalent full cycles, as in its state")
    notes: list[str]
    closed_cycles: list[Cycle] | None = Field(  # type: ignore[valid-type]
        None, description="sessions that ended since the battery's previous entry, if requested"
    )


BatteryPrediction = create_model(
    "BatteryPrediction",
    __base__=_Entry,
    __doc__="Predictions for one battery at the time of a reading.",
    **{target.shown.field: (_prediction_model(target), ...) for target in TARGETS.values()},  # type: ignore[call-overload]
)


class BatteryError(_ResponseModel):
    """Why a battery of the request is not answered; the others are."""

    battery_id: str | None = Field(description="null if it could not be read")
    status: int = Field(description="422: the entry violates the contract; 409: its state cannot be continued")
    error: str
    field: str | None = Field(description="path of the invalid value in the request")
    value: Any = None


class PredictResponse(_ResponseModel):
    """One entry for each battery of the request, or for each reading, in request order."""

    predictions: list[BatteryPrediction | BatteryError]


class ErrorResponse(_ResponseModel):
    """Error message, path of the invalid field and its value."""

    error: str
    field: str | None = None
    value: Any = None


def response_entries(
    request: ScoringRequest, result: ScoringResult, champion: Predictor, notes: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Convert `result` to entries in the form of `BatteryPrediction`, as dicts instead of models for speed.

    Args:
        champion: predictor of `result`.
        notes: by battery of the request, what was ignored in its entry.
    """
    rows = result.battery_row.tolist()
    ids = [request.battery_ids[row] for row in rows]
    entries = prediction_entries(ids, result.snapshots, result.predicted, champion)
    for i in itertools.compress(range(len(rows)), result.is_last.tolist()):
        entries[i]["state"] = encode(request.states[rows[i]], ids[i])
        entries[i]["notes"] += notes[rows[i]]
    for i, kind in zip(*np.nonzero(result.implausible), strict=True):
        entries[i]["notes"].append(plausibility.note(kind, int(result.implausible[i, kind])))
    for left_out, noun, reason in (
        (result.stale_readings, "reading", "older than the state"),
        (result.stale_cycles, "cycle", "older than the state"),
        (result.duplicates, "reading", "equal to the newest one"),
        (result.conflicts, "reading", "at the time of the newest one, but with other values,"),
    ):
        for entry, count in zip(entries, left_out.tolist(), strict=True):
            if count:
                entry["notes"].append(f"{_count(count, noun)} {reason} {'was' if count == 1 else 'were'} left out")
    if request.closed_cycles:
        for entry in entries:
            entry["closed_cycles"] = []
        sessions = cycle_rows(result.closed, request.battery_ids)
        for i, session in zip(result.closed_at.tolist(), sessions, strict=True):
            entries[i]["closed_cycles"].append(json_values(session, CYCLE_FIELDS))
    if request.reasons:
        for target in TARGETS.values():
            _add_reasons(target, result.predicted[target.name], entries)
    return entries


def _add_reasons(target: Target, predicted: TargetValues, entries: Sequence[dict[str, Any]]) -> None:
    if not target.explained:
        return
    for i, entry in enumerate(entries):
        prediction = entry[target.shown.field]
        if prediction["value"] is None:
            continue
        if predicted.reasons is None:
            entry["notes"].append(f"{predicted.model} was trained before there were reasons: register a newer model")
        else:
            prediction["reasons"] = [
                {**reason._asdict(), "contribution": reason.contribution * target.shown.factor}
                for reason in predicted.reasons[i]
            ]


def error_entry(error: EntryError) -> dict[str, Any]:
    """The entry of a battery that cannot be answered, in the form of `BatteryError`."""
    body = error_body(TwinError(error.sentence, field=error.field, value=error.value))
    return {"battery_id": error.battery_id, "status": error.status, **body}


def with_errors(
    entries: Sequence[dict[str, Any]], entry_of: Sequence[int], errors: Sequence[EntryError]
) -> list[dict[str, Any]]:
    """All entries in request order; `entry_of` gives the index in the request of each of `entries`."""
    indexed = [*zip(entry_of, entries, strict=True), *((error.index, error_entry(error)) for error in errors)]
    return [entry for _, entry in sorted(indexed, key=lambda one: one[0])]


def prediction_entries(
    battery_ids: Sequence[str], snapshots: FeatureSnapshots, predicted: Mapping[str, TargetValues], predictor: Predictor
) -> list[dict[str, Any]]:
    """Convert predictions for n snapshots to response entries without `state`, in API units; times are datetimes.

    The entries are also the messages of `ev_battery_predictions`.

    Args:
        battery_ids: battery of each snapshot.
        predicted: result of `predictor.predict_snapshots`.
    """
    times = [utc(time_s) if time_s == time_s else None for time_s in snapshots.time_s.tolist()]
    columns = {
        target.shown.field: _column(target, predicted[target.name], times, predictor.horizons)
        for target in TARGETS.values()
    }
    known, ages = snapshots.nominal_capacity_known.tolist(), snapshots.cycles.tolist()
    return [
        {
            "battery_id": battery_ids[i],
            "time": times[i],
            "release": predictor.label,
            **{field: column[i] for field, column in columns.items()},
            "cycle_index": ages[i],
            "notes": [] if known[i] else [_UNKNOWN_CAPACITY],
        }
        for i in range(len(snapshots))
    ]


def to_json(content: object) -> bytes:
    """`content` as JSON, with times as in the contract, e.g. 2026-01-01T00:00:00Z."""
    return orjson.dumps(content, option=orjson.OPT_UTC_Z)


def _column(
    target: Target, predicted: TargetValues, times: Sequence[datetime | None], horizons: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The predictions of one target, with `due` or `horizon_cycles` if the target has a horizon."""
    fixed: dict[str, Any] = {"model": predicted.model}
    if target.kind == "regression":
        fixed["unit"] = target.shown.unit
    horizon = horizons.get(target.horizon_key or "")
    if horizon is not None and not target.is_forecast:
        fixed["horizon_cycles"] = horizon
    column: list[dict[str, Any]] = [
        {"value": value, **fixed} if reason is None else {"value": None, **fixed, "withheld": reason}
        for value, reason in zip(target.to_shown(predicted.values).tolist(), predicted.withheld, strict=True)
    ]
    if predicted.interval is not None:
        ends = zip(*(target.to_shown(end).tolist() for end in predicted.interval), strict=True)
        for interval, prediction in zip(ends, column, strict=True):
            if prediction["value"] is not None:
                prediction["interval"], prediction["coverage"] = list(interval), predicted.coverage
    if predicted.out_of_domain is not None:
        for difference, prediction in zip(predicted.out_of_domain, column, strict=True):
            if difference is not None:
                prediction["out_of_domain"] = difference
                prediction.pop("interval", None)
                prediction.pop("coverage", None)
    if horizon is not None and target.is_forecast:
        ahead = timedelta(seconds=horizon)
        for time, prediction in zip(times, column, strict=True):
            if time is not None:
                prediction["due"] = time + ahead
    return column


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
