"""FeatureSnapshots: what the forests predict from, as of now or after each of many readings.

The service, the stream scorer and the database predictor all fold through here, so that a battery gets the
same numbers, bit for bit, whether its readings come one by one or a thousand at once.
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

# What a moment tells besides its features, as slots of the state.
_FACTS = np.array([s.TIME_S, s.CYCLES, s.CYCLES_SEEN, s.NOMINAL_CAPACITY_AH])


@dataclass(frozen=True)
class FeatureSnapshots:
    """Everything that is predicted from, as of n moments of any batteries.

    Attributes:
        reading_features: float64[n, len(READING_FEATURES)].
        cycle_features: float64[n, len(CYCLE_FEATURES)].
        time_s: float64[n], time of the newest reading in seconds since the epoch, NaN before the first.
        cycles: float64[n], age in equivalent full cycles.
        cycles_seen: int64[n], cycles and sessions that were summarised so far.
        has_reading: bool[n].
        nominal_capacity_known: bool[n].
    """

    reading_features: FloatArray
    cycle_features: FloatArray
    time_s: FloatArray
    cycles: FloatArray
    cycles_seen: IntArray
    has_reading: BoolArray
    nominal_capacity_known: BoolArray

    def __len__(self) -> int:
        return len(self.time_s)

    def where(self, mask: BoolArray) -> FeatureSnapshots:
        """Those of the n moments at which `mask`, bool[n], is true."""
        if mask.all():
            return self
        return FeatureSnapshots(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    def late(self, folded: BoolArray, time_s: FloatArray) -> BoolArray:
        """bool[n]: which of the readings, of `time_s`, that were not `folded` are older than their battery's state.

        The others are of the very time of the state: the newest reading once more, which says nothing.
        """
        return ~folded & (time_s < self.time_s)


def concatenate(parts: Sequence[FeatureSnapshots]) -> FeatureSnapshots:
    """The moments of all `parts`, at least one, in order."""
    return FeatureSnapshots(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(FeatureSnapshots))
    )


def snapshots_of(states: FloatArray) -> FeatureSnapshots:
    """The moment at which each of `states`, float64[n, STATE_SIZE], stands."""
    rows = _new_rows(len(states))
    _read_all(states, *rows)
    return _moments(*rows)


def advance(states: FloatArray, battery_row: IntArray, readings: FloatArray) -> tuple[BoolArray, FloatArray]:
    """Fold as `update_each_with_sessions` does, keeping no moment: only what was folded and the sessions that ended."""
    folded, closed = np.zeros(len(readings), dtype=np.bool_), np.empty((len(readings), step.CLOSED_SIZE))
    count = _advance(states, battery_row, readings, folded, closed)
    return folded, closed[:count].copy()


def update_each(states: FloatArray, battery_row: IntArray, readings: FloatArray) -> tuple[FeatureSnapshots, BoolArray]:
    """Fold `readings` into `states`, in place, and keep the moment after each.

    Args:
        states: float64[k, STATE_SIZE].
        battery_row: int64[n], the row of `states` that each reading belongs to.
        readings: float64[n, len(READING_INPUTS)], any interleaving of batteries.

    Returns:
        The n moments, and bool[n]: False where a reading was not newer than its battery's state and so was
        left out; its moment is the one before it.
    """
    return update_each_with_sessions(states, battery_row, readings)[:2]


def update_each_with_sessions(
    states: FloatArray, battery_row: IntArray, readings: FloatArray
) -> tuple[FeatureSnapshots, BoolArray, FloatArray]:
    """As `update_each`, and the sessions that ended, float64[m, CLOSED_SIZE]: see `state_update.closed_table`."""
    rows = _new_rows(len(readings))
    folded, closed = np.zeros(len(readings), dtype=np.bool_), np.empty((len(readings), step.CLOSED_SIZE))
    count = _fold_all(states, battery_row, readings, folded, closed, *rows)
    return _moments(*rows), folded, closed[:count].copy()


def _new_rows(n: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    return (
        np.empty((n, len(state_update.READING_FEATURES))),
        np.empty((n, len(state_update.CYCLE_FEATURES))),
        np.empty((n, len(_FACTS))),
    )


def _moments(reading_features: FloatArray, cycle_features: FloatArray, facts: FloatArray) -> FeatureSnapshots:
    time_s, cycles, cycles_seen, nominal_capacity_ah = facts.T
    return FeatureSnapshots(
        reading_features=reading_features,
        cycle_features=cycle_features,
        time_s=time_s,
        cycles=cycles,
        cycles_seen=cycles_seen.astype(np.int64),
        has_reading=~np.isnan(time_s),
        nominal_capacity_known=~np.isnan(nominal_capacity_ah),
    )


@njit
def _read(state, reading_features, cycle_features, facts):  # type: ignore[no-untyped-def]
    state_update.read_reading_features(state, reading_features)
    state_update.read_cycle_features(state, cycle_features)
    for k in range(len(_FACTS)):
        facts[k] = state[_FACTS[k]]


@njit
def _read_all(states, reading_features, cycle_features, facts):  # type: ignore[no-untyped-def]
    for i in range(len(states)):
        _read(states[i], reading_features[i], cycle_features[i], facts[i])


@njit
def _step(states, battery_row, readings, i, folded, closed, count):  # type: ignore[no-untyped-def]
    """Fold reading `i`; how many sessions have ended by now, their summaries being the first rows of `closed`."""
    outcome = step.step_reading(states[battery_row[i]], readings[i], closed[count])
    folded[i] = outcome > 0
    if outcome < 2:
        return count
    closed[count, step.CLOSED_BATTERY] = battery_row[i]
    closed[count, step.CLOSED_READING] = i
    return count + 1


@njit
def _advance(states, battery_row, readings, folded, closed):  # type: ignore[no-untyped-def]
    count = 0
    for i in range(len(battery_row)):
        count = _step(states, battery_row, readings, i, folded, closed, count)
    return count


@njit
def _fold_all(  # type: ignore[no-untyped-def]
    states, battery_row, readings, folded, closed, reading_features, cycle_features, facts
):
    count = 0
    for i in range(len(battery_row)):
        count = _step(states, battery_row, readings, i, folded, closed, count)
        _read(states[battery_row[i]], reading_features[i], cycle_features[i], facts[i])
    return count
