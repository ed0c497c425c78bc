"""Typed section `drift` of params.yaml: how drift windows are formed and when they count as drift."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from telemetry.parameters import Parameters


class DriftParams(Parameters):
    """How windows are formed and when they count as drift.

    Attributes:
        window_s: length of a window, s of event time.
        min_rows, min_batteries: minimum that a window must hold to be measured.
        batteries: features are computed for at most this many batteries.
        rows_per_battery: a window is thinned to this many rows of each battery.
        false_alarms: share of the reference's own windows that are out of bounds.
        out_windows, windows: a model drifts when the newest window and `out_windows` of the last `windows` are out.
    """

    section: ClassVar[str] = "drift"

    window_s: PositiveFloat = 86_400.0
    min_rows: PositiveInt = 20
    min_batteries: PositiveInt = 3
    batteries: PositiveInt = 50
    rows_per_battery: PositiveInt = 12
    false_alarms: float = Field(0.005, gt=0.0, lt=1.0)
    out_windows: PositiveInt = 3
    windows: PositiveInt = Field(5, validate_default=True)

    @field_validator("windows")
    @classmethod
    def _not_fewer_than_out_windows(cls, windows: int, info: ValidationInfo) -> int:
        if windows < (least := info.data.get("out_windows", 0)):
            raise ValueError(f"it should be at least drift.out_windows, {least}")
        return windows
