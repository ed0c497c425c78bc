"""Benchmark of the cell model on one core, against PyBaMM's SPMe on the same profile where it is installed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np

from physics.cell import CellParameters, Wear, resting
from physics.compiled import compiled
from physics.heated_cell import FloatArray, HeatedCell, Surroundings, run_profile, step_heated
from physics.parameters import cell_parameters, stored, thermal_parameters
from physics.thermal import ThermalParameters, ThermalState
from validation.profiles import VALIDATION
from validation.pybamm_reference import REFERENCES, run

_CHEMISTRY, _PROFILE = "NMC", "udds"
_AMBIENT_C = 25.0
_BATTERIES, _TICKS, _TICK_S = 10_000, 20, 0.5
_REPEATS = 5


@compiled
def _ticks(
    start: HeatedCell, cell: CellParameters, thermal: ThermalParameters, wear: Wear, batteries: int, ticks: int
) -> float:
    """Advance every battery by one tick after another; returns a sum, so that no work is left out."""
    states, total_v = [start for _ in range(batteries)], 0.0
    for _ in range(ticks):
        for one in range(len(states)):
            states[one], output = step_heated(states[one], cell, thermal, wear, 1.0, Surroundings(25.0, 25.0, 0.0), 0.5)
            total_v += output.voltage_v
    return total_v


def cell() -> list[dict[str, Any]]:
    """Steps of a heated cell per second and core: a drive cycle by seconds, and a fleet of packs at 2 Hz.

    One cell stands for a pack in the fleet.  Without the extra `physics` nothing is measured, as there is no reference.
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

    steps_a_second = len(profile.c_rate) / _seconds(drive)
    ticks_a_second = (
        _BATTERIES * _TICKS / _seconds(lambda: _ticks(start, parameters, thermal, wear, _BATTERIES, _TICKS))
    )
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
        {
            "name": "cell_live_batteries",
            "value": ticks_a_second * _TICK_S,
            "unit": "batteries at 2 Hz",
            "peer": "the aim for one core",
            "peer_value": float(_BATTERIES),
            "ratio": ticks_a_second * _TICK_S / _BATTERIES,
            "note": "`cell_live_batteries`: cell and heat only, one cell for a pack.",
        },
    ]


def _seconds(work: Callable[[], object]) -> float:
    """Median of the time of `work`, compiled before."""
    work()
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times)
