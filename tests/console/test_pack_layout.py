"""The pack: what was sent is shown exactly, what was not lies between, and the page says which is which."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.pack_layout import CIVIDIS, cells_of, colour_of, drawn_of, places

TEMPERATURES = st.floats(-40.0, 120.0)
VOLTAGES = st.floats(1.0, 5.0)
#: From three on one is nearer the middle than another.
COUNTS = st.integers(3, 200)


def battery(count: int = 96, **values: Any) -> dict[str, Any]:
    return {"battery_id": "EV-1", "cells_in_series": float(count), **values}


@given(COUNTS, TEMPERATURES, TEMPERATURES)
def test_hottest_and_coldest_are_those_that_were_sent(count: int, one: float, other: float) -> None:
    coldest, hottest = sorted((one, other))
    cells = cells_of(battery(count, temperature=hottest, temperature_min=coldest), "temperature")
    assert len(cells.values) == count
    assert max(cells.values) == pytest.approx(hottest)
    assert min(cells.values) == pytest.approx(coldest)
    assert cells.lowest <= coldest + 1e-9
    assert cells.highest >= hottest - 1e-9
    assert "interpolated" in cells.note


@given(COUNTS, st.lists(VOLTAGES, min_size=3, max_size=3))
def test_lowest_median_and_highest_cell_are_those_that_were_sent(count: int, voltages: list[float]) -> None:
    lowest, median, highest = sorted(voltages)
    row = battery(count, cell_voltage_min=lowest, cell_voltage_max=highest, cell_voltage_median=median)
    cells = cells_of(row, "voltage")
    assert (min(cells.values), max(cells.values)) == pytest.approx((lowest, highest))
    if count % 2:
        assert sorted(cells.values)[count // 2] == pytest.approx(median)
    assert cells_of(row, "voltage") == cells  # the same each time
    assert "interpolated" in cells.note


def test_what_was_not_sent_is_not_made_up() -> None:
    alone = cells_of(battery(temperature=30.0), "temperature")
    assert set(alone.values) == {30.0}
    assert "hottest probe only" in alone.note
    shared = cells_of(battery(96, voltage=384.0), "voltage")
    assert set(shared.values) == {4.0}
    assert "no cell voltages" in shared.note
    assert cells_of(battery(), "temperature").values == []
    assert cells_of(battery(), "voltage").values == []


def test_noise_does_not_look_like_trouble() -> None:
    cells = cells_of(battery(temperature=25.1, temperature_min=25.0), "temperature")
    assert cells.highest - cells.lowest == pytest.approx(4.0)
    assert len({cells.colour(index) for index in range(96)}) < 12


def test_the_scale_goes_from_end_to_end() -> None:
    assert (colour_of(0.0), colour_of(1.0)) == (CIVIDIS[0], CIVIDIS[-1])
    assert (colour_of(-5.0), colour_of(7.0)) == (CIVIDIS[0], CIVIDIS[-1])


@given(st.integers(1, 400))
def test_every_group_has_a_place_of_its_own(count: int) -> None:
    assert len(set(places(count))) == count


@pytest.mark.parametrize("count", [None, 0.0])
def test_of_a_pack_of_unknown_size_no_cell_is_made_up(count: float | None) -> None:
    row = {"battery_id": "EV-1", "cells_in_series": count, "voltage": 3.7, "temperature": 30.0, "temperature_min": 22.0}
    voltages, temperatures = cells_of(row, "voltage"), cells_of(row, "temperature")
    assert list(voltages.values) == []
    assert "not known" in voltages.note
    assert [temperatures.label(index) for index in range(drawn_of(row))] == [
        "hottest probe: 30.0 °C",
        "coldest probe: 22.0 °C",
    ]
    assert list(cells_of({**row, "temperature_min": None}, "temperature").values) == [30.0]
    sent = cells_of({**row, "cell_voltage_min": 3.6, "cell_voltage_max": 3.8}, "voltage")
    assert [sent.label(index) for index in range(2)] == ["highest cell: 3.800 V", "lowest cell: 3.600 V"]


def test_a_pack_that_is_too_large_to_draw_is_shared_out_among_all_its_groups() -> None:
    cells = cells_of(battery(800, voltage=2960.0), "voltage")
    assert set(cells.values) == {3.7}
    assert len(cells.values) == drawn_of(battery(800)) == 400
    assert "400 of its 800 groups" in cells.note
    assert "400 of its 800 groups" in cells_of(battery(800, temperature=30.0), "temperature").note
    assert "groups" not in cells_of(battery(400, voltage=1480.0), "voltage").note
