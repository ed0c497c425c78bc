"""Tests of the parameter files: unknown chemistries, and expansion of the tables in temperature."""

from __future__ import annotations

import numpy as np
import pytest

from physics.cell import TEMPERATURE_FIRST_C, TEMPERATURE_STEP_C
from physics.parameters import available, cell_parameters, stored
from telemetry.errors import TwinError


def test_an_unknown_chemistry_is_refused() -> None:
    with pytest.raises(TwinError, match="chemistry XYZ: choose one of LFP, NCA, NMC"):
        stored("XYZ")


@pytest.mark.parametrize("name", available())
def test_tables_reproduce_the_identified_temperatures(name: str) -> None:
    content = stored(name)
    cell = cell_parameters(content)
    for index, temperature_c in enumerate(content["temperature_c"]):
        row = round((temperature_c - TEMPERATURE_FIRST_C) / TEMPERATURE_STEP_C)
        assert cell.series[row, 0] == pytest.approx(content["series_ohm"][index])
        assert cell.time_s[row] == pytest.approx(content["time_s"][index])
        assert cell.resistance_ohm[row, 20, 1] == pytest.approx(content["first_ohm"][index][9])


@pytest.mark.parametrize("name", available())
def test_beyond_the_identified_temperatures_resistance_falls_with_temperature(name: str) -> None:
    content = stored(name)
    cell, identified = cell_parameters(content), content["temperature_c"]
    first, last = (round((identified[end] - TEMPERATURE_FIRST_C) / TEMPERATURE_STEP_C) for end in (0, -1))
    for table in (cell.resistance_ohm, cell.time_s, cell.series[:, 0], -cell.series[:, 1]):
        assert (np.diff(table[: first + 1], axis=0) <= 1e-12).all()
        assert (np.diff(table[last:], axis=0) <= 1e-12).all()
