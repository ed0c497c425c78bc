"""Alert rules: columns, hysteresis and message of each rule; its thresholds are in `telemetry.thresholds`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from telemetry.thresholds import thresholds

Severity = Literal["WARNING", "CRITICAL"]
#: Low charge is solved by charging, poor health by maintenance: the pages list them separately.
Category = Literal["safety", "health", "charge"]


@dataclass(frozen=True)
class AlertRule:
    """One alert rule.

    Attributes:
        columns: columns of a battery row; the first that is not null is compared.
        margin: hysteresis: distance back beyond the threshold at which an open alert is resolved.
        is_high: True if a value above the threshold triggers the rule, False if one below it does.
        warning, critical: thresholds, exclusive; `critical` None if the rule has no critical level.
        readings: number of successive readings that have to agree before an alert opens, changes or is resolved.
        action: what to do about it, for the list of the fleet page.
        short: name of the value in that list.
    """

    name: str
    title: str
    category: Category
    columns: tuple[str, ...]
    unit: str
    margin: float
    action: str
    short: str = ""
    decimals: int = 1
    is_high: bool = field(kw_only=True)
    warning: float = field(kw_only=True)
    critical: float | None = field(kw_only=True)
    readings: int = field(kw_only=True)

    def value(self, row: Mapping[str, object]) -> float | None:
        """The value that is compared; None if it is missing."""
        for column in self.columns:
            value = row.get(column)
            if isinstance(value, int | float):
                return float(value)
        return None

    def severity(self, value: float, current: Severity | None = None) -> Severity | None:
        """Severity of `value`, None if not triggered; an open alert (`current`) ends only beyond the margin."""
        if self.critical is not None and self._exceeds(value, self.critical, current == "CRITICAL"):
            return "CRITICAL"
        return "WARNING" if self._exceeds(value, self.warning, current is not None) else None

    def threshold(self, severity: Severity) -> float:
        """Threshold of `severity`."""
        return self.critical if severity == "CRITICAL" and self.critical is not None else self.warning

    def reason(self, value: float, severity: Severity) -> str:
        """Message for `value`, which may be within the hysteresis margin of an open alert."""
        limit = self.threshold(severity)
        if self._exceeds(value, limit, is_open=False):
            return f"{self.title} {self._shown(value)} is {'above' if self.is_high else 'below'} {self._shown(limit)}"
        end = limit - self.margin if self.is_high else limit + self.margin
        return f"{self.title} {self._shown(value)} has not returned to {self._shown(end)} yet"

    def brief(self, value: float) -> str:
        """Short name and value, e.g. `RUL 80 cycles`."""
        return f"{self.short} {self._shown(value)}".lstrip()

    def _shown(self, value: float) -> str:
        return f"{value:.{self.decimals}f}{f' {self.unit}' if self.unit else ''}"

    def _exceeds(self, value: float, threshold: float, is_open: bool) -> bool:
        margin = self.margin if is_open else 0.0
        return value > threshold - margin if self.is_high else value < threshold + margin


def _rule(
    name: str,
    title: str,
    category: Category,
    columns: tuple[str, ...],
    unit: str,
    margin: float,
    action: str,
    short: str = "",
    decimals: int = 1,
) -> AlertRule:
    row = thresholds("console")[name]
    if row.warning is None:
        raise ValueError(f"the console's row {name} of telemetry.thresholds has no warning level; give one")
    return AlertRule(
        name, title, category, columns, unit, margin, action, short, decimals,
        is_high=row.is_high, warning=row.warning, critical=row.critical, readings=row.readings,
    )  # fmt: skip


_RULES = (
    _rule("thermal", "Temperature", "safety", ("temperature",), "°C", 2.0, "inspect cooling"),
    _rule("failure_risk", "Failure probability", "safety", ("failure_probability",), "", 0.05,
          "inspect the pack", "failure probability", 2),
    _rule("poor_health", "State of health", "health", ("soh", "soh_predicted"), "%", 0.5, "plan replacement", "SoH"),
    _rule("short_life", "Remaining useful life", "health", ("rul_prediction",), "cycles", 10.0,
          "plan replacement", "RUL", 0),
    _rule("low_charge", "State of charge", "charge", ("soc",), "%", 3.0, "charge", "SoC"),
)  # fmt: skip
RULES: dict[str, AlertRule] = {rule.name: rule for rule in _RULES}


@dataclass(frozen=True)
class TriggeredRule:
    """An alert rule that the current values of a battery trigger."""

    rule: AlertRule
    severity: Severity
    value: float

    @property
    def message(self) -> str:
        """Message with value and threshold."""
        return self.rule.reason(self.value, self.severity)


def triggered_rules(row: Mapping[str, object]) -> list[TriggeredRule]:
    """Rules that a battery row triggers, CRITICAL first; a missing value triggers nothing."""
    found = []
    for rule in RULES.values():
        value = rule.value(row)
        severity = None if value is None else rule.severity(value)
        if value is not None and severity is not None:
            found.append(TriggeredRule(rule, severity, value))
    return sorted(found, key=lambda triggered: triggered.severity != "CRITICAL")
