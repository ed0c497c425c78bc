"""Compiled update of one battery's state by one reading or by one cycle summary.

A reading updates the thermal and electrical averages, which are weighted by time so that a battery may
report every 0.5 s or every 30 s.  When a charge or discharge session closes, it is summarised, and the
summary updates the averages over cycles; a laboratory's cycle summary updates these directly.  Where the parameters of
the cells are known, a reading corrects the cell model as well (`features.cell_filter`).

`states` rows are changed in place.  Updates are sequential per battery, so processing a history at
once, in chunks or one reading at a time gives the same bits.

Not kept in numba's disk cache: that detects changes of one file only, while the code compiled here is
spread over several, and a stale update would be wrong without an error.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from features import cell_filter, plausibility
from features import state as s
from telemetry.chemistries import CHEMISTRIES
from telemetry.contract import SIGNAL_FIELDS, SIGNALS

# Compile-time constants for numba.
_EDGES = np.array([c.window_edges_v for c in CHEMISTRIES.values()])
_TAU_S = np.array(s.TIME_CONSTANTS_S)
_HALF_LIVES = np.array(s.HALF_LIVES_CYCLES)
_VOLTAGE_LIMITS_V = plausibility.CELL_VOLTAGE_LIMITS_V
_SCALE = np.array([{"none": 0, "capacity": 1, "resistance": 2}[f.scale] for f in SIGNAL_FIELDS])

#: A session is open while the magnitude of the two-minute mean current is above this, in C.
SESSION_C_RATE = 0.02
#: Shorter or smaller sessions are discarded as noise.
SESSION_MIN_S = 120.0
SESSION_MIN_CAPACITIES = 0.01
#: Standard deviation of the current (in C) below which no resistance is estimated.
RESISTANCE_MIN_C_RATE = 0.03

# Columns of a closed session before its signals; see `features.state_update.closed_table`.
CLOSED_BATTERY, CLOSED_READING, CLOSED_INDEX, CLOSED_DIRECTION = 0, 1, 2, 3
CLOSED_START_S, CLOSED_END_S, CLOSED_THROUGHPUT_AH, CLOSED_SIGNALS = 4, 5, 6, 7
CLOSED_SIZE = CLOSED_SIGNALS + s.N_SIGNALS

_CHARGE_WINDOW = SIGNALS.index("charge_window_1_ah")
_CAPACITY = SIGNALS.index(plausibility.CAPACITY_SIGNAL)
_DISCHARGE_WINDOW = SIGNALS.index("discharge_window_1_ah")
_CHARGE_VOLTAGE = SIGNALS.index("charge_voltage_mean_v")
_DISCHARGE_VOLTAGE = SIGNALS.index("discharge_voltage_mean_v")
_CHARGE_CURRENT = SIGNALS.index("charge_current_mean_a")
_DISCHARGE_CURRENT = SIGNALS.index("discharge_current_mean_a")
_RESISTANCE = SIGNALS.index("resistance_ohm")
_SPREAD = SIGNALS.index("cell_voltage_spread_v")
_TEMPERATURE_MEAN = SIGNALS.index("temperature_mean_c")
_TEMPERATURE_RISE = SIGNALS.index("temperature_rise_c")
_FILTER = SIGNALS.index(cell_filter.SIGNALS[0])

#: Outcomes of a reading: as for `step_reading`.
CONFLICT, DUPLICATE, OLDER, APPLIED, CLOSED = -2, -1, 0, 1, 2


@njit
def _watch_capacity(state, charged, c_rate):  # type: ignore[no-untyped-def]
    """Count the charges in a row that show more capacity than those before, in nominal capacities.

    A pack does not regain capacity: it is another one under the same id.
    """
    if np.isnan(charged) or not c_rate <= plausibility.CAPACITY_MAX_C_RATE:
        return
    known = state[s.CAPACITY_CHARGES]
    exceeds = charged > plausibility.CAPACITY_JUMP * state[s.CAPACITY_MEAN]
    if known >= plausibility.CAPACITY_KNOWN_AFTER and exceeds:
        state[s.CAPACITY_JUMPS] += 1.0
        return
    state[s.CAPACITY_JUMPS] = 0.0
    state[s.CAPACITY_CHARGES] = known + 1.0
    state[s.CAPACITY_MEAN] += (charged - state[s.CAPACITY_MEAN]) / min(known + 1.0, plausibility.CAPACITY_MEAN_OVER)


@njit
def push_cycle(state, cycle_index, signals):  # type: ignore[no-untyped-def]
    """Update the averages over cycles by one cycle summary; `signals` in the contract's units, NaN = missing."""
    nominal = state[s.NOMINAL_CAPACITY_AH]
    _watch_capacity(state, signals[_CAPACITY] / nominal, signals[_CHARGE_CURRENT] / nominal)
    for j in range(s.N_SIGNALS):
        x = signals[j]
        if _SCALE[j] == 1:
            x = x / nominal
        elif _SCALE[j] == 2:
            x = x * nominal
        if np.isnan(x):
            continue
        elapsed = max(cycle_index - state[s.SIGNAL_INDEX + j], 0.0)
        if state[s.SIGNAL_COUNT + j] == 0.0:
            state[s.SIGNAL_FIRST_INDEX + j] = cycle_index
        if cycle_index - state[s.SIGNAL_FIRST_INDEX + j] < s.REFERENCE_CYCLES:
            state[s.SIGNAL_COUNT + j] += 1.0
            state[s.SIGNAL_REFERENCE + j] += (x - state[s.SIGNAL_REFERENCE + j]) / state[s.SIGNAL_COUNT + j]
        for h in range(s.N_HALF_LIVES):
            at = j * s.N_HALF_LIVES + h
            weight = state[s.SIGNAL_WEIGHT + at] * 2.0 ** (-elapsed / _HALF_LIVES[h]) + 1.0
            state[s.SIGNAL_WEIGHT + at] = weight
            state[s.SIGNAL_MEAN + at] += (x - state[s.SIGNAL_MEAN + at]) / weight
        centre = state[s.SIGNAL_MEAN + j * s.N_HALF_LIVES + s.DEVIATION_HALF_LIFE]
        keep = 2.0 ** (-elapsed / _HALF_LIVES[s.DEVIATION_HALF_LIFE])
        weight = state[s.SIGNAL_DEVIATION_WEIGHT + j] * keep + 1.0
        state[s.SIGNAL_DEVIATION_WEIGHT + j] = weight
        state[s.SIGNAL_DEVIATION + j] += (abs(x - centre) - state[s.SIGNAL_DEVIATION + j]) / weight
        state[s.SIGNAL_LAST + j] = x
        state[s.SIGNAL_INDEX + j] = cycle_index
    state[s.CYCLES_SEEN] += 1.0


@njit
def step_cycle(state, cycle):  # type: ignore[no-untyped-def]
    """Update `state` by one cycle summary `[cycle_index, signals...]`; False if it is not newer than the state."""
    if np.isnan(cycle[0]) or cycle[0] <= state[s.LAST_CYCLE_INDEX]:
        return False
    push_cycle(state, cycle[0], cycle[1:])
    state[s.LAST_CYCLE_INDEX] = cycle[0]
    state[s.CYCLES] = max(state[s.CYCLES], cycle[0])
    return True


@njit
def _rest_voltage(state):  # type: ignore[no-untyped-def]
    """Estimated rest voltage of the cell: the two-minute mean voltage without the drop over its resistance.

    Makes the voltage windows of fast and slow charges comparable.
    """
    # The newest estimate: it was measured at nearly the present temperature.
    resistance = state[s.SIGNAL_LAST + _RESISTANCE]
    if np.isnan(resistance):
        resistance = 0.0
    return state[s.TAU_VOLTAGE] + resistance * state[s.TAU_C_RATE]


@njit
def _open_session(state, direction):  # type: ignore[no-untyped-def]
    state[s.SESSION_DIRECTION] = direction
    state[s.SESSION_START_S] = state[s.TIME_S]
    state[s.SESSION_START_TEMPERATURE_C] = state[s.TEMPERATURE_C]
    state[s.SESSION_FIRST_VOLTAGE_V] = _rest_voltage(state)
    state[s.SESSION_CAPACITIES : s.SESSION_WINDOWS + s.N_WINDOWS] = 0.0


@njit
def _close_session(state, closed):  # type: ignore[no-untyped-def]
    """Close the open session; True if its summary was written to `closed`.

    False if it was too short, too small or implausible.
    """
    direction = state[s.SESSION_DIRECTION]
    seconds = state[s.SESSION_SECONDS]
    state[s.SESSION_DIRECTION] = 0.0
    if direction == 0.0 or seconds < SESSION_MIN_S or state[s.SESSION_CAPACITIES] < SESSION_MIN_CAPACITIES:
        return False
    has_resistance = state[s.SESSION_VARIANCE] > RESISTANCE_MIN_C_RATE**2 * seconds
    if has_resistance:
        state[s.RESISTANCE_IS_NEGATIVE] = 1.0 if state[s.SESSION_COVARIANCE] > 0.0 else 0.0
    if state[s.RESISTANCE_IS_NEGATIVE] == 1.0 or state[s.SESSION_CAPACITIES] > plausibility.MAX_SESSION_CAPACITIES:
        return False
    nominal = state[s.NOMINAL_CAPACITY_AH]
    closed[:] = np.nan
    closed[CLOSED_INDEX] = state[s.CYCLES]
    closed[CLOSED_DIRECTION] = direction
    closed[CLOSED_START_S] = state[s.SESSION_START_S]
    closed[CLOSED_END_S] = state[s.PLAUSIBLE_TIME_S]
    closed[CLOSED_THROUGHPUT_AH] = state[s.SESSION_CAPACITIES] * nominal
    signals = closed[CLOSED_SIGNALS:]
    edges = _EDGES[int(state[s.CHEMISTRY])]
    first, last = state[s.SESSION_FIRST_VOLTAGE_V], _rest_voltage(state)
    # A window counts only if the session crossed the whole of it.
    for k in range(s.N_WINDOWS):
        amount = state[s.SESSION_WINDOWS + k] * nominal
        if direction < 0.0 and first <= edges[k] and last >= edges[k + 1]:
            signals[_CHARGE_WINDOW + k] = amount
        elif direction > 0.0 and first >= edges[k + 1] and last <= edges[k]:
            signals[_DISCHARGE_WINDOW + k] = amount
    voltage = state[s.SESSION_VOLTAGE_SUM] / seconds
    current = state[s.SESSION_CAPACITIES] * 3600.0 / seconds * nominal
    if direction < 0.0:
        signals[_CHARGE_VOLTAGE], signals[_CHARGE_CURRENT] = voltage, current
    else:
        signals[_DISCHARGE_VOLTAGE], signals[_DISCHARGE_CURRENT] = voltage, current
    if has_resistance:
        signals[_RESISTANCE] = -state[s.SESSION_COVARIANCE] / state[s.SESSION_VARIANCE] / nominal
    if state[s.SESSION_SPREAD_SECONDS] > 0.0:
        signals[_SPREAD] = state[s.SESSION_SPREAD_SUM] / state[s.SESSION_SPREAD_SECONDS]
    cell_filter.read_signals(state, signals[_FILTER : _FILTER + cell_filter.N_SIGNALS])
    signals[_TEMPERATURE_MEAN] = state[s.SESSION_TEMPERATURE_SUM] / seconds
    signals[_TEMPERATURE_RISE] = state[s.TEMPERATURE_C] - state[s.SESSION_START_TEMPERATURE_C]
    push_cycle(state, state[s.CYCLES], signals)
    return True


@njit
def _share_in_window(low, high, a, b):  # type: ignore[no-untyped-def]
    """Share of the interval from `a` to `b` that lies within [low, high)."""
    bottom, top = min(a, b), max(a, b)
    if top == bottom:
        return 1.0 if low <= bottom < high else 0.0
    return max(0.0, min(top, high) - max(bottom, low)) / (top - bottom)


@njit
def _update_age(state, reported, time_s, cycles_moved):  # type: ignore[no-untyped-def]
    """Update the age by the pack's own count of cycles, or where that is missing or not believed by `cycles_moved`.

    A count that the throughput cannot explain is not believed until more readings confirm it, and one that has fallen
    never: it is the error of a sensor, or another pack under the same id.  Returns the bits of implausible kinds.
    """
    flags = 0
    if not np.isnan(reported):
        if state[s.AGE_CONTINUES] == 1.0:
            state[s.AGE_CONTINUES] = 0.0
            state[s.AGE_OFFSET] = state[s.CYCLES] - reported
        age = reported + state[s.AGE_OFFSET]
        is_first = np.isnan(state[s.AGE_TIME_S])
        slack = plausibility.AGE_SLACK_CYCLES
        if not is_first:
            slack += plausibility.AGE_SLACK_CYCLES_PER_HOUR * (time_s - state[s.AGE_TIME_S]) / 3600.0
        fallen = (
            age < state[s.CYCLES] * plausibility.AGE_FALL_SHARE and age < state[s.CYCLES] - plausibility.AGE_FALL_CYCLES
        )
        jumped = not is_first and age > state[s.CYCLES] + slack
        confirmed = False
        if fallen or jumped:
            drift = plausibility.AGE_SLACK_CYCLES
            if state[s.AGE_SUSPECT_COUNT] > 0.0:
                hours = (time_s - state[s.AGE_SUSPECT_SINCE_S]) / 3600.0
                drift += plausibility.AGE_SLACK_CYCLES_PER_HOUR * hours
            if not abs(age - state[s.AGE_SUSPECT]) <= drift:
                state[s.AGE_SUSPECT] = age
                state[s.AGE_SUSPECT_SINCE_S] = time_s
                state[s.AGE_SUSPECT_COUNT] = 0.0
            state[s.AGE_SUSPECT_COUNT] += 1.0
            confirmed = (
                state[s.AGE_SUSPECT_COUNT] >= plausibility.AGE_CONFIRMED_BY
                and time_s - state[s.AGE_SUSPECT_SINCE_S] >= plausibility.AGE_CONFIRMED_AFTER_S
            )
            # The count that falls back soon after the first one shows that the first one was the error.
            is_new = state[s.AGE_REPORTS] < plausibility.AGE_CONFIRMED_BY and np.isnan(state[s.LAST_CYCLE_INDEX])
            if fallen and is_new:
                flags = 1 << plausibility.CYCLE_COUNT
                state[s.CYCLES] = age
                state[s.AGE_REPORTS] = 0.0
                fallen = False
            elif fallen and confirmed:
                flags = 1 << plausibility.RESET
            elif fallen or not confirmed:
                flags = 1 << plausibility.CYCLE_COUNT
        if not fallen and (not jumped or confirmed):
            state[s.CYCLES] = max(state[s.CYCLES], age)
            state[s.AGE_REPORTS] += 1.0
            state[s.AGE_TIME_S] = time_s
            state[s.AGE_SUSPECT_COUNT] = 0.0
            return flags
    if not np.isnan(cycles_moved):
        state[s.CYCLES] += cycles_moved
    return flags


@njit
def _cell_voltage(state, pack_voltage):  # type: ignore[no-untyped-def]
    """The voltage of a cell, and whether it is plausible.

    NaN for a pack whose number of cells is not known; where the pack's voltage is that of a cell, it is one.
    """
    limits = _VOLTAGE_LIMITS_V[int(state[s.CHEMISTRY])]
    cells = state[s.CELLS_IN_SERIES]
    voltage = pack_voltage if np.isnan(cells) else pack_voltage / cells
    is_plausible = limits[0] <= voltage <= limits[1]
    return voltage if is_plausible or not np.isnan(cells) else np.nan, is_plausible


@njit
def _record_flags(state, flags, lasts):  # type: ignore[no-untyped-def]
    """Store the bits of the newest reading, with those of its session, and count the reading for each kind."""
    if state[s.SESSION_DIRECTION] != 0.0 and state[s.SESSION_CAPACITIES] > plausibility.MAX_SESSION_CAPACITIES:
        flags |= 1 << plausibility.THROUGHPUT
    if state[s.RESISTANCE_IS_NEGATIVE] == 1.0:
        flags |= 1 << plausibility.RESISTANCE
    if state[s.CAPACITY_JUMPS] >= plausibility.CAPACITY_CONFIRMED_BY:
        flags |= 1 << plausibility.CAPACITY
    for kind in range(plausibility.N_KINDS):
        if flags >> kind & 1:
            state[s.IMPLAUSIBLE_COUNT + kind] += 1.0
    if lasts:
        flags |= plausibility.WITHHOLD_BY_CYCLE | plausibility.WITHHOLD_BY_READING
    elif flags & (1 << plausibility.THROUGHPUT | 1 << plausibility.RESISTANCE):
        flags |= plausibility.WITHHOLD_BY_CYCLE
    state[s.IMPLAUSIBLE] = flags


@njit
def _stale_outcome(state, reading):  # type: ignore[no-untyped-def]
    """Why a reading that is not newer than the state is not applied."""
    if reading[0] < state[s.TIME_S] or np.isnan(reading[0]):
        return OLDER
    if reading[3] != state[s.TEMPERATURE_C]:
        return CONFLICT
    # The state holds the voltage and current of its newest plausible reading.
    if state[s.PLAUSIBLE_TIME_S] != state[s.TIME_S]:
        return DUPLICATE
    c_rate = reading[2] / state[s.NOMINAL_CAPACITY_AH]
    same_current = c_rate == state[s.C_RATE] or np.isnan(c_rate)
    voltage, _ = _cell_voltage(state, reading[1])
    same_voltage = voltage == state[s.CELL_VOLTAGE_V] or np.isnan(voltage)
    return DUPLICATE if same_current and same_voltage else CONFLICT


@njit
def step_reading(state, reading, closed):  # type: ignore[no-untyped-def]
    """Update `state` by one reading (order of `state.READING_INPUTS`, NaN = missing).

    Returns `OLDER`, `DUPLICATE` (the time and the values of the newest reading) or `CONFLICT` (its time and other
    values) if the reading was ignored because it is not newer than the state, `APPLIED` if it was applied, `CLOSED` if
    it also closed a session, whose summary is now in `closed`.
    """
    time_s = reading[0]
    if np.isnan(time_s) or time_s <= state[s.TIME_S]:
        return _stale_outcome(state, reading)
    nominal = state[s.NOMINAL_CAPACITY_AH]
    voltage, voltage_is_plausible = _cell_voltage(state, reading[1])
    c_rate = reading[2] / nominal
    temperature = reading[3]
    spread = reading[10] - reading[9]

    state[s.AMBIENT_C] = reading[5]
    state[s.TEMPERATURE_SPREAD_C] = temperature - reading[8]
    state[s.SPEED_KMH] = reading[11]
    state[s.IS_CHARGING] = reading[7]
    flags = 0 if voltage_is_plausible else 1 << plausibility.CELL_VOLTAGE
    if abs(c_rate) > plausibility.MAX_C_RATE:
        flags |= 1 << plausibility.CURRENT
    # The current of a pack whose number of cells was never known is used without a voltage.
    has_no_voltage = np.isnan(voltage) and np.isnan(state[s.CELL_VOLTAGE_V])
    if flags and not (has_no_voltage and flags == 1 << plausibility.CELL_VOLTAGE):
        # As if voltage and current had not been sent.
        flags |= _update_age(state, reading[6], time_s, np.nan)
        if not np.isnan(reading[4]):
            state[s.SOC] = reading[4]
        state[s.TIME_S] = time_s
        state[s.TEMPERATURE_C] = temperature
        _record_flags(state, flags, not time_s - state[s.PLAUSIBLE_TIME_S] <= s.MAX_GAP_S)
        return APPLIED

    dt = time_s - state[s.PLAUSIBLE_TIME_S]
    # False as well for the first reading, whose dt is NaN.
    connected = dt <= s.MAX_GAP_S and np.isnan(voltage) == np.isnan(state[s.CELL_VOLTAGE_V])
    summary = False
    if not connected:
        summary = _close_session(state, closed)
        state[s.SEGMENT_START_S] = time_s
        state[s.TAU_WEIGHT : s.TAU_WEIGHT + s.N_TAU] = 0.0

    # Charge since the last reading, by the trapezoidal rule.
    previous_rest_voltage = _rest_voltage(state)
    mean_c_rate = 0.5 * (c_rate + state[s.C_RATE])
    mean_voltage = 0.5 * (voltage + state[s.CELL_VOLTAGE_V])
    mean_temperature = 0.5 * (temperature + state[s.TEMPERATURE_C])
    capacities = mean_c_rate * dt / 3600.0

    for h in range(s.N_TAU):
        if connected:
            keep = np.exp(-dt / _TAU_S[h])
            weight = state[s.TAU_WEIGHT + h] * keep + (1.0 - keep)
            gain = (1.0 - keep) / weight
            square = (c_rate * c_rate + c_rate * state[s.C_RATE] + state[s.C_RATE] * state[s.C_RATE]) / 3.0
            state[s.TAU_WEIGHT + h] = weight
            state[s.TAU_C_RATE + h] += gain * (mean_c_rate - state[s.TAU_C_RATE + h])
            state[s.TAU_C_RATE_SQUARE + h] += gain * (square - state[s.TAU_C_RATE_SQUARE + h])
            state[s.TAU_TEMPERATURE + h] += gain * (mean_temperature - state[s.TAU_TEMPERATURE + h])
            state[s.TAU_VOLTAGE + h] += gain * (mean_voltage - state[s.TAU_VOLTAGE + h])
        else:
            state[s.TAU_C_RATE + h] = c_rate
            state[s.TAU_C_RATE_SQUARE + h] = c_rate * c_rate
            state[s.TAU_TEMPERATURE + h] = temperature
            state[s.TAU_VOLTAGE + h] = voltage

    # Age: the pack's own cycle count if it sends one, else from throughput.
    flags |= _update_age(state, reading[6], time_s, abs(capacities) / 2.0 if connected else np.nan)

    if not np.isnan(reading[4]):
        state[s.SOC] = reading[4]
    elif connected and not np.isnan(capacities):
        state[s.SOC] = min(max(state[s.SOC] - 100.0 * capacities, 0.0), 100.0)

    # Accumulate the interval since the last reading in the open session.
    direction = state[s.SESSION_DIRECTION]
    if connected and direction != 0.0:
        state[s.SESSION_SECONDS] += dt
        state[s.SESSION_CAPACITIES] += capacities * direction
        state[s.SESSION_VOLTAGE_SUM] += mean_voltage * dt
        state[s.SESSION_TEMPERATURE_SUM] += mean_temperature * dt
        if not np.isnan(spread):
            state[s.SESSION_SPREAD_SUM] += spread * dt
            state[s.SESSION_SPREAD_SECONDS] += dt
        dv = voltage - state[s.TAU_VOLTAGE]
        di = c_rate - state[s.TAU_C_RATE]
        state[s.SESSION_COVARIANCE] += dv * di * dt
        state[s.SESSION_VARIANCE] += di * di * dt
        edges = _EDGES[int(state[s.CHEMISTRY])]
        rest_voltage = _rest_voltage(state)
        for k in range(s.N_WINDOWS):
            share = _share_in_window(edges[k], edges[k + 1], previous_rest_voltage, rest_voltage)
            state[s.SESSION_WINDOWS + k] += share * capacities * direction

    cell_filter.update(state, time_s, voltage, c_rate, temperature, reading[4])

    state[s.TIME_S] = time_s
    state[s.CELL_VOLTAGE_V] = voltage
    state[s.C_RATE] = c_rate
    state[s.TEMPERATURE_C] = temperature
    state[s.CELL_VOLTAGE_SPREAD_V] = spread
    state[s.PLAUSIBLE_TIME_S] = time_s

    # A session lasts while the two-minute mean current keeps its sign; regenerative braking is too short to reverse it.
    mean = state[s.TAU_C_RATE]
    new_direction = 0.0
    if mean > SESSION_C_RATE:
        new_direction = 1.0
    elif mean < -SESSION_C_RATE:
        new_direction = -1.0
    if new_direction != state[s.SESSION_DIRECTION]:
        if connected:
            summary = _close_session(state, closed)
        if new_direction != 0.0:
            _open_session(state, new_direction)
    _record_flags(state, flags, False)
    return CLOSED if summary else APPLIED
