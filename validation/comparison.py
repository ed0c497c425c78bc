"""The cell model on the current of a reference run, and its errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physics.cell import Wear, resting
from physics.heated_cell import HeatedCell, Surroundings, run_profile
from physics.parameters import cell_parameters, stored, thermal_parameters
from physics.thermal import ThermalState
from validation.pybamm_reference import REFERENCES, Run

FloatArray = NDArray[np.float64]
#: Of the charge; 5 % are not exactly reached by a whole number of seconds.
COMPARED_SOC = (0.05 - 1e-6, 0.95 + 1e-6)


class Comparison(NamedTuple):
    """A reference run and the model on the same current; `compared` marks the samples in the range of the bound."""

    chemistry: str
    profile: str
    ambient_c: float
    reference: Run
    voltage_v: FloatArray
    temperature_c: FloatArray
    compared: NDArray[np.bool_]

    @property
    def rmse_mv(self) -> float:
        """Root mean square error of the voltage, mV."""
        return 1e3 * float(np.sqrt(np.mean((self.voltage_v - self.reference.voltage_v)[self.compared] ** 2)))

    @property
    def rmse_degc(self) -> float:
        """Root mean square error of the temperature, degC."""
        return float(np.sqrt(np.mean((self.temperature_c - self.reference.temperature_c)[self.compared] ** 2)))

    @property
    def largest_degc(self) -> float:
        """Largest error of the temperature, degC."""
        return float(np.max(np.abs(self.temperature_c - self.reference.temperature_c)[self.compared]))


def compare(chemistry: str, profile: str, ambient_c: float, reference: Run) -> Comparison:
    """Run the model on the current of a reference, hysteresis off; heated only if the reference is."""
    content, source = stored(chemistry), REFERENCES[chemistry]
    cell, thermal = cell_parameters(content, hysteresis=False), thermal_parameters(content)
    start = HeatedCell(resting(float(reference.soc[0])), ThermalState(ambient_c, ambient_c))
    voltage_v, core_c, surface_c = run_profile(
        start,
        cell,
        thermal,
        Wear(cell.capacity_ah, 1.0),
        reference.current_a,
        1.0,
        Surroundings(ambient_c, ambient_c, 0.0),
        not source.has_thermal,
    )
    # The reference is lumped: its temperature is the mean of core and surface.
    share = thermal.core_j_per_k / (thermal.core_j_per_k + thermal.surface_j_per_k)
    compared = (reference.soc >= COMPARED_SOC[0]) & (reference.soc <= COMPARED_SOC[1])
    compared &= (reference.voltage_v >= source.voltage_min_v) & (reference.voltage_v <= source.voltage_max_v)
    return Comparison(
        chemistry, profile, ambient_c, reference, voltage_v, share * core_c + (1.0 - share) * surface_c, compared
    )
