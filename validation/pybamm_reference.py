"""Reference cells: PyBaMM's single-particle model with electrolyte (SPMe) and its published parameter sets.

SPMe: Marquis et al. 2019 (doi:10.1149/2.0341915jes); PyBaMM: Sulzer et al. 2021 (doi:10.5334/jors.309).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from telemetry.errors import TwinError
from telemetry.settings import USAGE_STATISTICS_OFF

FloatArray = NDArray[np.float64]
KELVIN_AT_0_C = 273.15


@dataclass(frozen=True)
class Reference:
    """A published parameter set, the voltages of an empty and a full cell, and what is changed in the set."""

    chemistry: str
    parameter_set: str
    citation: str
    voltage_min_v: float
    voltage_max_v: float
    has_thermal_parameters: bool
    changes: Mapping[str, float]


class Run(NamedTuple):
    """A simulated profile, float64[n] each, at intervals of one second; current is positive while discharging."""

    time_s: FloatArray
    current_a: FloatArray
    voltage_v: FloatArray
    soc: FloatArray
    temperature_c: FloatArray


REFERENCES: dict[str, Reference] = {
    one.chemistry: one
    for one in (
        Reference(
            "NMC", "ORegan2022", "O'Regan et al. 2022, doi:10.1016/j.electacta.2022.140700 (LG M50)", 2.5, 4.2, True, {}
        ),
        Reference("NCA", "NCA_Kim2011", "Kim et al. 2011, doi:10.1149/1.3597614", 2.7, 4.2, False, {}),
        Reference("LFP", "Prada2013", "Prada et al. 2013, doi:10.1149/2.053304jes (A123 26650)", 2.0, 3.6, False, {}),
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
