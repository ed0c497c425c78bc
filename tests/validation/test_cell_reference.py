"""Tests of identification and comparison: profiles, agreement of fit and model, and PyBaMM where it is installed."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from physics.cell import OCP_POINTS, CellParameters, Wear, resting
from physics.heated_cell import HeatedCell, Surroundings, run_profile
from physics.parameters import cell_parameters, stored, thermal_parameters
from physics.thermal import ThermalState
from telemetry.errors import TwinError
from validation.comparison import compare
from validation.identify_cell import fit
from validation.profiles import VALIDATION, Profile, drive, identification
from validation.pybamm_reference import REFERENCES, OpenCircuit, Run, pybamm, run

INSTALLED = find_spec("pybamm") is not None
CONTENT = stored("NMC")
CELL: CellParameters = cell_parameters(CONTENT)


def model_run(profile: Profile, temperature_c: float = 25.0) -> Run:
    """An isothermal run of the cell model itself in the form of a reference."""
    current_a = CELL.capacity_ah * np.concatenate([[0.0], profile.c_rate])
    start = HeatedCell(resting(profile.soc), ThermalState(temperature_c, temperature_c))
    air = Surroundings(temperature_c, temperature_c, 0.0)
    thermal, wear = thermal_parameters(CONTENT), Wear(CELL.capacity_ah, 1.0)
    voltage_v, core_c, _ = run_profile(start, CELL, thermal, wear, current_a, 1.0, air, True)
    mean_a = 0.5 * (current_a[1:] + current_a[:-1])
    soc = profile.soc - np.concatenate([[0.0], np.cumsum(mean_a)]) / (3600.0 * CELL.capacity_ah)
    return Run(current_a, voltage_v, soc, core_c, 0.0)


def test_profiles_stay_between_empty_and_full_and_peak_at_2c() -> None:
    for slow in (False, True):
        profiles = {name: make(slow) for name, make in VALIDATION.items()} | identification(slow)
        for name, profile in profiles.items():
            soc = profile.soc - np.cumsum(profile.c_rate) / 3600.0
            assert 0.0 < soc.min() < soc.max() < 1.0, name
    udds = VALIDATION["udds"](False)
    assert udds.c_rate.max() == pytest.approx(2.0)
    assert udds.c_rate.min() < 0.0  # regenerative braking
    assert len(drive("udds")) == 1370


def test_validation_uses_no_profile_of_the_identification() -> None:
    for slow in (False, True):
        known = [profile.c_rate for profile in identification(slow).values()]
        for name, make in VALIDATION.items():
            assert not any(np.array_equal(make(slow).c_rate, one) for one in known), name


def test_the_fit_identifies_the_model_from_its_own_runs() -> None:
    """The linear system of the identification is the model: fitted to the model, its error vanishes."""
    profiles = identification(False)
    runs = {name: model_run(profiles[name]) for name in ("pulses", "us06", "charge")}
    opened = OpenCircuit(
        CELL.capacity_ah, CELL.ocp_positive_v, CELL.ocp_negative_v, np.zeros(OCP_POINTS), np.zeros(OCP_POINTS)
    )
    row = CONTENT["temperature_c"].index(25.0)
    shape = np.array([*CONTENT["time_s"][row], CONTENT["exchange_c_rate"][row]])
    found = fit(runs, opened, (0.0, 5.0), [0.85 * shape])
    assert max(found.rmse_v.values()) < 0.3e-3
    assert found.series + found.transfer[8] == pytest.approx(
        CELL.capacity_ah * (CONTENT["series_ohm"][row] + CONTENT["transfer_ohm"][row][8]), rel=0.05
    )


def test_comparison_finds_the_error_of_a_changed_reference() -> None:
    reference = model_run(VALIDATION["discharge_1c"](False))
    # The comparison heats the cell as NMC's reference is heated; at the start both are equal.
    begin = compare("NMC", "discharge_1c", 25.0, Run(*(part[:30] for part in reference[:4]), 0.0))
    assert begin.rmse_mv < 1.0
    changed = reference._replace(voltage_v=reference.voltage_v + 0.05)
    shifted = compare("NMC", "discharge_1c", 25.0, Run(*(part[:30] for part in changed[:4]), 0.0))
    assert shifted.rmse_mv == pytest.approx(50.0, abs=1.0)


@pytest.mark.skipif(INSTALLED, reason="PyBaMM is installed")
def test_without_pybamm_the_error_names_the_remedy() -> None:
    with pytest.raises(TwinError, match="make validate-physics"):
        pybamm()


@pytest.mark.skipif(not INSTALLED, reason="PyBaMM is not installed: make validate-physics installs it")
def test_nmc_discharges_like_its_reference() -> None:
    profile = VALIDATION["discharge_1c"](False)
    reference = run(REFERENCES["NMC"], profile, 25.0, capacity_ah=CELL.capacity_ah, thermal=True)
    compared = compare("NMC", "discharge_1c", 25.0, reference)
    assert compared.rmse_mv <= 15.0
    assert compared.largest_degc <= 1.0
    # Negative control: with another chemistry's parameters the bound is exceeded.
    other = compare("NCA", "discharge_1c", 25.0, reference)
    assert other.rmse_mv > 15.0
