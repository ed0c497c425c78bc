"""Compiled run of one cell: equivalent circuit with two RC pairs, and a core and a surface temperature.

Circuit: Plett, Battery Management Systems I, 2015, ch. 2.  Heat: Bernardi et al. 1985 (doi:10.1149/1.2113792), with the
entropic term.  Two thermal nodes: Lin et al. 2014 (doi:10.1016/j.jpowsour.2014.01.097).  Positive current =
discharging.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physics.compiled import compiled, compiled_entry

FloatArray = NDArray[np.float64]

KELVIN_AT_0_C = 273.15
REFERENCE_K = 298.15
#: Longest step of the thermal model; a longer interval between readings is divided.
THERMAL_STEP_S = 5.0


class Circuit(NamedTuple):
    """Parameters of the circuit; resistances at 25 degC.

    `ocv_v` and `resistance_shape` are tables over evenly spaced states of charge from 0 to 1.  The shape multiplies
    the series resistance and is 1 at half charge.
    """

    capacity_ah: float
    series_ohm: float
    fast_ohm: float
    fast_s: float
    slow_ohm: float
    slow_s: float
    activation_k: float
    ocv_v: FloatArray
    resistance_shape: FloatArray


class Thermal(NamedTuple):
    """Heat capacities in J/K, conductances in W/K, and the entropic coefficient dOCV/dT in V/K over SoC 0 to 1."""

    core_j_per_k: float
    surface_j_per_k: float
    core_to_surface_w_per_k: float
    surface_to_ambient_w_per_k: float
    entropic_v_per_k: FloatArray


@compiled
def _at(soc: float, table: FloatArray) -> float:
    """Value of an evenly spaced table, extrapolated linearly, so that an overrun shows."""
    position = soc * (table.size - 1)
    lower = min(max(math.floor(position), 0), table.size - 2)
    value: float = table[lower] + (position - lower) * (table[lower + 1] - table[lower])
    return value


@compiled_entry
def run(
    time_s: FloatArray,
    current_a: FloatArray,
    measured_c: FloatArray,
    initial_c: float,
    ambient_c: float,
    circuit: Circuit,
    thermal: Thermal,
) -> tuple[FloatArray, FloatArray]:
    """Terminal voltage, V, and surface temperature, degC, of a full cell under a current profile.

    Args:
        time_s: float64[n], increasing.
        current_a: float64[n]; between two readings the mean of both flows.
        measured_c: float64[n] to take the temperature from there, float64[0] to compute it.
        initial_c: temperature of core and surface at the first reading, at which the cell is in equilibrium.
        ambient_c: air temperature.
        circuit: its parameters.
        thermal: its parameters; ignored with `measured_c`.
    """
    voltage_v, surface_c = np.empty(time_s.size), np.empty(time_s.size)
    soc, fast_v, slow_v = 1.0, 0.0, 0.0
    core, surface = initial_c, initial_c
    source_v = _at(soc, circuit.ocv_v)
    loss_v = 0.0
    for i in range(time_s.size):
        if i > 0:
            dt_s = time_s[i] - time_s[i - 1]
            mean_a = 0.5 * (current_a[i] + current_a[i - 1])
            soc -= mean_a * dt_s / (3600.0 * circuit.capacity_ah)
            fast_share, slow_share = 1.0 - math.exp(-dt_s / circuit.fast_s), 1.0 - math.exp(-dt_s / circuit.slow_s)
            fast_v += (mean_a * circuit.fast_ohm - fast_v) * fast_share
            slow_v += (mean_a * circuit.slow_ohm - slow_v) * slow_share
            if measured_c.size == 0:
                core, surface = _warm(core, surface, mean_a, loss_v, soc, ambient_c, dt_s, thermal)
        if measured_c.size > 0:
            core = surface = measured_c[i]
        source_v = _at(soc, circuit.ocv_v)
        arrhenius = math.exp(circuit.activation_k * (1.0 / (core + KELVIN_AT_0_C) - 1.0 / REFERENCE_K))
        series_ohm = circuit.series_ohm * _at(min(max(soc, 0.0), 1.0), circuit.resistance_shape)
        loss_v = arrhenius * (series_ohm * current_a[i] + fast_v + slow_v)
        voltage_v[i] = source_v - loss_v
        surface_c[i] = surface
    return voltage_v, surface_c


@compiled
def _warm(
    core_c: float,
    surface_c: float,
    current_a: float,
    loss_v: float,
    soc: float,
    ambient_c: float,
    dt_s: float,
    thermal: Thermal,
) -> tuple[float, float]:
    """Core and surface temperature after `dt_s`; implicit Euler, stable at any step."""
    entropic = _at(min(max(soc, 0.0), 1.0), thermal.entropic_v_per_k)
    parts = max(math.ceil(dt_s / THERMAL_STEP_S), 1)
    step_s = dt_s / parts
    inner = thermal.core_to_surface_w_per_k * step_s
    outer = thermal.surface_to_ambient_w_per_k * step_s
    for _ in range(parts):
        heat_w = max(current_a * loss_v, 0.0) - current_a * (core_c + KELVIN_AT_0_C) * entropic
        # (Cc + inner) core - inner surface = a;  -inner core + (Cs + inner + outer) surface = b
        a = thermal.core_j_per_k * core_c + heat_w * step_s
        b = thermal.surface_j_per_k * surface_c + outer * ambient_c
        left, right = thermal.core_j_per_k + inner, thermal.surface_j_per_k + inner + outer
        determinant = left * right - inner * inner
        core_c, surface_c = (a * right + inner * b) / determinant, (left * b + inner * a) / determinant
    return core_c, surface_c
