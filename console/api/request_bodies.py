"""Pydantic models of the bodies of the REST requests that change something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from console.alerts.alert_store import MAX_MUTE
from console.alerts.rules import RULES
from features.targets import TARGET_NAMES
from telemetry.contract import BATTERY_EVENT_FIELDS, BATTERY_ID_PATTERN, BatteryEventKind
from telemetry.schemas.request import Time

#: Names of targets and alert rules; for mypy these are plain text.
if TYPE_CHECKING:
    TargetName: TypeAlias = str
    RuleName: TypeAlias = str
else:
    TargetName, RuleName = Literal[TARGET_NAMES], Literal[tuple(RULES)]
MAX_VERSION = 2**31 - 1
MAX_MUTE_HOURS = MAX_MUTE.total_seconds() / 3600
_VALUE = next(field for field in BATTERY_EVENT_FIELDS if field.name == "value")

#: Text with at least one visible character; PostgreSQL has no NUL character.
_VISIBLE = r"^[^\x00]*[^\s\x00][^\x00]*$"
By = Annotated[str, Field(max_length=60, pattern=_VISIBLE, description="your name, recorded with the change")]
Reason = Annotated[str, Field(max_length=500, pattern=_VISIBLE, description="recorded with the change")]


def _whole(value: object) -> object:
    """1.0 as 1: in JSON both are whole numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


VersionNumber = Annotated[int, Field(ge=1, le=MAX_VERSION), BeforeValidator(_whole)]


class _RequestModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Acknowledgement(_RequestModel):
    """Acknowledgement of one alert."""

    severity: Literal["WARNING", "CRITICAL"] = Field(description="the severity that you saw; 409 if it has changed")
    by: By
    note: str = Field("", max_length=500, pattern=r"^[^\x00]*$", description="optional comment")


class MuteScope(_RequestModel):
    """Battery and rule of a mute; null: every battery, or every rule."""

    battery_id: str | None = Field(None, pattern=BATTERY_ID_PATTERN)
    rule: RuleName | None = None


class NewMute(MuteScope):
    """A mute of alerts."""

    hours: float = Field(gt=0, le=MAX_MUTE_HOURS, description="duration, at most 30 days")
    by: By
    reason: Reason


class Rollback(_RequestModel):
    """Return to the release before the current one."""

    by: By
    reason: Reason
    expected_release: VersionNumber | None = Field(
        None, description="release that you saw as champion; 409 if it is not, null: no check"
    )


class Promotion(Rollback):
    """Versions to promote, by target."""

    versions: dict[TargetName, VersionNumber] = Field(
        min_length=1, examples=[{"soh": 3}], description="version by target; any registered version"
    )


class NewEvent(_RequestModel):
    """What happened to a battery beside its readings."""

    battery_id: str = Field(pattern=BATTERY_ID_PATTERN)
    time: Time = Field(strict=False, description="when it happened; not later than now")
    kind: BatteryEventKind
    value: float | None = Field(
        None,
        ge=_VALUE.minimum,
        le=_VALUE.maximum,
        allow_inf_nan=False,
        description="measured capacity of a capacity_test, Ah; null for the other kinds",
    )
    by: By = Field("REST", description="who or what enters it, stored as its source")
