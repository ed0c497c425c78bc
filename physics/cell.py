"""Cell model: equivalent circuit with two RC pairs, diffusion in both electrodes, charge transfer and hysteresis.

    V = OCP+(z - d+) - OCP-(z - d-) + h M - g (R0 I + Rct I0 asinh(I / I0) + R1 i1 + R2 i2)

- z is the state of charge, and d+ and d- are how far the surface of an electrode's particles is ahead of their mean, so
  at rest V is the open-circuit voltage.  d follows spherical diffusion by three modes (Subramanian et al. 2005,
  doi:10.1149/1.2032427), and its size follows from the time constant, because charge is conserved.
- i1 and i2 are the currents through R1 and R2 of the RC pairs (Plett, Battery Management Systems I, 2015, ch. 2).
- Charge transfer is Butler-Volmer kinetics with equal coefficients (Newman and Thomas-Alyea 2004, ch. 8).
- h in -1..1 is the hysteresis of Plett 2004 (doi:10.1016/j.jpowsour.2004.02.032), M its half-width.
- g is the resistance factor of ageing.

RC pairs and diffusion are discretised exactly for a current that is constant during the step.  Current is positive
while discharging.  The functions are scalar and compiled, for loops over cells and batteries.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physics.compiled import compiled

FloatArray = NDArray[np.float64]

KELVIN_AT_0_C = 273.15
#: Grids of the tables: state of charge of the open-circuit potentials (beyond 0..1, where only surfaces get), state of
#: charge of the resistances, and temperature.
OCP_SOC_FIRST, OCP_SOC_STEP, OCP_POINTS = -0.2, 0.001, 1401
RESISTANCE_SOC_STEP, RESISTANCE_POINTS = 0.025, 41
TEMPERATURE_FIRST_C, TEMPERATURE_STEP_C, TEMPERATURE_POINTS = -40.0, 5.0, 25

#: Modes of diffusion in a sphere: time constants relative to the longest, and shares of the surface's lead.  The first
#: two are exact, the third stands for all others.
MODE_TIMES = (1.0, 0.338, 0.12)
MODE_SHARES = (0.495, 0.168, 0.337)
#: Lead of the surface, as charge relative to the mean current times the longest time constant: 4.4934 ** 2 / 15.
LEAD = 1.34604


class CellParameters(NamedTuple):
    """Parameters of one cell when new; ocp_ arrays float64[OCP_POINTS], the others by temperature.

    `resistance_ohm` float64[TEMPERATURE_POINTS, RESISTANCE_POINTS, 3]: of charge transfer at small currents, R1, R2.
    `series` float64[TEMPERATURE_POINTS, 2]: R0 in ohm, and the exchange current I0 as a C-rate.
    `time_s` float64[TEMPERATURE_POINTS, 4]: RC pairs 1 and 2, diffusion in the positive and negative electrode.
    """

    capacity_ah: float
    voltage_min_v: float
    voltage_max_v: float
    ocp_positive_v: FloatArray
    ocp_negative_v: FloatArray
    ocv_integral_v: FloatArray
    entropic_positive_v_per_k: FloatArray
    entropic_negative_v_per_k: FloatArray
    resistance_ohm: FloatArray
    series: FloatArray
    time_s: FloatArray
    hysteresis_v: float
    hysteresis_rate: float


class CellState(NamedTuple):
    """State of a cell: charge, hysteresis, currents of the RC pairs, and leads of the modes of diffusion.

    Leads, not currents, because the gradients in a particle remain when its temperature changes.
    """

    soc: float
    hysteresis: float
    branch_1_a: float
    branch_2_a: float
    positive_lead_1: float
    positive_lead_2: float
    positive_lead_3: float
    negative_lead_1: float
    negative_lead_2: float
    negative_lead_3: float


class Wear(NamedTuple):
    """Ageing of a cell: present capacity, and resistance relative to a new cell."""

    capacity_ah: float
    resistance_factor: float


class CellOutput(NamedTuple):
    """Of a step: voltage at its end, mean voltage, irreversible heat and entropic heat (negative: cooling)."""

    voltage_v: float
    mean_voltage_v: float
    heat_w: float
    entropic_heat_w: float


@compiled
def resting(soc: float) -> CellState:
    """State of a cell that has rested at `soc`, between charge and discharge hysteresis."""
    return CellState(soc, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@compiled
def from_ocp_table(soc: float, table: FloatArray) -> float:
    """Value of a table over the OCP grid; extrapolated linearly beyond it, so that an overrun shows."""
    position = (soc - OCP_SOC_FIRST) / OCP_SOC_STEP
    lower = min(max(math.floor(position), 0), OCP_POINTS - 2)
    value: float = table[lower] + (position - lower) * (table[lower + 1] - table[lower])
    return value


@compiled
def open_circuit_voltage_v(soc: float, parameters: CellParameters) -> float:
    """Open-circuit voltage, V, at `soc`, without hysteresis."""
    return from_ocp_table(soc, parameters.ocp_positive_v) - from_ocp_table(soc, parameters.ocp_negative_v)


@compiled
def ocv_integral_v(soc: float, parameters: CellParameters) -> float:
    """Integral of the open-circuit voltage over state of charge, exact for the tables."""
    position = (soc - OCP_SOC_FIRST) / OCP_SOC_STEP
    lower = min(max(math.floor(position), 0), OCP_POINTS - 2)
    low_soc = OCP_SOC_FIRST + lower * OCP_SOC_STEP
    mean_v = 0.5 * (open_circuit_voltage_v(low_soc, parameters) + open_circuit_voltage_v(soc, parameters))
    value: float = parameters.ocv_integral_v[lower] + (soc - low_soc) * mean_v
    return value


@compiled
def temperature_position(temperature_c: float) -> tuple[int, float]:
    """Lower row of the temperature grid and the share of the next one; limited to the grid."""
    position = (temperature_c - TEMPERATURE_FIRST_C) / TEMPERATURE_STEP_C
    position = min(max(position, 0.0), TEMPERATURE_POINTS - 1.0)
    lower = min(int(position), TEMPERATURE_POINTS - 2)
    return lower, position - lower


@compiled
def surface_socs(state: CellState) -> tuple[float, float]:
    """State of charge at the surface of the positive and of the negative electrode."""
    positive = state.soc - (state.positive_lead_1 + state.positive_lead_2 + state.positive_lead_3)
    negative = state.soc - (state.negative_lead_1 + state.negative_lead_2 + state.negative_lead_3)
    return positive, negative


@compiled
def lead_after(lead: float, mode: int, time_s: float, rate: float, dt_s: float) -> float:
    """Lead of one mode after `dt_s`; `time_s` is the longest time constant of the electrode, `rate` the C-rate."""
    final = MODE_SHARES[mode] * LEAD * time_s * rate / 3600.0
    return final + math.exp(-dt_s / (MODE_TIMES[mode] * time_s)) * (lead - final)


class Source(NamedTuple):
    """A cell in its present state as a source: V(I) = behind_v - series_ohm I - transfer_v asinh(I / exchange_a)."""

    behind_v: float
    series_ohm: float
    transfer_v: float
    exchange_a: float


@compiled
def source_of(state: CellState, parameters: CellParameters, wear: Wear, temperature_c: float) -> Source:
    """The cell in `state` as a source, from which the voltage for any current follows."""
    row, share = temperature_position(temperature_c)
    positive_soc, negative_soc = surface_socs(state)
    position = min(max(negative_soc, 0.0), 1.0) / RESISTANCE_SOC_STEP
    lower = min(int(position), RESISTANCE_POINTS - 2)
    part = position - lower
    weights = ((1.0 - share) * (1.0 - part), (1.0 - share) * part, share * (1.0 - part), share * part)
    table = parameters.resistance_ohm
    transfer_ohm = (
        weights[0] * table[row, lower, 0]
        + weights[1] * table[row, lower + 1, 0]
        + weights[2] * table[row + 1, lower, 0]
        + weights[3] * table[row + 1, lower + 1, 0]
    )
    first_ohm = (
        weights[0] * table[row, lower, 1]
        + weights[1] * table[row, lower + 1, 1]
        + weights[2] * table[row + 1, lower, 1]
        + weights[3] * table[row + 1, lower + 1, 1]
    )
    second_ohm = (
        weights[0] * table[row, lower, 2]
        + weights[1] * table[row, lower + 1, 2]
        + weights[2] * table[row + 1, lower, 2]
        + weights[3] * table[row + 1, lower + 1, 2]
    )
    series = parameters.series
    series_ohm = series[row, 0] + share * (series[row + 1, 0] - series[row, 0])
    exchange_a = parameters.capacity_ah * (series[row, 1] + share * (series[row + 1, 1] - series[row, 1]))
    electrodes_v = from_ocp_table(positive_soc, parameters.ocp_positive_v) - from_ocp_table(
        negative_soc, parameters.ocp_negative_v
    )
    branches_v = first_ohm * state.branch_1_a + second_ohm * state.branch_2_a
    factor = wear.resistance_factor
    behind_v = electrodes_v + parameters.hysteresis_v * state.hysteresis - factor * branches_v
    return Source(behind_v, factor * series_ohm, factor * transfer_ohm * exchange_a, exchange_a)


@compiled
def voltage_at(source: Source, current_a: float) -> float:
    """Terminal voltage, V, while `current_a` flows."""
    transfer_v: float = source.transfer_v * math.asinh(current_a / source.exchange_a)
    return source.behind_v - source.series_ohm * current_a - transfer_v


@compiled
def differential_ohm(source: Source, current_a: float) -> float:
    """-dV/dI, ohm, at `current_a`."""
    relative = current_a / source.exchange_a
    return source.series_ohm + source.transfer_v / source.exchange_a / math.sqrt(1.0 + relative * relative)


@compiled
def terminal_voltage_v(
    state: CellState, parameters: CellParameters, wear: Wear, current_a: float, temperature_c: float
) -> float:
    """Terminal voltage, V, in `state` while `current_a` flows."""
    return voltage_at(source_of(state, parameters, wear, temperature_c), current_a)


@compiled
def moved(
    state: CellState, parameters: CellParameters, wear: Wear, current_a: float, temperature_c: float, dt_s: float
) -> CellState:
    """State after `dt_s` seconds of `current_a`."""
    row, share = temperature_position(temperature_c)
    times = parameters.time_s
    keep_1 = math.exp(-dt_s / (times[row, 0] + share * (times[row + 1, 0] - times[row, 0])))
    keep_2 = math.exp(-dt_s / (times[row, 1] + share * (times[row + 1, 1] - times[row, 1])))
    positive_s = times[row, 2] + share * (times[row + 1, 2] - times[row, 2])
    negative_s = times[row, 3] + share * (times[row + 1, 3] - times[row, 3])
    rate = current_a / wear.capacity_ah
    moved_soc = rate * dt_s / 3600.0
    hysteresis = state.hysteresis
    if moved_soc != 0.0:
        towards = -1.0 if moved_soc > 0.0 else 1.0
        hysteresis = towards + (hysteresis - towards) * math.exp(-parameters.hysteresis_rate * abs(moved_soc))
    return CellState(
        state.soc - moved_soc,
        hysteresis,
        current_a + keep_1 * (state.branch_1_a - current_a),
        current_a + keep_2 * (state.branch_2_a - current_a),
        lead_after(state.positive_lead_1, 0, positive_s, rate, dt_s),
        lead_after(state.positive_lead_2, 1, positive_s, rate, dt_s),
        lead_after(state.positive_lead_3, 2, positive_s, rate, dt_s),
        lead_after(state.negative_lead_1, 0, negative_s, rate, dt_s),
        lead_after(state.negative_lead_2, 1, negative_s, rate, dt_s),
        lead_after(state.negative_lead_3, 2, negative_s, rate, dt_s),
    )


@compiled
def step(
    state: CellState, parameters: CellParameters, wear: Wear, current_a: float, temperature_c: float, dt_s: float
) -> tuple[CellState, CellOutput]:
    """State and output after `dt_s` seconds of `current_a`.

    Heat is that of Bernardi et al. 1985 (doi:10.1149/1.2113792): the chemical energy at open-circuit voltage that does
    not leave the cell as electrical work (mean voltage times charge), and the entropic heat.
    """
    before_v = terminal_voltage_v(state, parameters, wear, current_a, temperature_c)
    after = moved(state, parameters, wear, current_a, temperature_c, dt_s)
    after_v = terminal_voltage_v(after, parameters, wear, current_a, temperature_c)
    mean_v = 0.5 * (before_v + after_v)
    released_v_ah = wear.capacity_ah * (ocv_integral_v(state.soc, parameters) - ocv_integral_v(after.soc, parameters))
    heat_w = 3600.0 * released_v_ah / dt_s - current_a * mean_v
    # The reaction, and so its entropy, is that of the surface.
    positive_soc, negative_soc = surface_socs(state)
    positive_after, negative_after = surface_socs(after)
    entropic = from_ocp_table(0.5 * (positive_soc + positive_after), parameters.entropic_positive_v_per_k)
    entropic -= from_ocp_table(0.5 * (negative_soc + negative_after), parameters.entropic_negative_v_per_k)
    entropic_w = -current_a * (temperature_c + KELVIN_AT_0_C) * entropic
    return after, CellOutput(after_v, mean_v, heat_w, entropic_w)


@compiled
def resistance_after_minutes_ohm(soc: float, temperature_c: float, parameters: CellParameters) -> float:
    """Resistance of a new cell, ohm, to a small current that has flowed for minutes, without diffusion."""
    row, share = temperature_position(temperature_c)
    index = int(min(max(soc, 0.0), 1.0) / RESISTANCE_SOC_STEP + 0.5)
    below = parameters.series[row, 0] + parameters.resistance_ohm[row, index].sum()
    above = parameters.series[row + 1, 0] + parameters.resistance_ohm[row + 1, index].sum()
    return float(below + share * (above - below))
