"""Scores a decoded prediction request: updates the battery states, then predicts from feature snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from features import step
from features.plausibility import kinds_of
from features.state import READING_INPUTS, FloatArray, implausible_counts, new_states
from features.state_update import BoolArray, IntArray, update_from_cycles
from serving.feature_snapshots import (
    FeatureSnapshots,
    snapshots_of,
    update_each,
    update_each_with_sessions,
    update_states,
)
from serving.predictor import Predictor, TargetValues
from telemetry.contract import SIGNALS

#: Readings scored at a time with `every_reading`: the features of a snapshot take 2 kB.
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class ScoringRequest:
    """States, cycles and readings of k batteries, and which results are requested.

    Attributes:
        battery_ids: k ids.
        states: float64[k, STATE_SIZE], before the cycles and readings; updated in place by `score_request`.
        cycles: float64[m, 1 + len(SIGNALS)], each battery's by index; applied before `readings`.
        cycles_of: int64[m], row of `states` of each cycle.
        readings: float64[n, len(READING_INPUTS)], each battery's in time order.
        readings_of: int64[n], row of `states` of each reading, ascending.
        every_reading: predict after each reading instead of after each battery's last one.
        closed_cycles: return the sessions that ended.
        reasons: return the strongest contributions to the predictions.
    """

    battery_ids: list[str]
    states: FloatArray
    cycles: FloatArray
    cycles_of: IntArray
    readings: FloatArray
    readings_of: IntArray
    every_reading: bool = False
    closed_cycles: bool = False
    reasons: bool = False


@dataclass(frozen=True)
class ScoringResult:
    """Results for n snapshots: all or, in request order, a part of those that were requested.

    Attributes:
        battery_row: int64[n], the battery of each, as a row of the request.
        is_last: bool[n], whether it is the battery's last snapshot, so that its state is final.
        snapshots: the n snapshots.
        predicted: predictions for them, by target.
        stale_readings, stale_cycles: int64[n], how many were older than the state and therefore not applied.
        duplicates, conflicts: int64[n], how many readings have the time of the newest one, and its values or others.
        implausible: int64[n, N_KINDS], how many readings were of each kind of `features.plausibility`.
        closed: float64[m, CLOSED_SIZE], the sessions that ended; see `features.state_update.closed_table`.
        closed_at: int64[m], the snapshot at which each session had ended.
    """

    battery_row: IntArray
    is_last: BoolArray
    snapshots: FeatureSnapshots
    predicted: Mapping[str, TargetValues]
    stale_readings: IntArray
    stale_cycles: IntArray
    duplicates: IntArray
    conflicts: IntArray
    implausible: IntArray
    closed: FloatArray
    closed_at: IntArray


def score_request(request: ScoringRequest, predictor: Predictor) -> Iterator[ScoringResult]:
    """Update the states of `request` with its cycles and readings and predict, in parts of bounded size."""
    states = request.states
    stale_cycles = np.zeros(len(states), dtype=np.int64)
    if len(request.cycles):
        applied = update_from_cycles(states, request.cycles_of, request.cycles).applied
        stale_cycles += np.bincount(request.cycles_of[~applied], minlength=len(states))
    if request.every_reading:
        yield from _score_each_reading(request, predictor, stale_cycles)
        return
    before = implausible_counts(states)
    outcomes, closed = update_states(states, request.readings_of, request.readings)
    older = duplicates = conflicts = np.zeros(len(states), dtype=np.int64)
    if not (outcomes > 0).all():
        older, duplicates, conflicts = (
            np.bincount(request.readings_of[outcomes == outcome], minlength=len(states))
            for outcome in (step.OLDER, step.DUPLICATE, step.CONFLICT)
        )
    snapshots = snapshots_of(states)
    yield ScoringResult(
        np.arange(len(states)),
        np.ones(len(states), dtype=np.bool_),
        snapshots,
        predictor.predict_snapshots(snapshots, with_reasons=request.reasons),
        older,
        stale_cycles,
        duplicates,
        conflicts,
        # A kind that lasts withholds predictions, also without new readings.
        np.maximum(implausible_counts(states) - before, kinds_of(snapshots.flags)),
        closed,
        closed[:, step.CLOSED_BATTERY].astype(np.int64),
    )


def _score_each_reading(
    request: ScoringRequest, predictor: Predictor, stale_cycles: IntArray
) -> Iterator[ScoringResult]:
    rows, readings = _with_placeholder_readings(request)
    ends = np.append(rows[1:] != rows[:-1], True)
    for start in range(0, len(rows), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        snapshots, outcomes, closed = update_each_with_sessions(request.states, rows[part], readings[part])
        older = (outcomes == step.OLDER) & ~np.isnan(readings[part, 0])
        yield ScoringResult(
            rows[part],
            ends[part],
            snapshots,
            predictor.predict_snapshots(snapshots, with_reasons=request.reasons),
            older.astype(np.int64),
            np.where(ends[part], stale_cycles[rows[part]], 0),
            (outcomes == step.DUPLICATE).astype(np.int64),
            (outcomes == step.CONFLICT).astype(np.int64),
            kinds_of(snapshots.flags) * (outcomes > 0)[:, None],
            closed,
            closed[:, step.CLOSED_READING].astype(np.int64),
        )


def _with_placeholder_readings(request: ScoringRequest) -> tuple[IntArray, FloatArray]:
    """The readings, with a placeholder for each battery without any: its time is NaN, so it is never applied."""
    without = np.setdiff1d(np.arange(len(request.states)), request.readings_of)
    if not len(without):
        return request.readings_of, request.readings
    at = np.searchsorted(request.readings_of, without)
    return np.insert(request.readings_of, at, without), np.insert(request.readings, at, np.nan, axis=0)


def compile_state_update() -> None:
    """Compile the state update by calling it with dummy data, so that no request waits for the compiler."""
    states, row = new_states(1), np.zeros(1, dtype=np.int64)
    update_from_cycles(states, row, np.ones((1, 1 + len(SIGNALS))))
    for update in (update_states, update_each):
        update(states, row, np.zeros((1, len(READING_INPUTS))))
    snapshots_of(states)
