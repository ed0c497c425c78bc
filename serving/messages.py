"""The answer of `POST /predict`, as in the contract: its schema, and how a prediction is put into it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from features.state import NOMINAL_CAPACITY_AH, FloatArray, encode
from serving.moments import Moments
from serving.predictor import BatteryAnswer, Prediction, TargetValues
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
    """What the twin says about one battery."""

    battery_id: str
    time: datetime | None = Field(description="of the newest reading; null before the first")
    release: str = Field(description="the release that answered, e.g. battery-twin/12")
    state: str = Field(description="opaque; send it with the next request of this battery")
    soh: SohPrediction
    temperature: TemperaturePrediction
    rul: RulPrediction
    failure_probability: FailurePrediction
    notes: list[str]


class PredictAnswer(_Answer):
    """One entry for each battery of the request, in its order."""

    predictions: list[BatteryPrediction]


class ErrorAnswer(_Answer):
    """What is wrong with the request, and where."""

    error: str
    field: str | None = None
    value: Any = None


@dataclass(frozen=True)
class Surface:
    """How a target leaves the service: its field, its unit and what its value is multiplied by."""

    field: str
    unit: str | None = None
    factor: float = 1.0
    minimum: float | None = None

    def outside(self, values: FloatArray) -> FloatArray:
        """`values`, in the target's own unit, as they leave the service; NaN stays NaN."""
        scaled = values * self.factor
        return scaled if self.minimum is None else np.maximum(scaled, self.minimum)


#: By target of `features.targets`.
SURFACES: Mapping[str, Surface] = {
    "soh": Surface("soh", "%", 100.0),
    "temperature": Surface("temperature", "degC"),
    "rul": Surface("rul", RUL_UNIT, minimum=0.0),
    "failure": Surface("failure_probability"),
}


def battery_prediction(
    answer: BatteryAnswer, release: str, horizons: Mapping[str, float], unknown_fields: int = 0
) -> dict[str, Any]:
    """One entry of the answer, in the form of `BatteryPrediction`; plain values, because it is made for every call."""
    time = utc(answer.view.time_s) if answer.view.has_reading else None
    notes = _notes(answer, unknown_fields)
    if math.isnan(answer.state[NOMINAL_CAPACITY_AH]):
        notes.append(_UNKNOWN_CAPACITY)
    entry = _entry(answer.battery_id, time, answer.predictions, release, horizons, notes)
    entry["state"] = encode(answer.state)
    return entry


def prediction_messages(
    battery_ids: Sequence[str],
    moments: Moments,
    predicted: Mapping[str, TargetValues],
    release: str,
    horizons: Mapping[str, float],
) -> list[dict[str, Any]]:
    """What was predicted for n moments as messages on `ev_battery_predictions`: entries of the answer without `state`.

    Args:
        battery_ids: of the n moments.
        predicted: of `Predictor.predict_moments`; `release` and `horizons` are that predictor's.
    """
    return [
        _entry(
            battery_id,
            utc(float(moments.time_s[i])) if moments.has_reading[i] else None,
            {target: values.at(i) for target, values in predicted.items()},
            release,
            horizons,
            [] if moments.nominal_capacity_known[i] else [_UNKNOWN_CAPACITY],
        )
        for i, battery_id in enumerate(battery_ids)
    ]


def utc(time_s: float) -> datetime:
    """The time so many seconds after the epoch, to the microsecond as it was sent."""
    return datetime.fromtimestamp(time_s, UTC)


def _entry(
    battery_id: str,
    time: datetime | None,
    predictions: Mapping[str, Prediction],
    release: str,
    horizons: Mapping[str, float],
    notes: list[str],
) -> dict[str, Any]:
    entry: dict[str, Any] = {"battery_id": battery_id, "time": rfc3339(time), "release": release}
    for target, surface in SURFACES.items():
        entry[surface.field] = _prediction(predictions[target], surface)
    if time is not None and "temperature_s" in horizons:
        entry["temperature"]["due"] = rfc3339(time + timedelta(seconds=horizons["temperature_s"]))
    if "failure_cycles" in horizons:
        entry["failure_probability"]["horizon_cycles"] = horizons["failure_cycles"]
    entry["notes"] = notes
    return entry


def rfc3339(time: datetime | None) -> str | None:
    """`time` (UTC) as in the contract, e.g. 2026-01-01T00:00:00Z."""
    return None if time is None else f"{time.replace(tzinfo=None).isoformat()}Z"


def _prediction(prediction: Prediction, surface: Surface) -> dict[str, Any]:
    value = prediction.value
    if value is not None:
        value *= surface.factor
        value = value if surface.minimum is None else max(value, surface.minimum)
    fields: dict[str, Any] = {"value": value, "model": prediction.model}
    if surface.unit is not None:
        fields["unit"] = surface.unit
    if prediction.withheld is not None:
        fields["withheld"] = prediction.withheld
    return fields


def _notes(answer: BatteryAnswer, unknown_fields: int) -> list[str]:
    notes = []
    for count, noun in ((answer.stale_readings, "reading"), (answer.stale_cycles, "cycle")):
        if count:
            notes.append(f"{_count(count, noun)} older than the state {'was' if count == 1 else 'were'} not folded")
    if unknown_fields:
        notes.append(f"{_count(unknown_fields, 'field')} not in the contract ignored")
    return notes


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
