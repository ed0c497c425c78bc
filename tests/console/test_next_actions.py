"""The list of what to do next: urgency, one entry per battery, forecasts and silent batteries."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from console.alerts.next_actions import next_actions
from console.alerts.rules import RULES

_COLUMNS = {column for rule in RULES.values() for column in rule.columns} | {"temperature_predicted"}


def row(**values: float) -> dict[str, Any]:
    return {**dict.fromkeys(_COLUMNS), **values}


def test_most_urgent_battery_comes_first_and_each_action_is_named_once() -> None:
    rows = {
        "EV-1": row(soc=9.0),
        "EV-2": row(rul_prediction=80.0, soh=79.0),
        "EV-3": row(temperature=61.0, soh=80.0),
        "EV-4": row(temperature=50.0),
        "EV-5": row(temperature=21.0),
    }
    actions = next_actions(
        rows,
        {
            ("EV-1", "low_charge"): "CRITICAL",
            ("EV-2", "short_life"): "WARNING",
            ("EV-2", "poor_health"): "WARNING",
            ("EV-3", "poor_health"): "WARNING",
            ("EV-3", "thermal"): "CRITICAL",
            ("EV-4", "thermal"): "WARNING",
            ("EV-6", "thermal"): "WARNING",  # no longer a battery
        },
        {"EV-5": timedelta(hours=3)},
    )
    assert [(action.battery_id, action.urgency, action.text) for action in actions] == [
        ("EV-3", "CRITICAL", "inspect cooling, 61.0 °C; plan replacement, SoH 80.0 %"),
        ("EV-1", "CRITICAL", "charge, SoC 9.0 %"),
        ("EV-4", "WARNING", "inspect cooling, 50.0 °C"),
        ("EV-2", "WARNING", "plan replacement, RUL 80 cycles, SoH 79.0 %"),
        ("EV-5", "STALE", "check the connection, no data for 3 h"),
    ]


def test_hot_forecast_is_an_action_before_the_alert_opens_and_not_beside_it() -> None:
    rows = {"EV-1": row(temperature=40.0, temperature_predicted=52.0)}
    (action,) = next_actions(rows, {}, {})
    assert (action.urgency, action.text) == ("WARNING", "inspect cooling, 52.0 °C forecast")
    (action,) = next_actions(rows, {("EV-1", "thermal"): "WARNING"}, {})
    assert action.text == "inspect cooling, 40.0 °C"
    assert next_actions({"EV-1": row(temperature=40.0, temperature_predicted=44.0)}, {}, {}) == []
    # The last forecast of a silent battery says nothing about the present.
    (action,) = next_actions(rows, {}, {"EV-1": timedelta(minutes=2)})
    assert action.text == "check the connection, no data for 2 min"
