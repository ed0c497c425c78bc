"""Alert lifecycle: from open alerts and battery rows to open, change and clear transitions.

One reading may be a fault of its sensor, so a transition needs as many successive readings as its rule says; the
`status` of each row is the store's and does not wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from console.alerts.rules import RULES, AlertRule, Severity
from features.targets import TARGETS
from telemetry.thresholds import is_overdue

#: Columns of a battery row that are stored with an alert as evidence.
EVIDENCE = (
    "time", "soc", "soh", "temperature", "ambient_temperature", "voltage", "current", "charge_cycles", "warning_level",
    "is_charging", *(target.predicted_column for target in TARGETS.values()),
)  # fmt: skip
Key = tuple[str, str]
_LEVELS: tuple[Severity | None, ...] = (None, "WARNING", "CRITICAL")


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


class SeenReadings:
    """The newest values that were seen of each battery and rule, as many as the rule needs."""

    def __init__(self) -> None:
        self._values: dict[Key, deque[tuple[datetime, float]]] = {}

    def agreeing(self, rule: AlertRule, row: Mapping[str, Any], value: float, now: datetime) -> Sequence[float]:
        """Values of the newest readings up to that of `row`, which have to agree; none while there are too few.

        The newest value is enough once the next reading is overdue: a battery that was hot and fell silent is reported.

        Args:
            now: clock of the store.
        """
        seen = self._values.setdefault((row["battery_id"], rule.name), deque(maxlen=max(rule.readings, 2)))
        if seen and seen[-1][0] == row["time"]:
            seen.pop()  # the same reading, perhaps with a prediction that arrived later
        seen.append((row["time"], value))
        interval_s = None if len(seen) == 1 else abs((seen[-1][0] - seen[-2][0]).total_seconds())
        stored_at = row.get("created_at")
        if stored_at is not None and is_overdue((now - stored_at).total_seconds(), interval_s):
            return [value]
        newest = [value for _, value in seen][-rule.readings :]
        return newest if len(newest) == rule.readings else ()


def find_transitions(
    open_alerts: Mapping[Key, Severity],
    rows: Iterable[Mapping[str, Any]],
    seen: SeenReadings | None = None,
    now: datetime | None = None,
) -> list[Transition]:
    """Transitions that follow from the current battery `rows` for the open alerts (battery and rule -> severity).

    A missing value causes no transition: an alert is not resolved because its sensor stops reporting.

    Args:
        seen: earlier readings, to which those of `rows` are added; without it, or without `now`, one reading is enough.
        now: clock of the store.
    """
    found = []
    for row in rows:
        if row["time"] is None:
            continue
        for rule in RULES.values():
            value = rule.value(row)
            if value is None:
                continue
            values = [value] if seen is None or now is None else seen.agreeing(rule, row, value, now)
            current = open_alerts.get((row["battery_id"], rule.name))
            severity = _agreed([rule.severity(one, current) for one in values], current)
            if severity != current:
                found.append(_transition(rule, row, value, current, severity))
    return found


def _agreed(severities: Sequence[Severity | None], current: Severity | None) -> Severity | None:
    """The severity nearest to `current` among `severities`; `current` if they lie on both sides of it."""
    levels, level = [_LEVELS.index(severity) for severity in severities], _LEVELS.index(current)
    if levels and min(levels) > level:
        return _LEVELS[min(levels)]
    if levels and max(levels) < level:
        return _LEVELS[max(levels)]
    return current


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
