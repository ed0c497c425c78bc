"""Health status of a battery by the contract's rule, as in the database function `get_battery_health`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Health = Literal["NORMAL", "WARNING", "CRITICAL"]


@dataclass(frozen=True)
class _HealthLimits:
    soc: float
    soh: float
    temperature: float
    failure_probability: float


_LIMITS: tuple[tuple[Health, _HealthLimits], ...] = (
    ("CRITICAL", _HealthLimits(15.0, 75.0, 60.0, 0.7)),
    ("WARNING", _HealthLimits(30.0, 85.0, 45.0, 0.3)),
)


def battery_health(
    soc: float | None, soh: float | None, temperature: float | None, failure_probability: float | None
) -> Health:
    """Status for `soc` and `soh` in percent and `temperature` in degC; None and NaN match no rule."""
    for health, limits in _LIMITS:
        if (
            (soc is not None and soc < limits.soc)
            or (soh is not None and soh < limits.soh)
            or (temperature is not None and temperature > limits.temperature)
            or (failure_probability is not None and failure_probability > limits.failure_probability)
        ):
            return health
    return "NORMAL"
