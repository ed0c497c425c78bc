"""Thresholds of status, alerts and gauges: one table with a row for each use.

`telemetry.health`, the alert rules of the console and the gauges of Grafana are built from it; that
`get_battery_health` in the store, `monitoring/prometheus/alerts.yml` and the documents have the same values is tested.
The values of `status` and `prometheus` are those of the contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Use = Literal["status", "console", "prometheus", "grafana"]

#: A single reading may be a fault of its sensor.  It counts alone once the next one is overdue: this much time has
#: passed, and this many times the interval before it.
OVERDUE_S = 10.0
OVERDUE_INTERVALS = 1.5


@dataclass(frozen=True)
class Threshold:
    """One use of the thresholds of a quantity; limits are exclusive.

    Attributes:
        name: of the alert rule or panel; of a status the quantity.
        quantity: soc and soh in %, temperature in degC, failure_probability, rul in equivalent full cycles.
        is_high: whether a value above the limits is bad, else one below them.
        warning, critical: None where the use has no such level.
        readings: number of successive readings that have to agree before an alert opens, changes or ends.
        for_s: how long the condition must hold in addition, s of wall-clock time.
    """

    use: Use
    name: str
    quantity: str
    is_high: bool
    warning: float | None
    critical: float | None
    readings: int = 1
    for_s: float = 0.0


# Safety is reported after two readings, comfort and wear later.
THRESHOLDS: tuple[Threshold, ...] = (
    Threshold("status", "temperature", "temperature", True, 45.0, 60.0),
    Threshold("status", "failure_probability", "failure_probability", True, 0.3, 0.7),
    Threshold("status", "soh", "soh", False, 85.0, 75.0),
    Threshold("status", "soc", "soc", False, 30.0, 15.0),
    Threshold("console", "thermal", "temperature", True, 45.0, 60.0, readings=2),
    Threshold("console", "failure_risk", "failure_probability", True, 0.3, 0.7, readings=2),
    Threshold("console", "poor_health", "soh", False, 85.0, 75.0, readings=3),
    Threshold("console", "short_life", "rul", False, 100.0, None, readings=3),
    Threshold("console", "low_charge", "soc", False, 30.0, 15.0, readings=3),
    Threshold("prometheus", "ThermalExcess", "temperature", True, None, 60.0, readings=2),
    Threshold("prometheus", "ThermalWarning", "temperature", True, 45.0, None, readings=2, for_s=60.0),
    Threshold("prometheus", "ThermalExcessForecast", "temperature", True, 60.0, None, for_s=15.0),
    Threshold("prometheus", "HighFailureProbability", "failure_probability", True, None, 0.7, for_s=60.0),
    Threshold("prometheus", "LowRemainingLife", "rul", False, 100.0, None, for_s=60.0),
    Threshold("prometheus", "LowCharge", "soc", False, 20.0, None, readings=2, for_s=30.0),
    Threshold("grafana", "State of health", "soh", False, 85.0, 75.0),
    Threshold("grafana", "State of charge", "soc", False, 30.0, 15.0),
    Threshold("grafana", "Failure probability", "failure_probability", True, 0.3, 0.7),
)


def thresholds(use: Use) -> dict[str, Threshold]:
    """Rows of one use, by name."""
    return {row.name: row for row in THRESHOLDS if row.use == use}


def is_overdue(stored_s: float, interval_s: float | None) -> bool:
    """Whether a battery's next reading is overdue.

    Args:
        stored_s: time since the newest reading was stored, s.
        interval_s: time between it and the one before, s; None where that is unknown.
    """
    return stored_s >= max(OVERDUE_S, 0.0 if interval_s is None else OVERDUE_INTERVALS * interval_s)
