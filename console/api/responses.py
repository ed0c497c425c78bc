"""The form of every answer.  Columns of readings and batteries, with their units, come from `telemetry.contract`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from console.history import RANGE_COLUMNS, Method
from telemetry.contract import BATTERY_FIELDS, READING_FIELDS
from telemetry.contract import Field as Column

_TYPES: dict[str, Any] = {"text": str, "time": datetime, "float": float, "bool": bool}
Status = Literal["NORMAL", "WARNING", "CRITICAL"]

_READINGS = [column for column in READING_FIELDS if column.name not in ("battery_id", "time")]
_DATA_SHEET = [column for column in BATTERY_FIELDS if column.name != "battery_id"]
_ENVIRONMENT = ("ambient_temperature", "is_charging", "odometer_km", "speed_kmh")


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")


def _fields(columns: Iterable[Column]) -> dict[str, Any]:
    """Optional fields of a model, described by unit and meaning."""
    return {
        column.name: (
            _TYPES[column.kind] | None,
            Field(None, description=", ".join(filter(None, (column.unit, column.description))) or None),
        )
        for column in columns
    }


class _Headline(_Answer):
    status: Status | None = Field(None, description="health by get_battery_health; null before the first reading")
    rul_prediction: float | None = Field(None, description="remaining equivalent full cycles")
    failure_probability: float | None = None
    prediction_timestamp: datetime | None = None


LatestRow = create_model(
    "LatestRow",
    __base__=_Headline,
    __doc__="A row of `latest_battery_status`, as it is stored.",
    battery_id=(str, ...),
    time=(datetime | None, Field(None, description="UTC; null where no reading is kept any more")),
    created_at=(datetime | None, Field(None, description="when it was stored")),
    late=(bool | None, Field(None, description="came after a newer one, so that nothing was predicted from it")),
    **_fields(_READINGS),
)

BatteryStatus = create_model(
    "BatteryStatus",
    __base__=LatestRow,
    __doc__="Newest reading and newest predictions of one battery, flat.",
    soh_predicted=(float | None, Field(None, description="%")),
    temperature_predicted=(float | None, Field(None, description="degC, at temperature_due")),
    temperature_due=(datetime | None, None),
    reasons=(list[str], Field(description="why the status is not NORMAL, or what else deserves attention")),
)


class Predicted(_Answer):
    """A prediction; `interval` is null where its model gives none."""

    value: float | None
    unit: str
    interval: tuple[float, float] | None = None
    due: datetime | None = Field(None, description="when its truth can be known")


class PredictedTargets(_Answer):
    """The four targets."""

    soh: Predicted
    temperature: Predicted
    rul: Predicted
    failure_probability: Predicted


ActualReading = create_model(
    "ActualReading",
    __base__=_Answer,
    __doc__="What the pack itself reports.",
    **_fields(column for column in _READINGS if column.name not in _ENVIRONMENT),
)
Vehicle = create_model(
    "Vehicle",
    __base__=_Answer,
    __doc__="What is around the pack, and what it is made of.",
    **_fields(column for column in _READINGS if column.name in _ENVIRONMENT),
    **_fields(_DATA_SHEET),
)
Battery = create_model(
    "Battery",
    __base__=_Answer,
    actual=(ActualReading, ...),
    predicted=(PredictedTargets, ...),
)
DetailedStatus = create_model(
    "DetailedStatus",
    __base__=_Answer,
    __doc__="Newest reading and predictions of one battery, by where they come from.",
    battery_id=(str, ...),
    timestamp=(datetime | None, Field(description="of the newest reading, UTC")),
    battery=(Battery, ...),
    vehicle=(Vehicle, ...),
    health_status=(Status | None, ...),
)


class Comparison(_Answer):
    """One target: what was predicted for now, and what is true now."""

    name: str
    actual: float | None = Field(description="null until the truth is known; `note` says when that is")
    predicted: float | None
    error: float | None = Field(description="predicted - actual")
    unit: str
    interval: tuple[float, float] | None = Field(None, description="null where the model gives none")
    model: str | None = Field(None, description="registered model and version, e.g. battery-soh/9")
    note: str | None = None


class ComparisonAnswer(_Answer):
    """Actual against predicted."""

    battery_id: str
    timestamp: datetime | None
    comparison: list[Comparison]


_ENDS: dict[str, Any] = {
    f"{column}_{end}": (
        float | None,
        Field(None, description=f"{end} {column} in the interval of a mean of readings; null by any other method"),
    )
    for column in RANGE_COLUMNS
    for end in ("lowest", "highest")
}
HistoryReading = create_model(
    "HistoryReading",
    __base__=_Answer,
    __doc__="One reading, or what stands for those of an interval.",
    time=(datetime, ...),
    **_ENDS,
    rul_prediction=(float | None, None),
    failure_probability=(float | None, None),
    **_fields(
        column
        for column in _READINGS
        if column.name not in ("insulation_resistance", "odometer_km", "speed_kmh", "warning_level")
    ),
)


class HistoryPrediction(_Answer):
    """What was predicted at `time`; soh in %, temperature in degC at `temperature_due`, rul in cycles."""

    time: datetime
    soh: float | None = None
    soh_lower: float | None = None
    soh_upper: float | None = None
    temperature: float | None = None
    temperature_lower: float | None = None
    temperature_upper: float | None = None
    temperature_due: datetime | None = None
    rul: float | None = None
    rul_lower: float | None = None
    rul_upper: float | None = None
    failure: float | None = None
    failure_lower: float | None = None
    failure_upper: float | None = None


class Resolution(_Answer):
    """How rows were put together."""

    method: Method = Field(
        description="means leave out NaN; 'mean of hourly means' knows voltage, current, temperature, soc, soh, "
        "charge_cycles and the two predictions, and null for all else; 'newest in each interval' can miss a short peak"
    )
    interval_s: float | None = Field(None, description="null where every row is given")


class Resolutions(_Answer):
    """Of the two lists."""

    readings: Resolution
    predictions: Resolution


class HistoryAnswer(_Answer):
    """Readings and predictions in time order; the window ends with the newest reading."""

    battery_id: str
    since: datetime
    until: datetime
    downsampled: bool = Field(description="whether rows were put together; `resolution` says how")
    resolution: Resolutions
    readings: list[HistoryReading]
    predictions: list[HistoryPrediction]


class Prediction(_Answer):
    """The newest prediction of one target by one role."""

    target: str
    role: Literal["champion", "challenger"]
    time: datetime = Field(description="of the reading it was made from")
    value: float
    unit: str
    interval: tuple[float, float] | None = Field(None, description="null where the model gives none")
    due: datetime | None = Field(None, description="when its truth can be known")
    cycle_index: float | None = Field(None, description="age of the battery in equivalent full cycles")
    model_name: str | None = None
    model_version: str | None = None
    predicted_at: datetime


class PredictionsAnswer(_Answer):
    """The newest prediction of each target."""

    battery_id: str
    prediction_timestamp: datetime | None
    predictions: list[Prediction]


class Statistic(_Answer):
    """Of one column over the window; null where it was never known."""

    avg: float | None
    min: float | None
    max: float | None


class StatsAnswer(_Answer):
    """Counts, averages, minima and maxima; the window ends with the newest reading."""

    battery_id: str
    since: datetime
    until: datetime
    readings: int = Field(description="how many the figures are made from")
    sampled: bool = Field(description="whether one reading in each interval stands for all, there being too many")
    first_time: datetime | None
    last_time: datetime | None
    statistics: dict[str, Statistic]


class BatteryList(_Answer):
    """Every battery that was ever heard of."""

    batteries: list[str]
    count: int


class AlertReason(_Answer):
    """One rule that holds."""

    rule: str
    category: Literal["safety", "health", "charge"]
    severity: Literal["WARNING", "CRITICAL"]
    value: float
    threshold: float
    unit: str
    reason: str


class BatteryAlert(_Answer):
    """A battery that deserves attention."""

    battery_id: str
    time: datetime | None
    status: Status | None
    soc: float | None
    soh: float | None
    temperature: float | None
    failure_probability: float | None
    rul_prediction: float | None
    reasons: list[AlertReason]


class AlertsAnswer(_Answer):
    """Batteries that deserve attention now, the worst first."""

    alerts: list[BatteryAlert]
    count: int


class Liveness(_Answer):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Dependency(_Answer):
    """One part that the console reads."""

    state: Literal["up", "down", "absent"]
    needed: bool = Field(description="whether the console can do nothing without it")
    detail: str


class Readiness(_Answer):
    """Whether everything that is needed is there."""

    status: Literal["ready", "not ready"]
    dependencies: dict[str, Dependency]
