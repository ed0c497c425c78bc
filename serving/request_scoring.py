"""From a question to its answer: fold what happened, then predict at the snapshots that were asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from features import step
from features.state import READING_INPUTS, FloatArray, new_states
from features.state_update import BoolArray, IntArray, update_from_cycles
from serving.feature_snapshots import FeatureSnapshots, update_states, snapshots_of, update_each, update_each_with_sessions
from serving.predictor import Predictor, TargetValues
from telemetry.contract import SIGNALS

#: FeatureSnapshots that are held at a time: their features take 2 kB each.
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class ScoringRequest:
    """What k batteries have said, whether to predict after each reading or after the last one only, and whether
    the sessions that ended are asked for.

    Attributes:
        battery_ids: k ids.
        states: float64[k, STATE_SIZE], before everything else here; changed when the question is answered.
        cycles: float64[m, 1 + len(SIGNALS)], each battery's by index; applied before `readings`.
        cycles_of: int64[m], the row of `states` that each belongs to.
        readings: float64[n, len(READING_INPUTS)], each battery's in time order.
        readings_of: int64[n], ascending.
    """

    battery_ids: list[str]
    states: FloatArray
    cycles: FloatArray
    cycles_of: IntArray
    readings: FloatArray
    readings_of: IntArray
    every_reading: bool = False
    closed_cycles: bool = False


@dataclass(frozen=True)
class ScoringResult:
    """Some of the n snapshots that a question asked for, in its order.

    Attributes:
        battery_row: int64[n], the battery of each, as a row of the question.
        is_last: bool[n], whether it is the battery's last moment, so that its state is final.
        snapshots, predicted: at each; `predicted` by target.
        stale_readings, stale_cycles: int64[n], how many were not newer than the state and so were not applied.
        closed: float64[m, CLOSED_SIZE], the sessions that ended; see `features.state_update.closed_table`.
        closed_at: int64[m], the moment by which each had ended.
    """

    battery_row: IntArray
    is_last: BoolArray
    snapshots: FeatureSnapshots
    predicted: Mapping[str, TargetValues]
    stale_readings: IntArray
    stale_cycles: IntArray
    closed: FloatArray
    closed_at: IntArray


def score_request(question: ScoringRequest, predictor: Predictor) -> Iterator[ScoringResult]:
    """Fold everything in `question` into its states and predict, in parts of bounded size."""
    states = question.states
    stale_cycles = np.zeros(len(states), dtype=np.int64)
    if len(question.cycles):
        applied = update_from_cycles(states, question.cycles_of, question.cycles).applied
        stale_cycles += np.bincount(question.cycles_of[~applied], minlength=len(states))
    if question.every_reading:
        yield from _after_each_reading(question, predictor, stale_cycles)
        return
    applied, closed = update_states(states, question.readings_of, question.readings)
    stale_readings = np.bincount(question.readings_of[~applied], minlength=len(states))
    everyone = np.arange(len(states))
    snapshots = snapshots_of(states)
    yield ScoringResult(
        everyone,
        np.ones(len(states), dtype=np.bool_),
        snapshots,
        predictor.predict_snapshots(snapshots),
        stale_readings,
        stale_cycles,
        closed,
        closed[:, step.CLOSED_BATTERY].astype(np.int64),
    )


def _after_each_reading(question: ScoringRequest, predictor: Predictor, stale_cycles: IntArray) -> Iterator[ScoringResult]:
    rows, readings = _with_silent_batteries(question)
    ends = np.append(rows[1:] != rows[:-1], True)
    for start in range(0, len(rows), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        snapshots, applied, closed = update_each_with_sessions(question.states, rows[part], readings[part])
        stale = ~applied & ~np.isnan(readings[part, 0])
        yield ScoringResult(
            rows[part],
            ends[part],
            snapshots,
            predictor.predict_snapshots(snapshots),
            stale.astype(np.int64),
            np.where(ends[part], stale_cycles[rows[part]], 0),
            closed,
            closed[:, step.CLOSED_READING].astype(np.int64),
        )


def _with_silent_batteries(question: ScoringRequest) -> tuple[IntArray, FloatArray]:
    """The readings, and one without a time, which no state takes, for every battery that has none."""
    silent = np.setdiff1d(np.arange(len(question.states)), question.readings_of)
    if not len(silent):
        return question.readings_of, question.readings
    at = np.searchsorted(question.readings_of, silent)
    return np.insert(question.readings_of, at, silent), np.insert(question.readings, at, np.nan, axis=0)


def compile_state_update() -> None:
    """Fold a made-up history, so that no request waits for the fold to be compiled."""
    states, row = new_states(1), np.zeros(1, dtype=np.int64)
    update_from_cycles(states, row, np.ones((1, 1 + len(SIGNALS))))
    for fold in (update_states, update_each):
        fold(states, row, np.zeros((1, len(READING_INPUTS))))
    snapshots_of(states)
