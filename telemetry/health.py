"""Health status of a battery by the contract's rule, as in the database function `get_battery_health`."""

from __future__ import annotations

from typing import Literal

from telemetry.thresholds import Threshold, thresholds

Health = Literal["NORMAL", "WARNING", "CRITICAL"]
_LIMITS = thresholds("status")


def battery_health(
    soc: float | None, soh: float | None, temperature: float | None, failure_probability: float | None
) -> Health:
    """Status for `soc` and `soh` in percent and `temperature` in degC; None and NaN match no rule."""
    values = {"soc": soc, "soh": soh, "temperature": temperature, "failure_probability": failure_probability}
    known = [(_LIMITS[name], value) for name, value in values.items() if value is not None]
    if any(_exceeds(value, row, row.critical) for row, value in known):
        return "CRITICAL"
    return "WARNING" if any(_exceeds(value, row, row.warning) for row, value in known) else "NORMAL"


def _exceeds(value: float, row: Threshold, limit: float | None) -> bool:
    return limit is not None and (value > limit if row.is_high else value < limit)
