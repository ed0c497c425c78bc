"""Pydantic models of the REST responses; reading and battery fields, with units, come from `telemetry.contract`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from console.history import RANGE_COLUMNS, Method
from features.targets import FORECASTS, TARGETS
from telemetry.contract import BATTERY_FIELDS, READING_FIELDS, BatteryEventKind
from telemetry.contract import Field as Column

_TYPES: dict[str, Any] = {"text": str, "time": datetime, "float": float, "bool": bool}
Status = Literal["NORMAL", "WARNING", "CRITICAL"]

_READINGS = [column for column in READING_FIELDS if column.name not in ("battery_id", "time")]
_DATA_SHEET = [column for column in BATTERY_FIELDS if column.name != "battery_id"]
_DUE_TIMES: dict[str, Any] = {f"{name}_due": (datetime | None, None) for name in FORECASTS}
_PREDICTED: dict[str, Any] = {
    target.predicted_column: (float | None, Field(None, description=target.shown.unit))
    for target in TARGETS.values()
    if target.shown.stored_column is None
}
_HISTORY: dict[str, Any] = {
    column: (float | None, Field(None, description=target.shown.unit))
    for name, target in TARGETS.items()
    for column in (name, f"{name}_lower", f"{name}_upper")
}
_ENVIRONMENT = ("ambient_temperature", "is_charging", "odometer_km", "speed_kmh")


class _ResponseModel(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")


def _fields(columns: Iterable[Column]) -> dict[str, Any]:
    """Optional pydantic fields for `columns`, with unit and meaning as description."""
    return {
        column.name: (
            _TYPES[column.kind] | None,
            Field(None, description=", ".join(filter(None, (column.unit, column.description))) or None),
        )
        for column in columns
    }


class _Headline(_ResponseModel):
    status: Status | None = Field(None, description="health by get_battery_health; null before the first reading")
    rul_prediction: float | None = Field(None, description="remaining equivalent full cycles")
    failure_probability: float | None = None
    prediction_timestamp: datetime | None = None


LatestRow = create_model(
    "LatestRow",
    __base__=_Headline,
    __doc__="A row of `latest_battery_status`, as it is stored.",
    battery_id=(str, ...),
    time=(datetime | None, Field(None, description="UTC; null if all readings are older than the retention")),
    created_at=(datetime | None, Field(None, description="time at which it was stored")),
    late=(bool | None, Field(None, description="arrived after a newer reading and was not used for predictions")),
    **_fields(_READINGS),
)

BatteryStatus = create_model(
    "BatteryStatus",
    __base__=LatestRow,
    __doc__="Newest reading and newest predictions of one battery as one flat object.",
    **_PREDICTED,
    **_DUE_TIMES,
    reasons=(list[str], Field(description="messages of the alert rules that are triggered")),
)


class PredictedValue(_ResponseModel):
    """Predicted value; `interval` is null if the model has no prediction interval."""

    value: float | None
    unit: str
    interval: tuple[float, float] | None = None
    due: datetime | None = Field(None, description="time at which the ground truth is known")


_VALUE: Any = (PredictedValue, ...)
PredictedTargets = create_model(
    "PredictedTargets",
    __base__=_ResponseModel,
    __doc__="Predictions of all targets.",
    **dict.fromkeys((target.shown.field for target in TARGETS.values()), _VALUE),
)
ActualReading = create_model(
    "ActualReading",
    __base__=_ResponseModel,
    __doc__="Values reported by the pack.",
    **_fields(column for column in _READINGS if column.name not in _ENVIRONMENT),
)
Vehicle = create_model(
    "Vehicle",
    __base__=_ResponseModel,
    __doc__="Environment of the pack and its data sheet.",
    **_fields(column for column in _READINGS if column.name in _ENVIRONMENT),
    **_fields(_DATA_SHEET),
)
BatteryDetail = create_model(
    "BatteryDetail",
    __base__=_ResponseModel,
    actual=(ActualReading, ...),
    predicted=(PredictedTargets, ...),
)


class BatteryEvent(_ResponseModel):
    """What happened to a battery beside its readings."""

    time: datetime = Field(description="when it happened, UTC")
    event: BatteryEventKind
    value: float | None = Field(description="measured capacity of a capacity_test, Ah")
    source: str | None = Field(description="who or what entered it")
    entered_at: datetime


class BatteryEventList(_ResponseModel):
    """Events of one battery."""

    battery_id: str
    events: list[BatteryEvent] = Field(description="newest first")


DetailedStatus = create_model(
    "DetailedStatus",
    __base__=_ResponseModel,
    __doc__="Newest reading and predictions of one battery, grouped by origin.",
    battery_id=(str, ...),
    timestamp=(datetime | None, Field(description="time of the newest reading, UTC")),
    battery=(BatteryDetail, ...),
    vehicle=(Vehicle, ...),
    health_status=(Status | None, ...),
    events=(list[BatteryEvent], Field(description="newest first")),
    missing_event=(
        str | None,
        Field(description="sentence, if the count of cycles has fallen or the capacity has jumped without an event"),
    ),
)


class TargetComparison(_ResponseModel):
    """Prediction for the newest reading against the actual value, for one target."""

    name: str
    actual: float | None = Field(description="null until the ground truth is known; see `note`")
    predicted: float | None
    error: float | None = Field(description="predicted - actual")
    unit: str
    interval: tuple[float, float] | None = Field(None, description="null if the model has no prediction interval")
    model: str | None = Field(None, description="registered model and version, e.g. battery-soh/9")
    note: str | None = None


class ComparisonResponse(_ResponseModel):
    """Actual against predicted values per target."""

    battery_id: str
    timestamp: datetime | None
    comparison: list[TargetComparison]


_RANGES: dict[str, Any] = {
    f"{column}_{end}": (
        float | None,
        Field(None, description=f"{end} {column} in the interval of a mean of readings; null for other methods"),
    )
    for column in RANGE_COLUMNS
    for end in ("lowest", "highest")
}
HistoryReading = create_model(
    "HistoryReading",
    __base__=_ResponseModel,
    __doc__="One reading, or one downsampled interval.",
    time=(datetime, ...),
    **_RANGES,
    rul_prediction=(float | None, None),
    failure_probability=(float | None, None),
    **_fields(
        column
        for column in _READINGS
        if column.name not in ("insulation_resistance", "odometer_km", "speed_kmh", "warning_level")
    ),
)


HistoryPrediction = create_model(
    "HistoryPrediction",
    __base__=_ResponseModel,
    __doc__="Predictions made at `time`; a forecast is for its due time.",
    time=(datetime, ...),
    **_HISTORY,
    **_DUE_TIMES,
)


class Resolution(_ResponseModel):
    """How the rows were downsampled."""

    method: Method = Field(
        description="means ignore NaN; 'mean of hourly means' has only voltage, current, temperature, soc, soh, "
        "charge_cycles and the two predictions, others are null; 'newest in each interval' can miss a short peak"
    )
    interval_s: float | None = Field(None, description="null if all rows are returned")


class Resolutions(_ResponseModel):
    """Downsampling of the two lists."""

    readings: Resolution
    predictions: Resolution


class HistoryResponse(_ResponseModel):
    """Readings and predictions in time order; the window ends with the newest reading."""

    battery_id: str
    since: datetime
    until: datetime
    downsampled: bool = Field(description="whether rows were downsampled; see `resolution`")
    resolution: Resolutions
    readings: list[HistoryReading]
    predictions: list[HistoryPrediction]


class StoredPrediction(_ResponseModel):
    """The newest prediction of one target by one role."""

    target: str
    role: Literal["champion", "challenger"]
    time: datetime = Field(description="time of the reading it was made from")
    value: float
    unit: str
    interval: tuple[float, float] | None = Field(None, description="null if the model has no prediction interval")
    due: datetime | None = Field(None, description="time at which the ground truth is known")
    cycle_index: float | None = Field(None, description="age of the battery in equivalent full cycles")
    model_name: str | None = None
    model_version: str | None = None
    predicted_at: datetime | None


class PredictionsResponse(_ResponseModel):
    """The newest prediction of each target and role."""

    battery_id: str
    prediction_timestamp: datetime | None
    predictions: list[StoredPrediction]


class Statistic(_ResponseModel):
    """Statistics of one column over the window; null if it has no values."""

    avg: float | None
    min: float | None
    max: float | None


class StatsResponse(_ResponseModel):
    """Counts, averages, minima and maxima; the window ends with the newest reading."""

    battery_id: str
    since: datetime
    until: datetime
    readings: int = Field(description="number of readings that were used")
    sampled: bool = Field(description="true if there were too many readings and one per interval was used")
    first_time: datetime | None
    last_time: datetime | None
    statistics: dict[str, Statistic]


class BatteryList(_ResponseModel):
    """Ids of all batteries."""

    batteries: list[str]
    count: int


class AlertReason(_ResponseModel):
    """One alert rule that is triggered."""

    rule: str
    category: Literal["safety", "health", "charge"]
    severity: Literal["WARNING", "CRITICAL"]
    value: float
    threshold: float
    unit: str
    reason: str


class BatteryAlert(_ResponseModel):
    """A battery with at least one triggered alert rule."""

    battery_id: str
    time: datetime | None
    status: Status | None
    soc: float | None
    soh: float | None
    temperature: float | None
    failure_probability: float | None
    rul_prediction: float | None
    reasons: list[AlertReason]


class AlertsResponse(_ResponseModel):
    """Batteries with triggered alert rules, CRITICAL first."""

    alerts: list[BatteryAlert]
    count: int


class StoredAlert(_ResponseModel):
    """An alert with its life cycle; times of opening and resolution are event times."""

    alert_id: int
    battery_id: str
    rule: str
    severity: Literal["WARNING", "CRITICAL"]
    state: Literal["open", "muted", "resolved"]
    reason: str = Field(description="message when it reached its severity")
    value: float
    threshold: float
    opened_at: datetime
    cleared_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    note: str | None
    mute_until: datetime | None = None
    muted_by: str | None = None
    mute_reason: str | None = None


class StoredAlerts(_ResponseModel):
    """Open and muted alerts, CRITICAL first, then resolved ones, newest first."""

    alerts: list[StoredAlert]
    count: int


class Acknowledged(_ResponseModel):
    """An alert that was acknowledged."""

    alert_id: int
    acknowledged_by: str


class ActiveMute(_ResponseModel):
    """A mute that has not ended."""

    mute_id: int
    battery_id: str | None = Field(description="null: all batteries")
    rule: str | None = Field(description="null: all rules")
    until: datetime
    reason: str
    muted_by: str
    created_at: datetime


class Mutes(_ResponseModel):
    """Active mutes, in order of their end."""

    mutes: list[ActiveMute]
    count: int


class ModelVersion(_ResponseModel):
    """One registered version and the verdict of the promotion gate."""

    version: int
    role: Literal["champion", "challenger"] | None
    registered_at: str
    gate: str | None = Field(description="newest verdict; null if the gate has not evaluated the version")
    reasons: str = Field(description="reasons of the verdict")


class TargetModels(_ResponseModel):
    """All versions of one target, newest first."""

    target: str
    model: str
    title: str
    versions: list[ModelVersion]


class RegistryChange(_ResponseModel):
    """One event of the history of the registry."""

    time: str
    kind: str
    by: str
    reason: str
    release_version: int | None
    warnings: list[str]


class Models(_ResponseModel):
    """Models of the registry; `release` is the champion."""

    domain: str
    release: str | None
    release_version: int | None
    previous_release_version: int | None = Field(description="release that a rollback restores")
    targets: list[TargetModels]
    history: list[RegistryChange] = Field(description="newest first")


class ReleaseChange(_ResponseModel):
    """Outcome of a promotion or rollback."""

    release: int | None = Field(description="release that is champion now")
    changed: bool = Field(description="false if no version passed the gate, or all of them were champion already")
    messages: list[str]


class Liveness(_ResponseModel):
    """The process responds."""

    status: Literal["alive"] = "alive"


class DependencyState(_ResponseModel):
    """State of one dependency of the console."""

    state: Literal["up", "down", "absent"]
    needed: bool = Field(description="whether the console is ready only if it is up")
    detail: str


class Readiness(_ResponseModel):
    """Whether all required dependencies are up."""

    status: Literal["ready", "not ready"]
    dependencies: dict[str, DependencyState]
