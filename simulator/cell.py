"""Cell model: a first-order equivalent circuit (open-circuit voltage, series resistance, one RC pair).

The circuit is the one usual in battery management (Plett, Battery Management Systems I, 2015, ch. 2); the dependence of
resistance on temperature and state of charge follows Waag et al. 2013 (doi:10.1016/j.apenergy.2012.09.030).  One 'cell'
stands for one series group of a pack.  Current is positive while discharging.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from physics.compiled import compiled
from telemetry.chemistries import Chemistry

KELVIN_AT_0_C = 273.15
REFERENCE_K = 298.15
OCV_POINTS = 1001


class CellParameters(NamedTuple):
    """Parameters of one series group when new; resistances at 25 degC and half charge."""

    capacity_ah: float
    series_resistance_ohm: float
    polarisation_resistance_ohm: float
    polarisation_time_s: float
    activation_temperature_k: float
    voltage_min_v: float
    voltage_max_v: float
    ocv_v: NDArray[np.float64]


def ocv_table(chemistry: Chemistry) -> NDArray[np.float64]:
    """Open-circuit voltage, V, at `OCV_POINTS` evenly spaced states of charge from 0 to 1; monotone and smooth."""
    curve = PchipInterpolator(chemistry.ocv_soc, chemistry.ocv_v)
    return np.asarray(curve(np.linspace(0.0, 1.0, OCV_POINTS)), dtype=np.float64)


@compiled
def open_circuit_voltage(soc: float, ocv_v: NDArray[np.float64]) -> float:
    """Open-circuit voltage, V, at `soc`; extrapolated linearly below 0 and above 1, so that an overrun shows."""
    position = soc * (ocv_v.size - 1)
    lower = min(max(math.floor(position), 0), ocv_v.size - 2)
    voltage_v: float = ocv_v[lower] + (position - lower) * (ocv_v[lower + 1] - ocv_v[lower])
    return voltage_v


@compiled
def soc_at_rest(voltage_v: float, ocv_v: NDArray[np.float64]) -> float:
    """State of charge whose open-circuit voltage is `voltage_v`, clipped to 0..1."""
    upper = np.searchsorted(ocv_v, voltage_v)
    if upper <= 0:
        return 0.0
    if upper >= ocv_v.size:
        return 1.0
    share = (voltage_v - ocv_v[upper - 1]) / (ocv_v[upper] - ocv_v[upper - 1])
    soc: float = (upper - 1 + share) / (ocv_v.size - 1)
    return soc


@compiled
def resistance_factor(soc: float, temperature_c: float, activation_temperature_k: float) -> float:
    """Resistance relative to 25 degC and half charge: Arrhenius, and rising towards empty."""
    kelvin = max(temperature_c + KELVIN_AT_0_C, 233.15)
    arrhenius = math.exp(activation_temperature_k * (1.0 / kelvin - 1.0 / REFERENCE_K))
    return arrhenius * (1.0 + 0.6 * math.exp(-max(soc, 0.0) / 0.06))


@compiled
def polarisation_after(polarisation_v: float, current_a: float, resistance_ohm: float, share: float) -> float:
    """Exact voltage of the RC pair after `dt`, with `share` = `1 - exp(-dt / tau)`."""
    return polarisation_v + (current_a * resistance_ohm - polarisation_v) * share


@compiled
def current_for_power(power_w: float, source_v: float, resistance_ohm: float) -> float:
    """Current, A, at which a source of `source_v` behind `resistance_ohm` delivers `power_w` (negative: absorbs it).

    Limited to the current of the maximum power `source_v ** 2 / (4 resistance_ohm)`.
    """
    discriminant = max(source_v * source_v - 4.0 * resistance_ohm * power_w, 0.0)
    return (source_v - math.sqrt(discriminant)) / (2.0 * resistance_ohm)
