"""When an alert begins, changes and ends.  Pure: what is open and what is seen now give what has to be done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from console.alerts.rules import RULES, Rule, Severity

#: Of a snapshot, what is kept as evidence.
EVIDENCE = (
    "time", "soc", "soh", "soh_predicted", "temperature", "temperature_predicted", "ambient_temperature", "voltage",
    "current", "rul_prediction", "failure_probability", "charge_cycles", "warning_level", "is_charging",
)  # fmt: skip
Key = tuple[str, str]


@dataclass(frozen=True)
class Transition:
    """One thing that happened to the alert of `rule` on `battery_id` at the event time `at`."""

    kind: Literal["open", "change", "clear"]
    battery_id: str
    rule: str
    severity: Severity
    value: float
    threshold: float
    reason: str
    at: datetime
    evidence: Mapping[str, Any]


def step(is_open: Mapping[Key, Severity], rows: Iterable[Mapping[str, Any]]) -> list[Transition]:
    """What the snapshots `rows` do to the open alerts (battery and rule -> severity).

    A value that is not known changes nothing: an alert is not over because its sensor is silent.
    """
    found = []
    for row in rows:
        if row["time"] is None:
            continue
        for rule in RULES.values():
            value = rule.value(row)
            if value is None:
                continue
            held = is_open.get((row["battery_id"], rule.name))
            severity = rule.severity(value, held)
            if severity != held:
                found.append(_transition(rule, row, value, held, severity))
    return found


def _transition(
    rule: Rule, row: Mapping[str, Any], value: float, held: Severity | None, severity: Severity | None
) -> Transition:
    shown: Severity = severity or held or "WARNING"
    return Transition(
        kind="clear" if severity is None else "open" if held is None else "change",
        battery_id=row["battery_id"],
        rule=rule.name,
        severity=shown,
        value=value,
        threshold=rule.threshold(shown),
        reason=rule.reason(value, shown),
        at=row["time"],
        evidence={name: row.get(name) for name in EVIDENCE},
    )
