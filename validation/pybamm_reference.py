"""Reference cells: PyBaMM's single-particle model with electrolyte (SPMe) and its published parameter sets.

SPMe: Marquis et al. 2019 (doi:10.1149/2.0341915jes); PyBaMM: Sulzer et al. 2021 (doi:10.5334/jors.309).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from physics.cell import KELVIN_AT_0_C, OCP_POINTS, OCP_SOC_FIRST, OCP_SOC_STEP
from telemetry.errors import TwinError
from telemetry.settings import USAGE_STATISTICS_OFF
from validation.profiles import Profile

FloatArray = NDArray[np.float64]
#: The reference goes on this far beyond its voltage limits; what lies beyond them is not compared.
_MARGIN_V = 0.15
_SMALLEST_STOICHIOMETRY = 1e-4


@dataclass(frozen=True)
class Reference:
    """A published parameter set, its citation and limits; `borrowed` takes parameters from other sets of the cell.

    Without `has_thermal` the set has no usable thermal parameters, and runs are isothermal.
    """

    chemistry: str
    parameter_set: str
    citation: str
    voltage_min_v: float
    voltage_max_v: float
    has_thermal: bool = False
    borrowed: Mapping[str, str] = field(default_factory=dict)


class Run(NamedTuple):
    """A simulated profile, float64[n] each, at intervals of one second; shorter if a limit ended it."""

    current_a: FloatArray
    voltage_v: FloatArray
    soc: FloatArray
    temperature_c: FloatArray
    seconds: float


class OpenCircuit(NamedTuple):
    """Capacity between the voltage limits, and potentials of both electrodes over the OCP grid of `physics.cell`."""

    capacity_ah: float
    positive_v: FloatArray
    negative_v: FloatArray
    entropic_positive_v_per_k: FloatArray
    entropic_negative_v_per_k: FloatArray


REFERENCES: dict[str, Reference] = {
    one.chemistry: one
    for one in (
        Reference(
            "NMC",
            "OKane2022",
            "LG M50: O'Kane et al. 2022 (doi:10.1039/D2CP00417H), Chen et al. 2020 (doi:10.1149/1945-7111/ab9050); "
            "entropic coefficients of the same cell: O'Regan et al. 2022 (doi:10.1016/j.electacta.2022.140700)",
            2.5,
            4.2,
            has_thermal=True,
            # The closed form, because heat of mixing needs its derivative, and measured entropic coefficients.
            borrowed={
                "Negative electrode OCP [V]": "Chen2020",
                "Negative electrode OCP entropic change [V.K-1]": "ORegan2022",
                "Positive electrode OCP entropic change [V.K-1]": "ORegan2022",
            },
        ),
        Reference("NCA", "NCA_Kim2011", "Kim et al. 2011 (doi:10.1149/1.3597614)", 2.7, 4.2),
        Reference("LFP", "Prada2013", "A123 26650: Prada et al. 2013 (doi:10.1149/2.053304jes)", 2.0, 3.6),
    )
}


def pybamm() -> Any:
    """The module PyBaMM, with its usage statistics switched off.

    Raises:
        TwinError: if it is not installed.
    """
    os.environ.update(USAGE_STATISTICS_OFF)
    try:
        import pybamm
    except ModuleNotFoundError as error:
        if error.name != "pybamm":
            raise
        raise TwinError("PyBaMM is not installed: `make validate-physics` installs it (extra `physics`).") from error
    return pybamm


def parameter_values(reference: Reference) -> Any:
    """PyBaMM's parameter values of a reference, with 0 and 100 % state of charge at the voltage limits."""
    library = pybamm()
    values = library.ParameterValues(reference.parameter_set)
    values.update({name: library.ParameterValues(other)[name] for name, other in reference.borrowed.items()})
    values.update(
        {
            "Open-circuit voltage at 0% SOC [V]": reference.voltage_min_v,
            "Open-circuit voltage at 100% SOC [V]": reference.voltage_max_v,
            "Lower voltage cut-off [V]": reference.voltage_min_v - 2.0 * _MARGIN_V,
            "Upper voltage cut-off [V]": reference.voltage_max_v + _MARGIN_V,
        }
    )
    return values


def open_circuit(reference: Reference) -> OpenCircuit:
    """Open-circuit potentials of a reference at 25 degC."""
    library = pybamm()
    values, symbols = parameter_values(reference), library.LithiumIonParameters()
    empty = library.lithium_ion.get_initial_stoichiometries(0.0, values)
    full = library.lithium_ion.get_initial_stoichiometries(1.0, values)
    soc, kelvin = OCP_SOC_FIRST + OCP_SOC_STEP * np.arange(OCP_POINTS), library.Scalar(25.0 + KELVIN_AT_0_C)
    potentials, entropic, change = [], [], 0.0
    for index, electrode in ((1, symbols.p.prim), (0, symbols.n.prim)):
        first, last = float(empty[index]), float(full[index])
        change = last - first
        stoichiometry = np.clip(first + soc * change, _SMALLEST_STOICHIOMETRY, 1.0 - _SMALLEST_STOICHIOMETRY)
        vector = library.Vector(stoichiometry)
        potentials.append(np.ravel(values.evaluate(electrode.U(vector, kelvin))))
        entropic.append(np.ravel(values.evaluate(electrode.dUdT(vector))) * np.ones(OCP_POINTS))
    capacity_ah = float(values.evaluate(symbols.n.prim.Q_init)) * float(change)
    return OpenCircuit(capacity_ah, potentials[0], potentials[1], entropic[0], entropic[1])


def run(reference: Reference, profile: Profile, temperature_c: float, *, capacity_ah: float, thermal: bool) -> Run:
    """Simulate `profile` from rest at `temperature_c`, also that of the air; isothermal without `thermal`."""
    library = pybamm()
    # Without heat of mixing, the energy lost to diffusion in the particles would be missing from the heat.
    options = {"thermal": "lumped", "heat of mixing": "true"} if thermal else {"thermal": "isothermal"}
    values = parameter_values(reference)
    current_a = capacity_ah * np.concatenate([[0.0], profile.c_rate])
    time_s = np.arange(len(current_a), dtype=np.float64)
    kelvin = temperature_c + KELVIN_AT_0_C
    values.update(
        {
            "Ambient temperature [K]": kelvin,
            "Initial temperature [K]": kelvin,
            "Current function [A]": library.Interpolant(time_s, current_a, library.t),
        }
    )
    simulation = library.Simulation(
        library.lithium_ion.SPMe(options), parameter_values=values, solver=library.IDAKLUSolver()
    )
    began = time.perf_counter()
    solution = simulation.solve(time_s, initial_soc=profile.soc)
    seconds = time.perf_counter() - began
    # The solver adds the time at which a limit was reached, and its own.
    shown = time_s[time_s <= solution.t[-1] + 1e-9]
    rows = np.searchsorted(solution.t, shown - 1e-9)
    current_a = current_a[: len(shown)]
    mean_a = 0.5 * (current_a[1:] + current_a[:-1])
    soc = profile.soc - np.concatenate([[0.0], np.cumsum(mean_a)]) / (3600.0 * capacity_ah)
    return Run(
        current_a,
        solution["Terminal voltage [V]"].entries[rows],
        soc,
        solution["X-averaged cell temperature [K]"].entries[rows] - KELVIN_AT_0_C
        if thermal
        else 0.0 * shown + temperature_c,
        seconds,
    )
