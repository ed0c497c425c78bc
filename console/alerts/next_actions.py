"""List of what to do next, one entry per battery, ranked by urgency from open alerts, forecasts and missing data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from console.alerts.alert_lifecycle import Key
from console.alerts.rules import RULES, Severity

Urgency = Literal["CRITICAL", "WARNING", "STALE"]

#: Urgency of a category within a severity: a hot pack comes before a worn one, an empty one last.
_CATEGORY_RANK = {"safety": 0, "health": 1, "charge": 3}
_SILENT_RANK = 2
_FORECAST_RULE = RULES["thermal"]


@dataclass(frozen=True)
class NextAction:
    """What to do about one battery: its most urgent action first."""

    battery_id: str
    urgency: Urgency
    text: str


def next_actions(
    rows: Mapping[str, Mapping[str, Any]],
    alerts: Mapping[Key, Severity],
    silent: Mapping[str, timedelta],
) -> list[NextAction]:
    """Actions for all batteries that need one, the most urgent first.

    Args:
        rows: battery rows by id.
        alerts: severity of the open alerts to act on (without muted ones) by battery and rule.
        silent: batteries that stopped sending data, with the time since then.
    """
    found: dict[str, list[tuple[tuple[int, int], Urgency, str, str]]] = {}
    for (battery_id, name), severity in alerts.items():
        rule, row = RULES.get(name), rows.get(battery_id)
        value = None if rule is None or row is None else rule.value(row)
        if rule is not None and value is not None:
            rank = (int(severity != "CRITICAL"), _CATEGORY_RANK[rule.category])
            found.setdefault(battery_id, []).append((rank, severity, rule.action, rule.brief(value)))
    for battery_id, row in rows.items():
        forecast = row["temperature_predicted"]
        is_open = (battery_id, _FORECAST_RULE.name) in alerts
        if forecast is not None and forecast > _FORECAST_RULE.warning and not is_open and battery_id not in silent:
            entry = ((1, 0), "WARNING", _FORECAST_RULE.action, f"{_FORECAST_RULE.brief(forecast)} forecast")
            found.setdefault(battery_id, []).append(entry)  # type: ignore[arg-type]
    for battery_id, elapsed in silent.items():
        entry = ((1, _SILENT_RANK), "STALE", "check the connection", f"no data for {_duration(elapsed)}")
        found.setdefault(battery_id, []).append(entry)  # type: ignore[arg-type]
    ranked = sorted(
        ((sorted(entries, key=lambda entry: entry[0]), battery_id) for battery_id, entries in found.items()),
        key=lambda item: ([entry[0] for entry in item[0]], item[1]),
    )
    return [NextAction(battery_id, entries[0][1], _sentence(entries)) for entries, battery_id in ranked]


def _sentence(entries: Iterable[tuple[tuple[int, int], Urgency, str, str]]) -> str:
    """Each action once, with the values that call for it."""
    values: dict[str, list[str]] = {}
    for _, _, action, value in entries:
        values.setdefault(action, []).append(value)
    return "; ".join(f"{action}, {', '.join(shown)}" for action, shown in values.items())


def _duration(elapsed: timedelta) -> str:
    seconds = elapsed.total_seconds()
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
