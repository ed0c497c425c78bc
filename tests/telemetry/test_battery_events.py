"""Events of batteries in training data: replaced packs, continued ages, and labels of tests and failures."""

from __future__ import annotations

import pandas as pd

from telemetry.contract import BATTERY_EVENT_FIELDS, BATTERY_FIELDS, CYCLE_FIELDS, READING_FIELDS
from telemetry.sources.base import PROVENANCE, complete
from telemetry.sources.battery_events import WithEvents, apply_events

DAYS = pd.date_range("2026-01-01", periods=10, freq="D", tz="UTC")


def day(number: float) -> pd.Timestamp:
    return DAYS[0] + pd.Timedelta(days=number)


def with_events(*events: dict[str, object], counts: list[float] | None = None) -> WithEvents:
    origin = {PROVENANCE[0]: "a file", PROVENANCE[1]: 1}
    readings = pd.DataFrame({"battery_id": "EV-7", "time": DAYS, "voltage": 360.0, "current": 1.0, "temperature": 20.0})
    readings["charge_cycles"] = counts or [900.0] * 4 + [3.0 + day for day in range(6)]
    cycles = pd.DataFrame({"battery_id": "EV-7", "cycle_index": [899.0, 5.0], "end_time": [DAYS[2], DAYS[6]]})
    return apply_events(
        complete(readings.assign(**origin), READING_FIELDS, PROVENANCE),
        complete(cycles.assign(**origin), CYCLE_FIELDS, PROVENANCE),
        complete(pd.DataFrame({"battery_id": ["EV-7"], "nominal_capacity_ah": [100.0]}), BATTERY_FIELDS),
        complete(pd.DataFrame([{"battery_id": "EV-7", **event} for event in events]), BATTERY_EVENT_FIELDS),
    )


def test_without_events_nothing_changes() -> None:
    made = with_events()
    assert set(made.readings["battery_id"]) == {"EV-7"}
    assert made.readings["charge_cycles"].tolist()[:5] == [900.0] * 4 + [3.0]
    assert len(made.cycles) == 2


def test_replaced_pack_is_a_battery_of_its_own() -> None:
    made = with_events({"event": "replaced", "time": day(4)})
    assert made.readings["battery_id"].tolist() == ["EV-7.1"] * 4 + ["EV-7"] * 6
    assert made.cycles["battery_id"].tolist() == ["EV-7.1", "EV-7"]
    assert made.batteries["battery_id"].tolist() == ["EV-7", "EV-7.1"]
    assert made.batteries["nominal_capacity_ah"].tolist() == [100.0, 100.0]


def test_two_replacements_make_three_batteries() -> None:
    made = with_events({"event": "replaced", "time": day(7)}, {"event": "replaced", "time": day(4)})
    assert made.readings["battery_id"].tolist() == ["EV-7.1"] * 4 + ["EV-7.2"] * 3 + ["EV-7"] * 3


def test_age_goes_on_after_a_reset() -> None:
    made = with_events({"event": "bms_reset", "time": day(4)})
    assert made.readings["charge_cycles"].tolist() == [900.0] * 5 + [901.0, 902.0, 903.0, 904.0, 905.0]
    assert set(made.readings["battery_id"]) == {"EV-7"}


def test_capacity_test_and_failure_are_labels_at_the_age_of_their_time() -> None:
    made = with_events(
        {"event": "capacity_test", "time": day(3.5), "value": 81.0},
        {"event": "failed", "time": day(6.5)},
        counts=[100.0 + day for day in range(10)],
    )
    test, failure = made.cycles.iloc[2], made.cycles.iloc[3]
    assert (test["cycle_index"], test["capacity_ah"], test["capacity_method"]) == (899.0, 81.0, "measured")
    assert failure["warning_level"] == 3.0
    assert made.notes == []


def test_label_without_an_age_is_noted() -> None:
    made = with_events({"event": "capacity_test", "time": day(-1), "value": 81.0})
    assert len(made.cycles) == 2
    assert made.notes[0].startswith("the event capacity_test of EV-7 at 2025-12-31T00:00:00+00:00 has no label")
