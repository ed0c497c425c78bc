"""Alarms at a threshold: failures caught, lead times and false alarms, counted by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from training.alarms import alarm_measures


def rows(battery_id: str, actual: list[int], predicted: list[float], days: bool = True) -> pd.DataFrame:
    start = pd.Timestamp("2025-01-01", tz="UTC")
    times = [start + pd.Timedelta(days=10 * i) if days else pd.NaT for i in range(len(actual))]
    return pd.DataFrame(
        {
            "battery_id": battery_id,
            "time": pd.to_datetime(pd.Series(times), utc=True),
            "cycle_index": [5.0 * i for i in range(len(actual))],
            "actual": [float(value) for value in actual],
            "predicted": predicted,
        }
    )


def test_alarms_are_counted_by_battery_and_failure() -> None:
    caught = rows("A", [0, 0, 1, 1, 1, 1], [0.1, 0.1, 0.2, 0.8, 0.1, 0.9])
    missed = rows("B", [0, 1, 1], [0.1, 0.2, 0.2])
    false = rows("C", [0, 0, 0, 0, 0], [0.8, 0.9, 0.1, 0.8, 0.1])
    early = rows("D", [0, 0, 1, 1], [0.1, 0.8, 0.8, 0.8])  # an alarm that goes on until the failure is not false
    found = alarm_measures(pd.concat([caught, missed, false, early]), 0.7)
    assert found == {
        "threshold": 0.7,
        "failures": 3,
        "caught": pytest.approx(2 / 3),
        "lead_cycles": pytest.approx(7.5),  # 10 and 5
        "lead_days": pytest.approx(15.0),
        "false_alarms": 2,
        "false_alarms_per_100_battery_years": pytest.approx(100 * 2 / ((50 + 20 + 40 + 30) / 365.25)),
    }


def test_without_times_alarms_are_counted_in_cycles() -> None:
    found = alarm_measures(rows("A", [0, 1, 1], [0.9, 0.1, 0.9], days=False), 0.5)
    assert (found["caught"], found["false_alarms"], found["lead_cycles"]) == (1.0, 1, 0.0)
    assert found["false_alarms_per_100_battery_years"] is None


def test_nothing_to_catch() -> None:
    found = alarm_measures(rows("A", [0, 0], [0.1, 0.2]), 0.5)
    assert (found["failures"], found["caught"], found["lead_cycles"], found["false_alarms"]) == (0, None, None, 0)
