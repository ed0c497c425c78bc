"""What is an alert: one entry a rule, with its thresholds, how far back it has to come, and its words.

Where `get_battery_health` in the store has a threshold of the same quantity, it is the same; a test holds them equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["WARNING", "CRITICAL"]
#: An empty battery is a matter of today's trip, a worn one of the workshop: they are never mixed.
Category = Literal["safety", "health", "charge"]


@dataclass(frozen=True)
class Rule:
    """One kind of alert.

    Attributes:
        columns: of a snapshot, the first that is known counts.
        is_high: True where a value above the threshold is bad, False where one below it is.
        warning, critical: thresholds, exclusive; `critical` None where it never becomes critical.
        margin: how far back beyond the threshold a value has to come before the alert ends (hysteresis).
    """

    name: str
    title: str
    category: Category
    columns: tuple[str, ...]
    unit: str
    is_high: bool
    warning: float
    critical: float | None
    margin: float
    decimals: int = 1

    def value(self, row: Mapping[str, object]) -> float | None:
        """What the rule goes by; None where it is not known."""
        for column in self.columns:
            value = row.get(column)
            if isinstance(value, int | float):
                return float(value)
        return None

    def severity(self, value: float, held: Severity | None = None) -> Severity | None:
        """How bad `value` is, None where it is not; what is `held` already ends only beyond the margin."""
        if self.critical is not None and self._exceeds(value, self.critical, held == "CRITICAL"):
            return "CRITICAL"
        return "WARNING" if self._exceeds(value, self.warning, held is not None) else None

    def threshold(self, severity: Severity) -> float:
        """The threshold that `severity` stands for."""
        return self.critical if severity == "CRITICAL" and self.critical is not None else self.warning

    def reason(self, value: float, severity: Severity) -> str:
        """A sentence for people; `value` may be within the margin, where an alert that began goes on."""
        limit = self.threshold(severity)
        if self._exceeds(value, limit, is_held=False):
            return f"{self.title} {self._shown(value)} is {'above' if self.is_high else 'below'} {self._shown(limit)}"
        end = limit - self.margin if self.is_high else limit + self.margin
        return f"{self.title} {self._shown(value)} is not back to {self._shown(end)} yet"

    def _shown(self, value: float) -> str:
        return f"{value:.{self.decimals}f}{f' {self.unit}' if self.unit else ''}"

    def _exceeds(self, value: float, threshold: float, is_held: bool) -> bool:
        margin = self.margin if is_held else 0.0
        return value > threshold - margin if self.is_high else value < threshold + margin


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("thermal", "Temperature", "safety", ("temperature",), "°C", True, 45.0, 60.0, 2.0),
        Rule("failure_risk", "Failure probability", "safety", ("failure_probability",), "", True, 0.3, 0.7, 0.05, 2),
        Rule("poor_health", "State of health", "health", ("soh", "soh_predicted"), "%", False, 85.0, 75.0, 0.5),
        Rule("short_life", "Remaining life", "health", ("rul_prediction",), "cycles", False, 100.0, None, 10.0, 0),
        Rule("low_charge", "State of charge", "charge", ("soc",), "%", False, 30.0, 15.0, 3.0),
    )
}


@dataclass(frozen=True)
class Reason:
    """That one rule holds for one battery now."""

    rule: Rule
    severity: Severity
    value: float

    @property
    def sentence(self) -> str:
        """Why, for people."""
        return self.rule.reason(self.value, self.severity)


def reasons(row: Mapping[str, object]) -> list[Reason]:
    """Every rule that holds for a snapshot, the worst first; a missing value triggers nothing."""
    found = []
    for rule in RULES.values():
        value = rule.value(row)
        severity = None if value is None else rule.severity(value)
        if value is not None and severity is not None:
            found.append(Reason(rule, severity, value))
    return sorted(found, key=lambda reason: reason.severity != "CRITICAL")
