"""Messages of a telematics unit: the compiled function from readings to what arrives, and its small state.

A table gives the same as one reading at a time.  See `simulator.telematics`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physics.compiled import compiled, compiled_entry
from telemetry.contract import READING_FIELDS, names

FloatArray = NDArray[np.float64]

#: Columns of the values, float64[n, len(VALUES)]: the fields of a reading without id and time.
VALUES: tuple[str, ...] = tuple(names(READING_FIELDS)[2:])


class Columns(NamedTuple):
    """Numbers of columns: those with a meaning, those that may get stuck, and those that may be left out.

    They are arguments of the compiled code, which would not notice a change of the contract.
    """

    voltage: int
    current: int
    power: int
    speed: int
    stuck: NDArray[np.int64]
    dropped: NDArray[np.int64]


def _columns(*wanted: str) -> NDArray[np.int64]:
    return np.array([VALUES.index(name) for name in wanted], dtype=np.int64)


COLUMNS = Columns(
    voltage=VALUES.index("voltage"),
    current=VALUES.index("current"),
    power=VALUES.index("power_consumption"),
    speed=VALUES.index("speed_kmh"),
    stuck=_columns(
        "voltage", "current", "temperature", "temperature_min", "cell_voltage_min", "cell_voltage_max", "soc"
    ),
    dropped=_columns(
        "soc", "power_consumption", "is_charging", "temperature_min", "cell_voltage_min", "cell_voltage_max",
        "cell_voltage_median", "ambient_temperature", "insulation_resistance", "odometer_km", "speed_kmh",
    ),
)  # fmt: skip

#: Slots of the state: the next report is due, then what lasts (a number of readings), and of what kind.
(
    _DUE, _LOST_LEFT, _FROZEN_LEFT, _STUCK_LEFT, _STUCK_FIELD, _STUCK_VALUE, _DROPPED_LEFT, _DROPPED_FIELD,
    _CLOCK_LEFT, _CLOCK_OFFSET_S, _HELD_LEFT, _HELD_TIME,
) = range(12)  # fmt: skip
#: Then the values of the late reading and of the last one.
_HELD = 12
STATE_SIZE = _HELD + 2 * len(VALUES)
#: Smallest and largest error of a clock, s.
_CLOCK_ERROR_S = (10.0, 86_400.0)
#: Time of readings is in microseconds inside, which are exact in a float until the year 2255.
MICROSECONDS = 1e6


class TelematicsParameters(NamedTuple):
    """Telematics unit of one car.

    `..._share` is the probability that something begins with a reading, `..._in_a_row` the mean number of readings for
    which it lasts.  All shares 0 and interval 0: the readings as they are.
    """

    interval_s: float = 0.0
    time_step_s: float = 0.0
    off_interval_share: float = 0.0
    off_interval_s: float = 0.0
    loss_share_moving: float = 0.0
    loss_share_standing: float = 0.0
    lost_in_a_row: float = 1.0
    frozen_share: float = 0.0
    frozen_in_a_row: float = 1.0
    stuck_share: float = 0.0
    stuck_in_a_row: float = 1.0
    dropout_share: float = 0.0
    dropped_in_a_row: float = 1.0
    duplicate_share: float = 0.0
    late_share: float = 0.0
    late_by: float = 1.0
    clock_share: float = 0.0
    clock_in_a_row: float = 1.0


def new_state() -> FloatArray:
    """State of a unit that has not reported yet, float64[STATE_SIZE]."""
    state = np.zeros(STATE_SIZE)
    state[_DUE] = -math.inf
    state[_HELD + len(VALUES) :] = math.nan
    return state


@compiled
def _length(mean: float, rng: np.random.Generator) -> float:
    """A geometric number of readings, at least 1."""
    if mean <= 1.0:
        return 1.0
    return 1.0 + math.floor(rng.exponential() / -math.log(1.0 - 1.0 / mean))


@compiled
def _begins(share: float, rng: np.random.Generator) -> bool:
    return share > 0.0 and rng.random() < share


@compiled
def _time_us(true_us: float, unit: TelematicsParameters, state: FloatArray, rng: np.random.Generator) -> float:
    """Time in a message: by a clock that may be off, not always exactly at the interval, rounded down."""
    time_us = true_us
    if state[_CLOCK_LEFT] > 0.0:
        state[_CLOCK_LEFT] -= 1.0
        time_us += state[_CLOCK_OFFSET_S] * MICROSECONDS
    elif _begins(unit.clock_share, rng):
        state[_CLOCK_LEFT] = _length(unit.clock_in_a_row, rng) - 1.0
        size_s = math.exp(rng.uniform(math.log(_CLOCK_ERROR_S[0]), math.log(_CLOCK_ERROR_S[1])))
        state[_CLOCK_OFFSET_S] = size_s if rng.random() < 0.5 else -size_s
        time_us += state[_CLOCK_OFFSET_S] * MICROSECONDS
    if _begins(unit.off_interval_share, rng):
        # Less than half an interval, so that the order stays.
        time_us += min(unit.off_interval_s, 0.4 * unit.interval_s) * MICROSECONDS
    if unit.time_step_s > 0.0:
        step_us = unit.time_step_s * MICROSECONDS
        time_us = math.floor(time_us / step_us) * step_us
    return max(time_us, 0.0)


@compiled
def _replace_values(
    row: FloatArray, unit: TelematicsParameters, columns: Columns, state: FloatArray, rng: np.random.Generator
) -> None:
    """Stuck sensor, dropped field and frozen reading, in place."""
    last = state[_HELD + len(row) :]
    if state[_STUCK_LEFT] <= 0.0 and _begins(unit.stuck_share, rng):
        field = columns.stuck[int(rng.random() * len(columns.stuck))]
        state[_STUCK_FIELD] = field
        state[_STUCK_VALUE] = row[field]
        state[_STUCK_LEFT] = _length(unit.stuck_in_a_row, rng) + 1.0
    if state[_STUCK_LEFT] > 0.0:
        state[_STUCK_LEFT] -= 1.0
        field = int(state[_STUCK_FIELD])
        row[field] = state[_STUCK_VALUE]
        if field in (columns.voltage, columns.current):
            row[columns.power] = row[columns.voltage] * row[columns.current]
    if state[_DROPPED_LEFT] <= 0.0 and _begins(unit.dropout_share, rng):
        state[_DROPPED_FIELD] = columns.dropped[int(rng.random() * len(columns.dropped))]
        state[_DROPPED_LEFT] = _length(unit.dropped_in_a_row, rng)
    if state[_DROPPED_LEFT] > 0.0:
        state[_DROPPED_LEFT] -= 1.0
        row[int(state[_DROPPED_FIELD])] = math.nan
    has_last = not math.isnan(last[columns.voltage])
    if state[_FROZEN_LEFT] <= 0.0 and has_last and _begins(unit.frozen_share, rng):
        state[_FROZEN_LEFT] = _length(unit.frozen_in_a_row, rng)
    if state[_FROZEN_LEFT] > 0.0:
        state[_FROZEN_LEFT] -= 1.0
        row[:] = last
    last[:] = row


@compiled
def _is_due(true_us: float, unit: TelematicsParameters, state: FloatArray) -> bool:
    """Whether the unit reports now; the next report is then due at the next point of its own grid of times."""
    if unit.interval_s <= 0.0:
        return True
    if true_us < state[_DUE] - 1.0:
        return False
    interval_us = unit.interval_s * MICROSECONDS
    if math.isinf(state[_DUE]):
        state[_DUE] = true_us
    state[_DUE] += interval_us * math.floor((true_us + 1.0 - state[_DUE]) / interval_us + 1.0)
    return True


@compiled_entry
def send(
    time_us: FloatArray,
    values: FloatArray,
    unit: TelematicsParameters,
    columns: Columns,
    state: FloatArray,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Messages that arrive from readings, in the order of their arrival; the state is changed in place.

    Args:
        time_us: float64[n], microseconds since 1970, increasing.
        values: float64[n, len(VALUES)].
        state: float64[STATE_SIZE], see `new_state`; a reading that is late at the end is in it.

    Returns:
        Times and values of the messages: float64[m], float64[m, len(VALUES)]; at most 2 n + 1.
    """
    count, held = len(time_us), state[_HELD : _HELD + values.shape[1]]
    out_us, out = np.empty(2 * count + 1), np.empty((2 * count + 1, values.shape[1]))
    sent = 0
    for number in range(count):
        if not _is_due(time_us[number], unit, state):
            continue
        row = values[number].copy()
        row_us = _time_us(time_us[number], unit, state, rng)
        moves = row[columns.speed] > 0.0
        _replace_values(row, unit, columns, state, rng)
        if state[_LOST_LEFT] <= 0.0 and _begins(unit.loss_share_moving if moves else unit.loss_share_standing, rng):
            state[_LOST_LEFT] = _length(unit.lost_in_a_row, rng)
        if state[_LOST_LEFT] > 0.0:
            state[_LOST_LEFT] -= 1.0
            continue
        if state[_HELD_LEFT] <= 0.0 and _begins(unit.late_share, rng):
            state[_HELD_LEFT] = _length(unit.late_by, rng)
            state[_HELD_TIME] = row_us
            held[:] = row
            continue
        for _ in range(2 if _begins(unit.duplicate_share, rng) else 1):
            out_us[sent], out[sent] = row_us, row
            sent += 1
        if state[_HELD_LEFT] > 0.0:
            state[_HELD_LEFT] -= 1.0
            if state[_HELD_LEFT] <= 0.0:
                out_us[sent], out[sent] = state[_HELD_TIME], held
                sent += 1
    return out_us[:sent], out[:sent]
