"""`/predict` answers every good battery beside hostile ones: no 5xx, no lost worker, an error entry for a bad one."""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features import state
from telemetry.contract import BATTERY_FIELDS
from tests import hostile
from tests.serving.test_service import predicted, scraped

Battery = Callable[..., dict[str, Any]]


def send(service: httpx.Client, *entries: object) -> httpx.Response:
    """Post `entries`; NaN and Infinity are sent as JavaScript writes them."""
    return service.post("/predict", content=json.dumps({"batteries": entries}))


def answers(service: httpx.Client, *entries: object) -> list[dict[str, Any]]:
    response = send(service, *entries)
    assert response.status_code == 200, response.text
    return list(response.json()["predictions"])


def forged(text: str, slot: int, value: float) -> str:
    """The state `text` with another value in `slot`, and a right checksum."""
    raw = bytearray(base64.b64decode(text))
    header = len(raw) - 8 * state.STATE_SIZE
    struct.pack_into("<d", raw, header + 8 * slot, value)
    struct.pack_into("<I", raw, header - 4, zlib.crc32(bytes(raw[header:])))
    return base64.b64encode(bytes(raw)).decode()


def test_one_bad_battery_does_not_cost_the_others(service: httpx.Client, battery: Battery) -> None:
    good = [battery(f"B{i}", readings=range(5), cycles=range(1, 13)) for i in range(40)]
    expected = predicted(service, *good)
    before = scraped(service)
    no_voltage, wrong_soc = battery("X", readings=[0]), battery("Y", readings=range(5), cycles=range(1, 13))
    no_voltage["readings"][0]["voltage"] = None
    wrong_soc["readings"][2]["soc"] = 102
    got = answers(service, *good[:20], no_voltage, wrong_soc, *good[20:])
    assert [entry for entry in got if entry["battery_id"].startswith("B")] == expected
    error, noted = got[20], got[21]
    assert error["status"] == 422
    assert error["field"] == "batteries[20].readings[0].voltage"
    assert error["battery_id"] == "X"
    assert set(error) == {"battery_id", "status", "error", "field", "value"}
    assert noted["notes"] == ["1 value of soc out of range taken as missing, e.g. 102"]
    assert noted["rul"]["value"] == expected[0]["rul"]["value"]
    after = scraped(service)
    assert after['entries_refused_total{status="422"}'] == before.get('entries_refused_total{status="422"}', 0) + 1
    name = 'values_out_of_range_total{field="soc"}'
    assert after[name] == before.get(name, 0) + 1


@pytest.mark.parametrize(
    ("slot", "value"),
    [
        (state.CHEMISTRY, -1e9),
        (state.CHEMISTRY, 1e18),
        (state.CHEMISTRY, math.nan),
        (state.SESSION_START_S, 1e300),
        (state.TIME_S, 1e300),
        (state.CYCLES_SEEN, math.inf),
        (state.NOMINAL_CAPACITY_AH, 0.0),
        (state.CELLS_IN_SERIES, 0.0),
    ],
)
def test_forged_state_is_refused_and_the_workers_live(
    service: httpx.Client, battery: Battery, slot: int, value: float
) -> None:
    (first,) = predicted(service, battery("X", readings=range(5)))
    bad = battery("X", readings=[10], state=forged(first["state"], slot, value))
    for _ in range(3):  # every worker is asked
        refused, good = answers(service, bad, battery("A", readings=range(5)))
        assert refused["status"] == 409
        assert refused["field"] == "batteries[0].state"
        assert good["temperature"]["value"] is not None


def test_state_of_another_battery_is_refused(service: httpx.Client, battery: Battery) -> None:
    (first,) = predicted(service, battery("A", readings=range(5)))
    refused, _ = answers(service, battery("B", readings=[10], state=first["state"]), battery("C"))
    assert (refused["battery_id"], refused["status"]) == ("B", 409)
    assert "another battery" in refused["error"]


@pytest.mark.parametrize(
    ("field", "value"), [("nominal_capacity_ah", 75.0), ("cells_in_series", 95.0), ("chemistry", "LFP")]
)
def test_state_made_with_another_description_is_refused(
    service: httpx.Client, battery: Battery, field: str, value: object
) -> None:
    (first,) = predicted(service, battery(readings=range(5)))
    again = battery(readings=[10], state=first["state"])
    again["battery"][field] = value
    response = send(service, again)
    assert response.status_code == 409
    assert response.json()["field"] == f"batteries[0].battery.{field}"
    assert "history" in response.json()["error"]


@pytest.mark.parametrize("time", ["9999-12-31T23:59:00Z", "0001-01-01T00:00:00+14:00", "2099-01-01T00:00:00Z"])
def test_reading_of_an_impossible_time_is_refused_and_changes_no_state(
    service: httpx.Client, battery: Battery, time: str
) -> None:
    bad = battery("X", readings=[0])
    bad["readings"][0]["time"] = time
    refused, good = answers(service, bad, battery("A"))
    assert refused["status"] == 422
    assert refused["field"] == "batteries[0].readings[0].time"
    assert "state" not in refused
    assert good["temperature"]["value"] is not None


@pytest.mark.parametrize(("name", "value"), hostile.BATTERIES)
def test_hostile_descriptions_leave_the_other_battery_its_predictions(
    service: httpx.Client, battery: Battery, name: str, value: float | None
) -> None:
    bad = battery("X", readings=range(5))
    bad["battery"][name] = value
    got, good = answers(service, bad, battery("A", readings=range(5)))
    assert got["battery_id"] == "X"
    assert "error" not in got, "a value out of range counts as missing"
    assert good["temperature"]["value"] is not None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changed=st.lists(hostile.changes(), max_size=3), described=hostile.changes(BATTERY_FIELDS))
def test_hostile_readings_leave_the_good_batteries_their_predictions(
    service: httpx.Client, battery: Battery, changed: list[dict[str, Any]], described: dict[str, Any]
) -> None:
    good = battery("A", readings=range(5), cycles=range(1, 13))
    bad = battery("X", readings=range(5))
    bad["battery"] |= described
    for row, change in zip(bad["readings"], changed, strict=False):
        row |= change
    got, answer = answers(service, bad, good)
    assert answer["rul"]["value"] is not None
    assert got["battery_id"] == "X"
    assert got.get("status", 422) == 422
    if "state" in got:
        again = answers(service, battery("X", readings=[100], state=got["state"], battery=None), good)
        assert again[1] == answer


def test_second_entry_of_a_battery_is_refused(service: httpx.Client, battery: Battery) -> None:
    first, second = answers(service, battery("A"), battery("A"))
    assert first == predicted(service, battery("A"))[0]
    assert (second["status"], second["field"]) == (422, "batteries[1].battery_id")


def test_duplicate_and_conflict_are_told_apart(service: httpx.Client, battery: Battery) -> None:
    (first,) = predicted(service, battery(readings=range(5)))
    (same,) = predicted(service, battery(readings=[4], state=first["state"]))
    other = battery(readings=[4], state=first["state"])
    other["readings"][0]["voltage"] -= 1.0
    (conflict,) = predicted(service, other)
    assert same["notes"] == ["1 reading equal to the newest one was left out"]
    assert conflict["notes"] == ["1 reading at the time of the newest one, but with other values, was left out"]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("cell_voltage", lambda row: row | {"voltage": row["voltage"] / 96}),
        ("current", lambda row: row | {"current": 4000.0}),
    ],
)
def test_implausible_readings_are_noted_counted_and_withhold_predictions(
    service: httpx.Client, battery: Battery, kind: str, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    name = f'implausible_readings_total{{kind="{kind}"}}'
    before = scraped(service)[name]
    entry = battery(readings=range(0, 600, 10), cycles=range(1, 13))
    entry["readings"] = [change(row) for row in entry["readings"]]
    (got,) = predicted(service, entry)
    assert [note for note in got["notes"] if note.startswith("60 readings with a")]
    for target in ("soh", "temperature", "rul", "failure_probability"):
        assert got[target]["value"] is None
        assert kind in got[target]["withheld"] or got[target]["withheld"] == "no reading yet"
    assert scraped(service)[name] == before + 60


def test_pack_without_the_number_of_cells_has_a_temperature(service: httpx.Client, battery: Battery) -> None:
    (got,) = predicted(service, battery(battery={"nominal_capacity_ah": 150, "chemistry": "NMC"}, cycles=range(1, 13)))
    assert got["temperature"]["value"] is not None
    assert any("battery.cells_in_series" in note for note in got["notes"])


def test_numbers_of_the_answer_are_finite(service: httpx.Client, battery: Battery) -> None:
    entry = battery(readings=range(5), cycles=range(1, 13))
    entry["cycles"][3] |= {"resistance_ohm": 1e308, "cc_charge_time_s": -1e308}
    text = send(service, entry).text
    assert "NaN" not in text
    assert "Infinity" not in text
    assert np.isfinite(json.loads(text)["predictions"][0]["cycle_index"])
