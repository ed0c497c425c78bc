"""Tests of the calibrated cell in the simulator: the voltage of its circuit, and cars whose packs are made of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from physics.cell import Wear, resting
from physics.heated_cell import HeatedCell, Surroundings, run_profile
from physics.thermal import ThermalParameters, ThermalState
from simulator.calibration.cell import cell_parameters
from simulator.calibration.circuit import run
from simulator.fleet import SimulateParams, new_battery
from telemetry.errors import TwinError
from tests.simulator.test_calibrate import known_cell

SINCE = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("temperature_c", [5.0, 25.0, 40.0])
def test_its_voltage_is_that_of_the_calibrated_circuit(temperature_c: float) -> None:
    calibrated = known_cell("A")
    parameters = cell_parameters(calibrated)
    time_s = np.arange(0.0, 3000.0, 1.0)
    current_a = np.where(time_s % 600.0 < 400.0, 1.5, 0.0)
    measured_c = np.full(time_s.size, temperature_c)
    circuit = calibrated.circuit(parameters.capacity_ah, 1.0)
    expected_v, _ = run(time_s, current_a, measured_c, temperature_c, temperature_c, circuit, calibrated.thermal())
    thermal = ThermalParameters(38.0, 2.7, 0.4, 0.06, 0.0)
    start = HeatedCell(resting(1.0), ThermalState(temperature_c, temperature_c))
    air = Surroundings(temperature_c, temperature_c, 0.0)
    voltage_v, _, _ = run_profile(
        start, parameters, thermal, Wear(parameters.capacity_ah, 1.0), current_a, 1.0, air, True
    )
    assert np.sqrt(np.mean((voltage_v - expected_v) ** 2)) < 1e-3


def calibrated_file(folder: Path) -> Path:
    file = folder / "A.json"
    file.write_text(json.dumps({"cell": known_cell("A", resistance_ohm=0.06).model_dump()}), encoding="utf-8")
    return file


def test_packs_are_made_of_the_calibrated_cell(tmp_path: Path) -> None:
    params = SimulateParams(cell=calibrated_file(tmp_path), models=("zoe-52",))
    battery, usual = (new_battery(one, 7, 0, SINCE) for one in (params, SimulateParams(models=("zoe-52",))))
    assert battery.design.pack.cell.capacity_ah == pytest.approx(2.0)
    assert battery.identity.row()["chemistry"] == "NMC"
    for one in (battery, usual):
        one.advance_days(300.0)
    logs = [one.readings(one.log(30.0)) for one in (battery, usual)]
    assert battery.soh == pytest.approx(usual.soh, abs=0.02)
    middle = [log[(log["soc"] > 55.0) & (log["soc"] < 60.0)]["cell_voltage_median"].median() for log in logs]
    assert abs(middle[0] - middle[1]) > 0.003, "another open-circuit voltage"


def test_a_cell_of_another_chemistry_than_the_cars_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TwinError, match=r"simulate\.cell") as caught:
        new_battery(SimulateParams(cell=calibrated_file(tmp_path), models=("model3-55",)), 7, 0, SINCE)
    assert caught.value.field == "simulate.cell"
    with pytest.raises(TwinError, match="calibrated cell"):
        new_battery(SimulateParams(cell=tmp_path / "absent.json"), 7, 0, SINCE)
