"""Updates battery states with readings and extracts feature snapshots, the model inputs after each reading.

The service, the stream scorer and the database predictor share this code, so that a battery gets bitwise the same
predictions whether its readings arrive one by one or in batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numba import njit

from features import state as s
from features import state_update, step
from features.state import FloatArray
from features.state_update import BoolArray, IntArray

# State slots that a snapshot holds besides the features.
_STATE_SLOTS = np.array(
    [s.TIME_S, s.CYCLES, s.CYCLES_SEEN, s.NOMINAL_CAPACITY_AH, s.CHEMISTRY, s.PLAUSIBLE_TIME_S, s.IMPLAUSIBLE]
)


@dataclass(frozen=True)
class FeatureSnapshots:
    """Model inputs of n snapshots of any batteries.

    Attributes:
        reading_features: float64[n, len(READING_FEATURES)].
        cycle_features: float64[n, len(CYCLE_FEATURES)].
        time_s: float64[n], time of the newest reading in seconds since the epoch, NaN before the first.
        cycles: float64[n], age in equivalent full cycles.
        cycles_seen: int64[n], cycles and sessions summarised so far.
        has_reading: bool[n], whether there was a plausible reading.
        nominal_capacity_ah: float64[n], NaN where unknown.
        chemistry: int64[n], index in `CHEMISTRY_NAMES`.
        flags: int64[n], bits of the newest reading, see `features.plausibility`.
    """

    reading_features: FloatArray
    cycle_features: FloatArray
    time_s: FloatArray
    cycles: FloatArray
    cycles_seen: IntArray
    has_reading: BoolArray
    nominal_capacity_ah: FloatArray
    chemistry: IntArray
    flags: IntArray

    def __len__(self) -> int:
        return len(self.time_s)

    @property
    def nominal_capacity_known(self) -> BoolArray:
        """Whether the features relative to the nominal capacity exist, bool[n]."""
        return ~np.isnan(self.nominal_capacity_ah)

    def where(self, mask: BoolArray) -> FeatureSnapshots:
        """The snapshots where `mask`, bool[n], is true."""
        if mask.all():
            return self
        return FeatureSnapshots(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})


def concatenate(parts: Sequence[FeatureSnapshots]) -> FeatureSnapshots:
    """Concatenate the snapshots of `parts` (at least one)."""
    return FeatureSnapshots(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(FeatureSnapshots))
    )


def snapshots_of(states: FloatArray) -> FeatureSnapshots:
    """Extract a snapshot of each of `states`, float64[n, STATE_SIZE]."""
    rows = _new_rows(len(states))
    _read_all(states, *rows)
    return _to_snapshots(*rows)


def update_states(states: FloatArray, battery_row: IntArray, readings: FloatArray) -> tuple[IntArray, FloatArray]:
    """As `update_each_with_sessions`, without snapshots: the outcome of each reading, and the sessions that ended."""
    outcomes, closed = np.zeros(len(readings), dtype=np.int64), np.empty((len(readings), step.CLOSED_SIZE))
    count = _update_all(states, battery_row, readings, outcomes, closed)
    return outcomes, closed[:count].copy()


def update_each(states: FloatArray, battery_row: IntArray, readings: FloatArray) -> tuple[FeatureSnapshots, BoolArray]:
    """Update `states` in place with `readings` and take a snapshot after each reading.

    Args:
        states: float64[k, STATE_SIZE].
        battery_row: int64[n], the row of `states` that each reading belongs to.
        readings: float64[n, len(READING_INPUTS)], any interleaving of batteries.

    Returns:
        The n snapshots, and bool[n]: False where a reading was not applied because it was not newer than its
        battery's state; its snapshot is that of the unchanged state.
    """
    snapshots, outcomes, _ = update_each_with_sessions(states, battery_row, readings)
    return snapshots, outcomes > 0


def update_each_with_sessions(
    states: FloatArray, battery_row: IntArray, readings: FloatArray
) -> tuple[FeatureSnapshots, IntArray, FloatArray]:
    """As `update_each`, with outcomes and sessions.

    Returns:
        The n snapshots, int64[n]: the outcome of each reading, see `features.step.step_reading`, and the sessions that
        ended, float64[m, CLOSED_SIZE], see `state_update.closed_table`.
    """
    rows = _new_rows(len(readings))
    outcomes, closed = np.zeros(len(readings), dtype=np.int64), np.empty((len(readings), step.CLOSED_SIZE))
    count = _update_all_with_snapshots(states, battery_row, readings, outcomes, closed, *rows)
    return _to_snapshots(*rows), outcomes, closed[:count].copy()


def _new_rows(n: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    return (
        np.empty((n, len(state_update.READING_FEATURES))),
        np.empty((n, len(state_update.CYCLE_FEATURES))),
        np.empty((n, len(_STATE_SLOTS))),
    )


def _to_snapshots(reading_features: FloatArray, cycle_features: FloatArray, slots: FloatArray) -> FeatureSnapshots:
    time_s, cycles, cycles_seen, nominal_capacity_ah, chemistry, plausible_time_s, flags = slots.T
    return FeatureSnapshots(
        reading_features=reading_features,
        cycle_features=cycle_features,
        time_s=time_s,
        cycles=cycles,
        cycles_seen=cycles_seen.astype(np.int64),
        has_reading=~np.isnan(plausible_time_s),
        nominal_capacity_ah=nominal_capacity_ah,
        chemistry=chemistry.astype(np.int64),
        flags=flags.astype(np.int64),
    )


@njit
def _read(state, reading_features, cycle_features, slots):  # type: ignore[no-untyped-def]
    state_update.read_reading_features(state, reading_features)
    state_update.read_cycle_features(state, cycle_features)
    for k in range(len(_STATE_SLOTS)):
        slots[k] = state[_STATE_SLOTS[k]]


@njit
def _read_all(states, reading_features, cycle_features, slots):  # type: ignore[no-untyped-def]
    for i in range(len(states)):
        _read(states[i], reading_features[i], cycle_features[i], slots[i])


@njit
def _update_one(states, battery_row, readings, i, outcomes, closed, count):  # type: ignore[no-untyped-def]
    """Apply reading `i`; returns the number of sessions ended so far, summarised in the first rows of `closed`."""
    outcomes[i] = step.step_reading(states[battery_row[i]], readings[i], closed[count])
    if outcomes[i] != step.CLOSED:
        return count
    closed[count, step.CLOSED_BATTERY] = battery_row[i]
    closed[count, step.CLOSED_READING] = i
    return count + 1


@njit
def _update_all(states, battery_row, readings, outcomes, closed):  # type: ignore[no-untyped-def]
    count = 0
    for i in range(len(battery_row)):
        count = _update_one(states, battery_row, readings, i, outcomes, closed, count)
    return count


@njit
def _update_all_with_snapshots(  # type: ignore[no-untyped-def]
    states, battery_row, readings, outcomes, closed, reading_features, cycle_features, slots
):
    count = 0
    for i in range(len(battery_row)):
        count = _update_one(states, battery_row, readings, i, outcomes, closed, count)
        _read(states[battery_row[i]], reading_features[i], cycle_features[i], slots[i])
    return count
