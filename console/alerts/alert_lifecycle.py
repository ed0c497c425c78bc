"""Alert lifecycle: pure function from open alerts and battery rows to open, change and clear transitions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from console.alerts.rules import RULES, AlertRule, Severity
from features.targets import TARGETS

#: Columns of a battery row that are stored with an alert as evidence.
EVIDENCE = (
    "time", "soc", "soh", "temperature", "ambient_temperature", "voltage", "current", "charge_cycles", "warning_level",
    "is_charging", *(target.predicted_column for target in TARGETS.values()),
)  # fmt: skip
Key = tuple[str, str]


@dataclass(frozen=True)
class Transition:
    """Change of state of the alert of `rule` for `battery_id` at the event time `at`."""

    kind: Literal["open", "change", "clear"]
    battery_id: str
    rule: str
    severity: Severity
    value: float
    threshold: float
    reason: str
    at: datetime
    evidence: Mapping[str, Any]


def find_transitions(open_alerts: Mapping[Key, Severity], rows: Iterable[Mapping[str, Any]]) -> list[Transition]:
    """Transitions that follow from the current battery `rows` for the open alerts (battery and rule -> severity).

    A missing value causes no transition: an alert is not resolved because its sensor stops reporting.
    """
    found = []
    for row in rows:
        if row["time"] is None:
            continue
        for rule in RULES.values():
            value = rule.value(row)
            if value is None:
                continue
            current = open_alerts.get((row["battery_id"], rule.name))
            severity = rule.severity(value, current)
            if severity != current:
                found.append(_transition(rule, row, value, current, severity))
    return found


def _transition(
    rule: AlertRule, row: Mapping[str, Any], value: float, current: Severity | None, severity: Severity | None
) -> Transition:
    shown: Severity = severity or current or "WARNING"
    return Transition(
        kind="clear" if severity is None else "open" if current is None else "change",
        battery_id=row["battery_id"],
        rule=rule.name,
        severity=shown,
        value=value,
        threshold=rule.threshold(shown),
        reason=rule.reason(value, shown),
        at=row["time"],
        evidence={name: row.get(name) for name in EVIDENCE},
    )
