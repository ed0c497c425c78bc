"""Kalman filter that corrects the simulated cell of a battery by its readings: the twin's charge, wear and residual.

The cell model of `physics.cell` is stepped with the measured current.  Its state of charge, and its resistance and
capacity relative to a new cell, are estimated from the voltage by an extended Kalman filter (Plett 2004,
doi:10.1016/j.jpowsour.2004.02.033); the other states of the cell follow from the current.  Two things differ from the
textbook.  Where the open-circuit voltage bends within the uncertainty, as LFP's does at its ends, mean and variance of
the state of charge are taken from a grid.  And errors of the voltage last, in sensors and model: a voltage that is
measured again tells nothing new, so the uncertainty of the voltage does not fall below that error.

Part of the state update (`features.step`), and off where the battery's `cell_parameters` are unknown.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from features import state as s
from features.state import FloatArray
from physics.cell import CellParameters, CellState, Wear, from_ocp_table, moved, surface_socs, terminal_voltage_v
from physics.compiled import compiled_inner
from physics.parameters import cell_parameters, stored
from telemetry.chemistries import PARAMETER_SETS

#: Readings closer together than this are combined: the cell is stepped and corrected once for them.
TICK_S = 30.0
#: Initial standard deviations: state of charge without and with a reported one, resistance, capacity.
SOC_UNKNOWN, SOC_REPORTED, RESISTANCE_UNKNOWN, CAPACITY_UNKNOWN = 0.3, 0.15, 0.5, 0.1
#: Most batteries are not new.
CAPACITY_FIRST = 0.95
#: Growth of the uncertainty in the square root of an hour, for the bias of the current, and as the battery ages.
SOC_WALK, RESISTANCE_WALK, CAPACITY_WALK = 0.005, 0.02, 0.0005
#: Current that may flow unseen between readings after a gap, C, and for how long it keeps its value.
UNSEEN_C_RATE, UNSEEN_S = 0.5, 60.0
#: Standard deviation of the charge moved in a gap by the reported states of charge, and its share of their difference.
GAP_SOC, GAP_SHARE = 0.01, 0.1
#: White noise of the voltage of a cell, and its lasting error, of sensors and the model.
NOISE_V, LASTING_V = 0.002, 0.004
#: Passing error of the voltage: share of the drop over the resistance, what the unknown past of the first reading and
#: of a gap may leave, at most, and how long it lasts.
PASSING_SHARE, PASSING_UNKNOWN_V, PASSING_MAX_V, PASSING_S = 0.05, 0.02, 1.0, 600.0
#: By how much the voltage of a half-full cell falls in the first minute of 1C, V, after its first drop: what a current
#: that flows unseen between two readings may do; for each of `PARAMETER_SETS`.
FALL_V, FALL_S = np.array([0.074, 0.016, 0.012]), 60.0
#: Time constant of the averages of the residual, and the longest interval whose residual counts.
RESIDUAL_S, RESIDUAL_MAX_INTERVAL_S = 3600.0, 1800.0
#: A voltage further from expectation than this, in variances, corrects nothing; the standard deviation of the state of
#: charge then grows by this in the square root of an hour.
REJECTED_ABOVE, REJECTED_WALK = 25.0, 0.1
#: Lower limits of the standard deviations.
SOC_FLOOR, RESISTANCE_FLOOR, CAPACITY_FLOOR = 5e-4, 5e-3, 2e-3

#: Columns of a session with its estimates at the end, in this order among the contract's signals, and the largest
#: standard deviations and smallest weight of the average with which they are given.
SIGNALS = ("cell_capacity_factor", "cell_resistance_factor", "model_residual_mean_v", "model_residual_rms_v")
N_SIGNALS = len(SIGNALS)
CAPACITY_KNOWN, RESISTANCE_KNOWN, RESIDUAL_KNOWN = 0.02, 0.2, 0.5

#: The open-circuit voltage's slope is taken over a standard deviation of the state of charge, but over at least and at
#: most so much to each side.
NARROWEST, WIDEST = 0.005, 0.25
#: Largest bend of the open-circuit voltage and largest residual, in standard deviations, for a linear correction.
LARGEST_BEND, LARGEST_RESIDUAL = 0.5, 3.0
#: The grid: points to each side, their distance in standard deviations, how much finer each further one is, how many.
GRID_POINTS, GRID_STEP, GRID_FINER, GRIDS = 10, 0.5, 0.4, 8

# Order of the covariance's upper triangle: state of charge, resistance, capacity.
ZZ, ZG, ZQ, GG, GQ, QQ = range(6)

# Compile-time constants for numba: the parameter sets, stacked by field.
_CELLS = [cell_parameters(stored(name)) for name in PARAMETER_SETS]
_CAPACITY_AH, _MINIMUM_V, _MAXIMUM_V, _HYSTERESIS_V, _HYSTERESIS_RATE = np.array(
    [
        (cell.capacity_ah, cell.voltage_min_v, cell.voltage_max_v, cell.hysteresis_v, cell.hysteresis_rate)
        for cell in _CELLS
    ]
).T.copy()
_OCP_POSITIVE_V = np.array([cell.ocp_positive_v for cell in _CELLS])
_OCP_NEGATIVE_V = np.array([cell.ocp_negative_v for cell in _CELLS])
_RESISTANCE_OHM = np.array([cell.resistance_ohm for cell in _CELLS])
_SERIES = np.array([cell.series for cell in _CELLS])
_TIME_S = np.array([cell.time_s for cell in _CELLS])
# The size of the hysteresis is not well known.
_LASTING_V2 = LASTING_V * LASTING_V + 0.25 * _HYSTERESIS_V * _HYSTERESIS_V


class Electrodes(NamedTuple):
    """Potentials of both electrodes, and how far their surfaces are ahead of their means."""

    ocp_positive_v: FloatArray
    ocp_negative_v: FloatArray
    positive_lead: float
    negative_lead: float


@compiled_inner
def _parameters(index: int) -> CellParameters:
    ocp = _OCP_POSITIVE_V[index]
    return CellParameters(
        _CAPACITY_AH[index],
        _MINIMUM_V[index],
        _MAXIMUM_V[index],
        ocp,
        _OCP_NEGATIVE_V[index],
        # Those of heat, which nothing here uses.
        ocp,
        ocp,
        ocp,
        _RESISTANCE_OHM[index],
        _SERIES[index],
        _TIME_S[index],
        _HYSTERESIS_V[index],
        _HYSTERESIS_RATE[index],
    )


@compiled_inner
def _start(state: FloatArray, reported_soc: float) -> None:
    is_reported = not math.isnan(reported_soc)
    deviation = SOC_REPORTED if is_reported else SOC_UNKNOWN
    state[s.FILTER_SOC : s.FILTER_END] = 0.0
    state[s.FILTER_SOC] = 0.01 * reported_soc if is_reported else 0.5
    state[s.FILTER_RESISTANCE] = 1.0
    state[s.FILTER_CAPACITY] = CAPACITY_FIRST
    variance = state[s.FILTER_VARIANCE : s.FILTER_VARIANCE + s.N_VARIANCES]
    variance[ZZ], variance[GG] = deviation * deviation, RESISTANCE_UNKNOWN * RESISTANCE_UNKNOWN
    variance[QQ] = CAPACITY_UNKNOWN * CAPACITY_UNKNOWN
    state[s.FILTER_PASSING_V2] = PASSING_UNKNOWN_V * PASSING_UNKNOWN_V


@compiled_inner
def _electrodes_v(electrodes: Electrodes, soc: float) -> float:
    """Open-circuit voltage of the surfaces at a mean state of charge."""
    return from_ocp_table(soc - electrodes.positive_lead, electrodes.ocp_positive_v) - from_ocp_table(
        soc - electrodes.negative_lead, electrodes.ocp_negative_v
    )


@compiled_inner
def _predict_variance(variance: FloatArray, moved_soc: float, capacity: float, dt_s: float) -> None:
    """Covariance after `dt_s` in which `moved_soc` was discharged, counted with `capacity`."""
    hours, slope = dt_s / 3600.0, moved_soc / capacity
    variance[ZZ] += slope * (2.0 * variance[ZQ] + slope * variance[QQ]) + SOC_WALK * SOC_WALK * hours
    variance[ZG] += slope * variance[GQ]
    variance[ZQ] += slope * variance[QQ]
    variance[GG] += RESISTANCE_WALK * RESISTANCE_WALK * hours
    variance[QQ] += CAPACITY_WALK * CAPACITY_WALK * hours


@compiled_inner
def _scale(variance: FloatArray, own: int, first: int, second: int, limit: float) -> None:
    """Reduce a variance to `limit`, with its covariances, so that the matrix stays positive definite."""
    if variance[own] > limit:
        factor = math.sqrt(limit / variance[own])
        variance[own] = limit
        variance[first] *= factor
        variance[second] *= factor


@compiled_inner
def _limit(variance: FloatArray) -> None:
    """Keep the variances between their limits, and the correlations (of a state from outside) possible."""
    _scale(variance, ZZ, ZG, ZQ, SOC_UNKNOWN * SOC_UNKNOWN)
    _scale(variance, GG, ZG, GQ, RESISTANCE_UNKNOWN * RESISTANCE_UNKNOWN)
    _scale(variance, QQ, ZQ, GQ, CAPACITY_UNKNOWN * CAPACITY_UNKNOWN)
    variance[ZZ] = max(variance[ZZ], SOC_FLOOR * SOC_FLOOR)
    variance[GG] = max(variance[GG], RESISTANCE_FLOOR * RESISTANCE_FLOOR)
    variance[QQ] = max(variance[QQ], CAPACITY_FLOOR * CAPACITY_FLOOR)
    for both, first, second in ((ZG, ZZ, GG), (ZQ, ZZ, QQ), (GQ, GG, QQ)):
        if variance[both] * variance[both] > variance[first] * variance[second]:
            variance[both] = 0.0


@compiled_inner
def _slope_v(electrodes: Electrodes, soc: float, delta: float) -> tuple[float, float]:
    """Slope of the voltage over the state of charge from `delta` below to `delta` above, within 0 to 1, and its bend.

    The bend is how far the mean of both ends is from the voltage in the middle.
    """
    low, high = min(max(soc - delta, 0.0), 1.0 - delta), max(min(soc + delta, 1.0), delta)
    low_v, high_v = _electrodes_v(electrodes, low), _electrodes_v(electrodes, high)
    bend_v = 0.5 * (low_v + high_v) - _electrodes_v(electrodes, 0.5 * (low + high))
    return (high_v - low_v) / (high - low), bend_v


@compiled_inner
def _noise_left(predicted: float, lasting: float) -> float:
    """Variance of a voltage's noise that leaves the variance `predicted` of the voltage at `lasting`."""
    return lasting * predicted / (predicted - lasting)


@compiled_inner
def _correct_bent(
    state: FloatArray,
    variance: FloatArray,
    electrodes: Electrodes,
    soc: float,
    surplus_v: float,
    others_slope_v: float,
    others: float,
    noise: float,
    lasting: float,
    dt_s: float,
) -> None:
    """Correct by mean and variance of the state of charge on a grid.

    `surplus_v` is the measured voltage less the expectation of all that is not the open-circuit voltage; that changes
    with the state of charge by `others_slope_v` and has the variance `others` beside.
    """
    prior = variance[ZZ]
    deviation = math.sqrt(prior)
    total = mean_v = square_v = 0.0
    for k in range(-GRID_POINTS, GRID_POINTS + 1):
        at = min(max(soc + k * GRID_STEP * deviation, s.FILTER_SOC_MIN), s.FILTER_SOC_MAX)
        weight = math.exp(-0.5 * (k * GRID_STEP) ** 2)
        at_v = _electrodes_v(electrodes, at) + others_slope_v * (at - soc) - surplus_v
        total += weight
        mean_v += weight * at_v
        square_v += weight * at_v * at_v
    mean_v /= total
    predicted = square_v / total - mean_v * mean_v + others
    # Of less than this a linear correction would take little, and this is slow.
    if predicted <= 2.0 * lasting:
        return
    left = others + noise + _noise_left(predicted, lasting)
    centre, width = soc, GRID_STEP * deviation
    best, best_cost = soc, np.inf
    mean = soc
    posterior = prior
    for _ in range(GRIDS):
        total = first = second = 0.0
        for k in range(-GRID_POINTS, GRID_POINTS + 1):
            at = centre + k * width
            if not s.FILTER_SOC_MIN <= at <= s.FILTER_SOC_MAX:
                continue
            error_v = surplus_v - _electrodes_v(electrodes, at) - others_slope_v * (at - soc)
            cost = (at - soc) * (at - soc) / prior + error_v * error_v / left
            if cost < best_cost:
                best, best_cost = at, cost
            weight = math.exp(-0.5 * cost)
            total += weight
            first += weight * (at - centre)
            second += weight * (at - centre) * (at - centre)
        if best_cost <= REJECTED_ABOVE and total > 0.0:
            first /= total
            mean = centre + first
            posterior = second / total - first * first
            if posterior >= 4.0 * width * width:
                break
        centre, width = best, GRID_FINER * width
    if best_cost > REJECTED_ABOVE:
        variance[ZZ] = min(prior + REJECTED_WALK * REJECTED_WALK * dt_s / 3600.0, SOC_UNKNOWN * SOC_UNKNOWN)
        return
    keep = min(posterior / prior, 1.0)
    by_g, by_q = variance[ZG] / prior, variance[ZQ] / prior
    state[s.FILTER_SOC] = mean
    state[s.FILTER_RESISTANCE] += by_g * (mean - soc)
    state[s.FILTER_CAPACITY] += by_q * (mean - soc)
    variance[GG] -= by_g * variance[ZG] * (1.0 - keep)
    variance[GQ] -= by_g * variance[ZQ] * (1.0 - keep)
    variance[QQ] -= by_q * variance[ZQ] * (1.0 - keep)
    variance[ZZ] *= keep
    variance[ZG] *= keep
    variance[ZQ] *= keep


@compiled_inner
def _correct(
    state: FloatArray,
    variance: FloatArray,
    electrodes: Electrodes,
    soc: float,
    behind_v: float,
    drop_v: float,
    residual_v: float,
    lasting: float,
    dt_s: float,
) -> None:
    """Correct the estimates by the voltage of a cell, `dt_s` after the last correction.

    `soc` is expected, with `behind_v` at the electrodes and `drop_v` over the resistance of a new cell; `residual_v` is
    the measured voltage less the expected one, and `lasting` the variance of its lasting error.
    """
    factor = state[s.FILTER_RESISTANCE]
    keep = 1.0 / (1.0 + dt_s / PASSING_S)
    by_load_v = PASSING_SHARE * factor * drop_v
    passing = keep * keep * state[s.FILTER_PASSING_V2] + (1.0 - keep * keep) * by_load_v * by_load_v
    if dt_s > s.MAX_GAP_S:
        passing += PASSING_UNKNOWN_V * PASSING_UNKNOWN_V
    passing = min(passing, PASSING_MAX_V * PASSING_MAX_V)
    state[s.FILTER_PASSING_V2] = passing
    # An error that lasts for a while counts once, however often it is measured.
    noise = NOISE_V * NOISE_V + passing * max(1.0, PASSING_S / dt_s)

    delta = min(max(math.sqrt(variance[ZZ]), NARROWEST), WIDEST)
    slope_v, bend_v = _slope_v(electrodes, soc, delta)
    bend_v *= min(variance[ZZ] / (delta * delta), 1.0)
    with_z = slope_v * variance[ZZ] - drop_v * variance[ZG]
    with_g = slope_v * variance[ZG] - drop_v * variance[GG]
    with_q = slope_v * variance[ZQ] - drop_v * variance[GQ]
    predicted = max(slope_v * with_z - drop_v * with_g, 0.0)
    is_far = residual_v * residual_v > LARGEST_RESIDUAL * LARGEST_RESIDUAL * (predicted + noise + lasting)
    if predicted <= lasting and not is_far:
        return
    if is_far or bend_v * bend_v > LARGEST_BEND * LARGEST_BEND * (noise + lasting):
        others_slope_v = -drop_v * variance[ZG] / variance[ZZ]
        others = max(drop_v * (drop_v * variance[GG] + others_slope_v * variance[ZG]), 0.0)
        _correct_bent(
            state,
            variance,
            electrodes,
            soc,
            residual_v + behind_v,
            others_slope_v,
            others,
            noise,
            lasting,
            dt_s,
        )
        return
    total = predicted + noise + _noise_left(predicted, lasting)
    gain_v = residual_v / total
    state[s.FILTER_SOC] = soc + with_z * gain_v
    state[s.FILTER_RESISTANCE] = factor + with_g * gain_v
    state[s.FILTER_CAPACITY] += with_q * gain_v
    variance[ZZ] -= with_z * with_z / total
    variance[ZG] -= with_z * with_g / total
    variance[ZQ] -= with_z * with_q / total
    variance[GG] -= with_g * with_g / total
    variance[GQ] -= with_g * with_q / total
    variance[QQ] -= with_q * with_q / total


@compiled_inner
def _without_hysteresis(cell: CellState) -> CellState:
    return CellState(
        cell.soc,
        0.0,
        cell.branch_1_a,
        cell.branch_2_a,
        cell.positive_lead_1,
        cell.positive_lead_2,
        cell.positive_lead_3,
        cell.negative_lead_1,
        cell.negative_lead_2,
        cell.negative_lead_3,
    )


@compiled_inner
def _count_charge(state: FloatArray, variance: FloatArray, dt_s: float, c_rate: float, reported_soc: float) -> None:
    """Add the charge since the last reading to that since the last correction, and its uncertainty."""
    last = state[s.FILTER_C_RATE]
    change = c_rate - last
    if dt_s <= s.MAX_GAP_S:
        state[s.FILTER_CHARGE_S] += 0.5 * (c_rate + last) * dt_s
        # The mean of both ends misses the current in between by as much as they differ.
        error = 0.5 * change * dt_s / 3600.0
        variance[ZZ] += error * error
        fall_v = FALL_V[int(state[s.CELL_PARAMETERS]) - 1] * change * dt_s / (dt_s + FALL_S)
        state[s.FILTER_PASSING_V2] += fall_v * fall_v
        return
    # Discharged meanwhile, according to the battery.
    reported = 0.01 * (state[s.FILTER_REPORTED_SOC] - reported_soc)
    if math.isnan(reported):
        state[s.FILTER_CHARGE_S] += 0.5 * (c_rate + last) * dt_s if dt_s <= RESIDUAL_MAX_INTERVAL_S else 0.0
        variance[ZZ] += UNSEEN_C_RATE * UNSEEN_C_RATE * 2.0 * UNSEEN_S * dt_s / (3600.0 * 3600.0)
    else:
        state[s.FILTER_CHARGE_S] += reported * state[s.FILTER_CAPACITY] * 3600.0
        variance[ZZ] += GAP_SOC * GAP_SOC + (GAP_SHARE * reported) ** 2


@compiled_inner
def update(
    state: FloatArray, time_s: float, voltage_v: float, c_rate: float, temperature_c: float, reported_soc: float
) -> None:
    """Update the filter in `state` by one reading, in place; NaN = missing.

    Args:
        time_s: later than that of the last call.
        voltage_v: of a cell.
        c_rate: current in nominal capacities per hour, positive while discharging.
        reported_soc: state of charge that the battery itself reports, %; used for the first guess and across gaps.
    """
    index = int(state[s.CELL_PARAMETERS])
    if index == 0 or math.isnan(voltage_v + c_rate + temperature_c):
        return
    if not 0.0 <= reported_soc <= 100.0:
        reported_soc = np.nan
    cell = _parameters(index - 1)
    lasting = _LASTING_V2[index - 1]
    variance = state[s.FILTER_VARIANCE : s.FILTER_VARIANCE + s.N_VARIANCES]
    interval_s = time_s - state[s.FILTER_TIME_S]
    is_first = math.isnan(interval_s)
    if is_first:
        _start(state, reported_soc)
        dt_s = TICK_S
    else:
        _count_charge(state, variance, interval_s, c_rate, reported_soc)
        dt_s = time_s - state[s.FILTER_TICK_S]
    state[s.FILTER_TIME_S] = time_s
    state[s.FILTER_C_RATE] = c_rate
    state[s.FILTER_REPORTED_SOC] = reported_soc
    if dt_s < TICK_S:
        return

    capacity = state[s.FILTER_CAPACITY]
    wear = Wear(capacity * cell.capacity_ah, state[s.FILTER_RESISTANCE])
    slots = state[s.FILTER_CELL : s.FILTER_CELL + s.N_CELL]
    cell_state = CellState(
        state[s.FILTER_SOC], slots[0], slots[1], slots[2], slots[3], slots[4], slots[5], slots[6], slots[7], slots[8]
    )
    if not is_first:
        mean_a = state[s.FILTER_CHARGE_S] / dt_s * cell.capacity_ah
        cell_state = moved(cell_state, cell, wear, mean_a, temperature_c, dt_s)
        _predict_variance(variance, state[s.FILTER_CHARGE_S] / 3600.0 / capacity, capacity, dt_s)
        if dt_s > s.MAX_GAP_S:
            # Whether the cell was charged or discharged last is unknown.
            cell_state = _without_hysteresis(cell_state)
        _limit(variance)
    positive_soc, negative_soc = surface_socs(cell_state)
    soc = cell_state.soc
    electrodes = Electrodes(cell.ocp_positive_v, cell.ocp_negative_v, soc - positive_soc, soc - negative_soc)
    behind_v = _electrodes_v(electrodes, soc)
    predicted_v = terminal_voltage_v(cell_state, cell, wear, c_rate * cell.capacity_ah, temperature_c)
    drop_v = (behind_v + cell.hysteresis_v * cell_state.hysteresis - predicted_v) / wear.resistance_factor
    residual_v = voltage_v - predicted_v
    state[s.FILTER_SOC] = soc
    _correct(state, variance, electrodes, soc, behind_v, drop_v, residual_v, lasting, dt_s)
    if not is_first and dt_s <= RESIDUAL_MAX_INTERVAL_S:
        keep = 1.0 / (1.0 + dt_s / RESIDUAL_S)
        weight = keep * state[s.FILTER_RESIDUAL_WEIGHT] + 1.0 - keep
        gain = (1.0 - keep) / weight
        state[s.FILTER_RESIDUAL_WEIGHT] = weight
        state[s.FILTER_RESIDUAL_V] += gain * (residual_v - state[s.FILTER_RESIDUAL_V])
        state[s.FILTER_RESIDUAL_V2] += gain * (residual_v * residual_v - state[s.FILTER_RESIDUAL_V2])
    state[s.FILTER_SOC] = min(max(state[s.FILTER_SOC], s.FILTER_SOC_MIN), s.FILTER_SOC_MAX)
    state[s.FILTER_RESISTANCE] = min(max(state[s.FILTER_RESISTANCE], s.FILTER_RESISTANCE_MIN), s.FILTER_RESISTANCE_MAX)
    state[s.FILTER_CAPACITY] = min(max(state[s.FILTER_CAPACITY], s.FILTER_CAPACITY_MIN), s.FILTER_CAPACITY_MAX)
    for k in range(s.N_CELL):
        slots[k] = cell_state[k + 1]
    state[s.FILTER_TICK_S] = time_s
    state[s.FILTER_CHARGE_S] = 0.0


@compiled_inner
def read_signals(state: FloatArray, out: FloatArray) -> None:
    """Write the estimates at the end of a session into `out`, float64[N_SIGNALS]; NaN where they are not known well."""
    out[:] = np.nan
    if math.isnan(state[s.FILTER_TIME_S]):
        return
    if state[s.FILTER_VARIANCE + QQ] <= CAPACITY_KNOWN * CAPACITY_KNOWN:
        out[0] = state[s.FILTER_CAPACITY]
    if state[s.FILTER_VARIANCE + GG] <= RESISTANCE_KNOWN * RESISTANCE_KNOWN:
        out[1] = state[s.FILTER_RESISTANCE]
    if state[s.FILTER_RESIDUAL_WEIGHT] >= RESIDUAL_KNOWN:
        out[2] = state[s.FILTER_RESIDUAL_V]
        out[3] = math.sqrt(state[s.FILTER_RESIDUAL_V2])
