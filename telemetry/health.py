"""The health of a battery by the contract's rule; the database function `get_battery_health` says the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Health = Literal["NORMAL", "WARNING", "CRITICAL"]


@dataclass(frozen=True)
class _Limits:
    soc: float
    soh: float
    temperature: float
    failure_probability: float


_LIMITS: tuple[tuple[Health, _Limits], ...] = (
    ("CRITICAL", _Limits(15.0, 75.0, 60.0, 0.7)),
    ("WARNING", _Limits(30.0, 85.0, 45.0, 0.3)),
)


def battery_health(
    soc: float | None, soh: float | None, temperature: float | None, failure_probability: float | None
) -> Health:
    """`soc` and `soh` in percent, `temperature` in degC; None and NaN trigger nothing."""
    for health, limits in _LIMITS:
        if (
            (soc is not None and soc < limits.soc)
            or (soh is not None and soh < limits.soh)
            or (temperature is not None and temperature > limits.temperature)
            or (failure_probability is not None and failure_probability > limits.failure_probability)
        ):
            return health
    return "NORMAL"
