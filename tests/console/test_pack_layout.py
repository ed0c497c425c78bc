"""Pack layout: reported extremes are exact, other values are interpolated, and the note says which are reported."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.pack_layout import VIRIDIS, box_count, box_positions, pack_cells, scale_colour

TEMPERATURES = st.floats(-40.0, 120.0)
VOLTAGES = st.floats(1.0, 5.0)
#: From three cells on, distances from the middle differ.
COUNTS = st.integers(3, 200)


def battery(count: int = 96, **values: Any) -> dict[str, Any]:
    return {"battery_id": "EV-1", "cells_in_series": float(count), **values}


@given(COUNTS, TEMPERATURES, TEMPERATURES)
def test_hottest_and_coldest_values_are_the_reported_ones(count: int, one: float, other: float) -> None:
    coldest, hottest = sorted((one, other))
    cells = pack_cells(battery(count, temperature=hottest, temperature_min=coldest), "temperature")
    assert len(cells.values) == count
    assert max(cells.values) == pytest.approx(hottest)
    assert min(cells.values) == pytest.approx(coldest)
    assert cells.lowest <= coldest + 1e-9
    assert cells.highest >= hottest - 1e-9
    assert "interpolated" in cells.note


@given(COUNTS, st.lists(VOLTAGES, min_size=3, max_size=3))
def test_lowest_median_and_highest_voltages_are_the_reported_ones(count: int, voltages: list[float]) -> None:
    lowest, median, highest = sorted(voltages)
    row = battery(count, cell_voltage_min=lowest, cell_voltage_max=highest, cell_voltage_median=median)
    cells = pack_cells(row, "voltage")
    assert (min(cells.values), max(cells.values)) == pytest.approx((lowest, highest))
    if count % 2:
        assert sorted(cells.values)[count // 2] == pytest.approx(median)
    assert pack_cells(row, "voltage") == cells  # deterministic
    assert "interpolated" in cells.note


def test_missing_values_are_not_invented() -> None:
    alone = pack_cells(battery(temperature=30.0), "temperature")
    assert set(alone.values) == {30.0}
    assert "Only the hottest probe" in alone.note
    shared = pack_cells(battery(96, voltage=384.0), "voltage")
    assert set(shared.values) == {4.0}
    assert "No cell voltages" in shared.note
    assert pack_cells(battery(), "temperature").values == []
    assert pack_cells(battery(), "voltage").values == []


def test_colour_scale_has_a_minimum_span() -> None:
    cells = pack_cells(battery(temperature=25.1, temperature_min=25.0), "temperature")
    assert cells.highest - cells.lowest == pytest.approx(4.0)
    assert len({cells.colour(index) for index in range(96)}) < 12


def test_colour_scale_is_clipped_at_both_ends() -> None:
    assert (scale_colour(0.0), scale_colour(1.0)) == (VIRIDIS[0], VIRIDIS[-1])
    assert (scale_colour(-5.0), scale_colour(7.0)) == (VIRIDIS[0], VIRIDIS[-1])


@given(st.integers(1, 400))
def test_box_positions_are_distinct(count: int) -> None:
    assert len(set(box_positions(count))) == count


@pytest.mark.parametrize("count", [None, 0.0])
def test_pack_of_unknown_size_shows_only_the_reported_extremes(count: float | None) -> None:
    row = {"battery_id": "EV-1", "cells_in_series": count, "voltage": 3.7, "temperature": 30.0, "temperature_min": 22.0}
    voltages, temperatures = pack_cells(row, "voltage"), pack_cells(row, "temperature")
    assert list(voltages.values) == []
    assert "unknown" in voltages.note
    assert [temperatures.label(index) for index in range(box_count(row))] == [
        "hottest probe: 30.0 °C",
        "coldest probe: 22.0 °C",
    ]
    assert list(pack_cells({**row, "temperature_min": None}, "temperature").values) == [30.0]
    reported = pack_cells({**row, "cell_voltage_min": 3.6, "cell_voltage_max": 3.8}, "voltage")
    assert [reported.label(index) for index in range(2)] == ["highest cell: 3.800 V", "lowest cell: 3.600 V"]


def test_large_pack_is_drawn_with_the_maximum_number_of_boxes() -> None:
    cells = pack_cells(battery(800, voltage=2960.0), "voltage")
    assert set(cells.values) == {3.7}
    assert len(cells.values) == box_count(battery(800)) == 400
    assert "400 of 800 groups" in cells.note
    assert "400 of 800 groups" in pack_cells(battery(800, temperature=30.0), "temperature").note
    assert "groups" not in pack_cells(battery(400, voltage=1480.0), "voltage").note
