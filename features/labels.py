"""Labels of the four targets, computed from later measurements; NaN where the label is unknown.

A battery that has not failed when its record ends is right-censored: its remaining life is
unknown, not short, and it counts as not failed only for the observed part of the horizon.
"""

from __future__ import annotations

import numpy as np

from features.state import FloatArray


def end_of_life(cycle_index: FloatArray, soh: FloatArray, eol_fraction: float) -> float:
    """First cycle from which every later measured state of health is below `eol_fraction`; NaN if there is none.

    Args:
        cycle_index: float64[n], ascending.
        soh: float64[n], measured capacity / nominal capacity as a fraction; NaN where not measured.
    """
    measured = ~np.isnan(soh)
    index, below = cycle_index[measured], soh[measured] < eol_fraction
    if not below.size or not below[-1]:
        return float("nan")
    recovered = np.flatnonzero(~below)
    return float(index[recovered[-1] + 1] if recovered.size else index[0])


def remaining_cycles(cycle_index: FloatArray, eol_cycle: float) -> FloatArray:
    """Equivalent full cycles until `eol_cycle`; NaN from then on and for a battery that did not reach it."""
    remaining = eol_cycle - cycle_index
    return np.where(remaining > 0.0, remaining, np.nan)


def failure_within(
    cycle_index: FloatArray,
    *,
    horizon_cycles: float,
    event_cycles: FloatArray,
    eol_cycle: float,
    last_observed_cycle: float,
) -> FloatArray:
    """1 if the battery fails within the horizon, 0 if it was observed that long and did not, NaN if unknown.

    Args:
        cycle_index: float64[n], when the prediction is made.
        event_cycles: float64[k], cycles at which faults occurred.
        eol_cycle: end of life, NaN if it was not reached; rows from then on get NaN, as the battery has failed already.
        last_observed_cycle: cycle at which the record ends.
    """
    events = np.sort(np.append(event_cycles, eol_cycle) if not np.isnan(eol_cycle) else event_cycles)
    following = np.searchsorted(events, cycle_index, side="right")
    next_event = np.append(events, np.inf)[following]
    label = np.full(len(cycle_index), np.nan)
    label[cycle_index + horizon_cycles <= last_observed_cycle] = 0.0
    label[next_event <= cycle_index + horizon_cycles] = 1.0
    if not np.isnan(eol_cycle):
        label[cycle_index >= eol_cycle] = np.nan
    return label


def temperature_ahead(
    time_s: FloatArray,
    temperature_c: FloatArray,
    *,
    horizon_s: float,
    tolerance_s: float,
    max_gap_s: float,
) -> FloatArray:
    """Temperature at the reading nearest to `time_s + horizon_s`, within `tolerance_s`, never across a gap.

    Args:
        time_s: float64[n], strictly ascending, of one battery.
        temperature_c: float64[n].

    Returns:
        float64[n], NaN where there is no such reading.
    """
    if not len(time_s):
        return np.empty(0)
    due = time_s + horizon_s
    after = np.minimum(np.searchsorted(time_s, due), len(time_s) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(time_s[after] - due) < np.abs(time_s[before] - due), after, before)
    segment = np.cumsum(np.diff(time_s, prepend=time_s[0]) > max_gap_s)
    known = (np.abs(time_s[nearest] - due) <= tolerance_s) & (segment[nearest] == segment) & (time_s[nearest] > time_s)
    return np.where(known, temperature_c[nearest], np.nan)


def life_quarter(cycle_index: FloatArray, end_cycle: float) -> FloatArray:
    """Quarter of life (1 to 4) at each cycle; `end_cycle` is the end of life or, if censored, the end of the record."""
    if not end_cycle > 0.0:
        return np.ones(len(cycle_index))
    return np.clip(np.floor(4.0 * cycle_index / end_cycle) + 1.0, 1.0, 4.0)
