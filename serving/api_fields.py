"""API field, unit and value range of each target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from features.state import FloatArray
from training.release import RUL_UNIT


@dataclass(frozen=True)
class ApiField:
    """How a target is reported: field name, unit, conversion factor and smallest reported value."""

    field: str
    unit: str | None = None
    factor: float = 1.0
    minimum: float | None = None

    def to_api_units(self, values: FloatArray) -> FloatArray:
        """Convert `values` from the target's unit to the reported one; NaN stays NaN."""
        scaled = values * self.factor
        return scaled if self.minimum is None else np.maximum(scaled, self.minimum)


#: By target of `features.targets`.
API_FIELDS: Mapping[str, ApiField] = {
    "soh": ApiField("soh", "%", 100.0),
    "temperature": ApiField("temperature", "degC"),
    "rul": ApiField("rul", RUL_UNIT, minimum=0.0),
    "failure": ApiField("failure_probability"),
}


def utc(time_s: float) -> datetime:
    """Convert seconds since the epoch to a UTC time with microsecond precision."""
    return datetime.fromtimestamp(time_s, UTC)
