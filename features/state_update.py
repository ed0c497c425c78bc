"""Update battery states from arrays of readings and cycles, and extract features from the states.

Training (years of files) and serving (the readings of one request) both use these functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numba import njit
from numpy.typing import NDArray

from features import state as s
from features import step
from features.state import FloatArray
from telemetry.contract import SIGNALS
from telemetry.row_order import separate_equal_ages

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def _tau_names(stem: str) -> list[str]:
    return [f"{stem}_{tau:.0f}s" for tau in s.TIME_CONSTANTS_S]


READING_FEATURES: tuple[str, ...] = (
    "temperature_c",
    "cell_voltage_v",
    "c_rate",
    "soc",
    "ambient_temperature_c",
    "temperature_above_ambient_c",
    "temperature_spread_c",
    "cell_voltage_spread_v",
    "speed_kmh",
    "is_charging",
    "segment_age_s",
    "session_direction",
    "session_age_s",
    "session_capacities",
    "session_temperature_rise_c",
    "resistance_at_1c_v",
    *_tau_names("c_rate_mean"),
    *_tau_names("c_rate_square_mean"),
    *_tau_names("temperature_change_c"),
    *_tau_names("cell_voltage_change_v"),
)

# The present level, then its change over increasing times (numbers are half-lives in cycles).  The absolute reference
# value is left out: forests recognise single cells by it.
_HISTORY_STATISTICS = ("last", "mean_5", "trend_20_70", "trend_70_200", "trend_200_reference", "deviation")
AGE_FEATURES: tuple[str, ...] = ("cycles",)
HISTORY_FEATURES: tuple[str, ...] = tuple(f"{signal}__{name}" for signal in SIGNALS for name in _HISTORY_STATISTICS)
CYCLE_FEATURES: tuple[str, ...] = AGE_FEATURES + HISTORY_FEATURES

_N_READING = len(READING_FEATURES)
_N_CYCLE = len(CYCLE_FEATURES)
_N_AGE = len(AGE_FEATURES)
_N_STATISTICS = len(_HISTORY_STATISTICS)
_RESISTANCE = SIGNALS.index("resistance_ohm")


@njit
def read_reading_features(state, out):  # type: ignore[no-untyped-def]
    """Write the current features per reading into `out`, for compiled code."""
    temperature, voltage = state[s.TEMPERATURE_C], state[s.CELL_VOLTAGE_V]
    out[0] = temperature
    out[1] = voltage
    out[2] = state[s.C_RATE]
    out[3] = state[s.SOC]
    out[4] = state[s.AMBIENT_C]
    out[5] = temperature - state[s.AMBIENT_C]
    out[6] = state[s.TEMPERATURE_SPREAD_C]
    out[7] = state[s.CELL_VOLTAGE_SPREAD_V]
    out[8] = state[s.SPEED_KMH]
    direction = state[s.SESSION_DIRECTION]
    charging = state[s.IS_CHARGING]
    if np.isnan(charging):
        charging = 1.0 if direction < 0.0 else 0.0
    out[9] = charging
    out[10] = state[s.TIME_S] - state[s.SEGMENT_START_S]
    out[11] = direction
    if direction != 0.0:
        out[12] = state[s.TIME_S] - state[s.SESSION_START_S]
        out[13] = state[s.SESSION_CAPACITIES]
        out[14] = temperature - state[s.SESSION_START_TEMPERATURE_C]
    else:
        out[12:15] = 0.0
    out[15] = state[s.SIGNAL_LAST + _RESISTANCE]
    for h in range(s.N_TAU):
        out[16 + h] = state[s.TAU_C_RATE + h]
        out[16 + s.N_TAU + h] = state[s.TAU_C_RATE_SQUARE + h]
        out[16 + 2 * s.N_TAU + h] = temperature - state[s.TAU_TEMPERATURE + h]
        out[16 + 3 * s.N_TAU + h] = voltage - state[s.TAU_VOLTAGE + h]


@njit
def read_cycle_features(state, out):  # type: ignore[no-untyped-def]
    """Write the current features per cycle into `out`, for compiled code."""
    out[0] = state[s.CYCLES]
    for j in range(s.N_SIGNALS):
        at = _N_AGE + j * _N_STATISTICS
        if state[s.SIGNAL_COUNT + j] == 0.0:
            out[at : at + _N_STATISTICS] = np.nan
            continue
        mean = s.SIGNAL_MEAN + j * s.N_HALF_LIVES
        out[at] = state[s.SIGNAL_LAST + j]
        out[at + 1] = state[mean]
        for h in range(1, s.N_HALF_LIVES - 1):
            out[at + 1 + h] = state[mean + h] - state[mean + h + 1]
        out[at + s.N_HALF_LIVES] = state[mean + s.N_HALF_LIVES - 1] - state[s.SIGNAL_REFERENCE + j]
        out[at + s.N_HALF_LIVES + 1] = state[s.SIGNAL_DEVIATION + j]


@njit
def _update_from_readings(  # type: ignore[no-untyped-def]
    states, battery_row, readings, applied, features, cycles, closed, closed_features
):
    summary = np.empty(step.CLOSED_SIZE)
    count = 0
    for i in range(len(battery_row)):
        state = states[battery_row[i]]
        outcome = step.step_reading(state, readings[i], summary)
        applied[i] = outcome > 0
        cycles[i] = state[s.CYCLES]
        read_reading_features(state, features[i])
        if outcome == step.CLOSED:
            summary[step.CLOSED_BATTERY] = battery_row[i]
            summary[step.CLOSED_READING] = i
            # A loop, because the error message of an assignment of arrays would be compiled for a second.
            for k in range(step.CLOSED_SIZE):
                closed[count, k] = summary[k]
            read_cycle_features(state, closed_features[count])
            # Of the end of the session, as its label: the reading that closes it may be months later.
            closed_features[count, 0] = summary[step.CLOSED_INDEX]
            count += 1
    return count


@njit
def _update_from_cycles(states, battery_row, cycles, applied, features):  # type: ignore[no-untyped-def]
    for i in range(len(battery_row)):
        state = states[battery_row[i]]
        applied[i] = step.step_cycle(state, cycles[i])
        read_cycle_features(state, features[i])


@dataclass(frozen=True)
class ReadingUpdates:
    """Result of updating states from readings.

    Attributes:
        applied: bool[n], False where the reading was ignored because it was not newer than its battery's state.
        features: float64[n, len(READING_FEATURES)], after each reading.
        cycles: float64[n], equivalent full cycles after each reading.
        closed: float64[m, CLOSED_SIZE], one row for each closed session; see `closed_table`.
        closed_features: float64[m, len(CYCLE_FEATURES)], after each row of `closed`.
    """

    applied: BoolArray
    features: FloatArray
    cycles: FloatArray
    closed: FloatArray
    closed_features: FloatArray

    def closed_table(self) -> pd.DataFrame:
        """The closed sessions; see `closed_table`."""
        return closed_table(self.closed)


def closed_table(closed: FloatArray) -> pd.DataFrame:
    """Closed sessions, one a row: `battery_row`, `reading` (the row that closed it), then as in `battery_cycles`.

    Times are in seconds since the epoch.

    Args:
        closed: float64[m, CLOSED_SIZE], as written by `features.step.step_reading`.
    """
    return pd.DataFrame(
        {
            "battery_row": closed[:, step.CLOSED_BATTERY].astype(np.int64),
            "reading": closed[:, step.CLOSED_READING].astype(np.int64),
            "cycle_index": closed[:, step.CLOSED_INDEX],
            "kind": np.where(closed[:, step.CLOSED_DIRECTION] < 0.0, "charge", "discharge"),
            "start_s": closed[:, step.CLOSED_START_S],
            "end_s": closed[:, step.CLOSED_END_S],
            "throughput_ah": closed[:, step.CLOSED_THROUGHPUT_AH],
            **{name: closed[:, step.CLOSED_SIGNALS + j] for j, name in enumerate(SIGNALS)},
        }
    )


@dataclass(frozen=True)
class CycleUpdates:
    """Result of updating states from cycle summaries: `applied` bool[m], `features` float64[m, len(CYCLE_FEATURES)]."""

    applied: BoolArray
    features: FloatArray


def _seconds(times: pd.Series) -> FloatArray:
    # Microseconds since 1970 fit a float64 exactly until the year 2255.
    return times.astype("datetime64[us, UTC]").astype("int64").to_numpy() / 1e6


def readings_matrix(readings: pd.DataFrame) -> FloatArray:
    """`readings` (contract columns) as float64[n, len(READING_INPUTS)]; an absent column is all missing."""
    matrix = np.full((len(readings), len(s.READING_INPUTS)), np.nan)
    matrix[:, 0] = _seconds(readings["time"])
    for column, name in enumerate(s.READING_INPUTS[1:], start=1):
        if name in readings:
            matrix[:, column] = readings[name].to_numpy(dtype=np.float64, na_value=np.nan)
    return matrix


def cycles_matrix(cycles: pd.DataFrame) -> FloatArray:
    """`cycles` (contract columns) as float64[m, 1 + len(SIGNALS)]: index, then signals, NaN where absent.

    Adjacent rows of one battery with equal index and increasing end times get increasing indexes (`set_apart`).
    """
    matrix = np.full((len(cycles), 1 + len(SIGNALS)), np.nan)
    for column, name in enumerate(("cycle_index", *SIGNALS)):
        if name in cycles:
            matrix[:, column] = cycles[name].to_numpy(dtype=np.float64, na_value=np.nan)
    if {"battery_id", "end_time"} <= set(cycles.columns):
        battery, end = cycles["battery_id"], cycles["end_time"]
        matrix[:, 0] = separate_equal_ages(
            matrix[:, 0], ((battery == battery.shift()) & (end > end.shift())).to_numpy(dtype=bool)
        )
    return matrix


def update_from_readings(states: FloatArray, battery_row: IntArray, readings: FloatArray) -> ReadingUpdates:
    """Update `states` in place from `readings`, in any interleaving of batteries.

    Args:
        states: float64[k, STATE_SIZE].
        battery_row: int64[n], the row of `states` that each reading belongs to.
        readings: float64[n, len(READING_INPUTS)], each battery's in time order.
    """
    n = len(readings)
    applied = np.zeros(n, dtype=np.bool_)
    features = np.empty((n, _N_READING))
    cycles = np.empty(n)
    closed = np.empty((n, step.CLOSED_SIZE))
    closed_features = np.empty((n, _N_CYCLE))
    count = _update_from_readings(states, battery_row, readings, applied, features, cycles, closed, closed_features)
    return ReadingUpdates(applied, features, cycles, closed[:count].copy(), closed_features[:count].copy())


def update_from_cycles(states: FloatArray, battery_row: IntArray, cycles: FloatArray) -> CycleUpdates:
    """Update `states` in place from cycle summaries (float64[m, 1 + len(SIGNALS)], see `cycles_matrix`)."""
    applied = np.zeros(len(cycles), dtype=np.bool_)
    features = np.empty((len(cycles), _N_CYCLE))
    _update_from_cycles(states, battery_row, cycles, applied, features)
    return CycleUpdates(applied, features)


def reading_features(state: FloatArray) -> FloatArray:
    """Current features per reading, float64[len(READING_FEATURES)]."""
    out = np.empty(_N_READING)
    read_reading_features(state, out)
    return out


def cycle_features(state: FloatArray) -> FloatArray:
    """Current features per cycle, float64[len(CYCLE_FEATURES)]."""
    out = np.empty(_N_CYCLE)
    read_cycle_features(state, out)
    return out
