"""How targets and times look from outside: names, units, forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from features.state import FloatArray
from training.release import RUL_UNIT


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


def utc(time_s: float) -> datetime:
    """The time so many seconds after the epoch, to the microsecond as it was sent."""
    return datetime.fromtimestamp(time_s, UTC)


def rfc3339(time: datetime | None) -> str | None:
    """`time` (UTC) as in the contract, e.g. 2026-01-01T00:00:00Z."""
    return None if time is None else f"{time.replace(tzinfo=None).isoformat()}Z"
