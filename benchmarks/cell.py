"""Benchmark of the cell model on one core, against PyBaMM's SPMe on the same profile where it is installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.timing import median_seconds
from physics.cell import Wear, resting
from physics.heated_cell import FloatArray, HeatedCell, Surroundings, run_profile
from physics.parameters import cell_parameters, stored, thermal_parameters
from physics.thermal import ThermalState
from validation.profiles import VALIDATION
from validation.pybamm_reference import REFERENCES, run

_CHEMISTRY, _PROFILE = "NMC", "udds"
_AMBIENT_C = 25.0


def cell() -> list[dict[str, Any]]:
    """Steps of a heated cell per second and core, over a drive cycle by seconds.

    Without the extra `physics` nothing is measured, as there is no reference.
    """
    if find_spec("pybamm") is None:
        sys.stderr.write("cell: skipped, PyBaMM is not installed (`make validate-physics` installs it)\n")
        return []
    content = stored(_CHEMISTRY)
    parameters, thermal = cell_parameters(content), thermal_parameters(content)
    wear, profile = Wear(parameters.capacity_ah, 1.0), VALIDATION[_PROFILE](False)
    start = HeatedCell(resting(profile.soc), ThermalState(_AMBIENT_C, _AMBIENT_C))
    current_a: FloatArray = parameters.capacity_ah * np.concatenate([[0.0], profile.c_rate])
    air = Surroundings(_AMBIENT_C, _AMBIENT_C, 0.0)

    def drive() -> None:
        run_profile(start, parameters, thermal, wear, current_a, 1.0, air, False)

    steps_a_second = len(profile.c_rate) / median_seconds(drive)
    reference = run(REFERENCES[_CHEMISTRY], profile, _AMBIENT_C, capacity_ah=parameters.capacity_ah, thermal=True)
    reference_steps = len(reference.soc) / reference.seconds
    return [
        {
            "name": "cell_steps",
            "value": steps_a_second,
            "unit": "steps/s",
            "peer": "PyBaMM SPMe, UDDS by seconds, solver set-up included",
            "peer_value": reference_steps,
            "ratio": steps_a_second / reference_steps,
        },
    ]
