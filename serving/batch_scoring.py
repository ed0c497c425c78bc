"""Scores a batch of readings: updates states and converts predictions and closed sessions to rows; no I/O.

Shared by the stream scorer and the database predictor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from features import step
from features.plausibility import count_by_kind
from features.state import FloatArray
from features.state_update import BoolArray, IntArray
from serving.feature_snapshots import update_each_with_sessions
from serving.scorer import Scorer
from serving.session_rows import cycle_rows
from telemetry.batch import Batch, Row


@dataclass(frozen=True)
class BatchReadings:
    """n readings of k batteries, each battery's in order of arrival.

    Attributes:
        battery_ids: k ids.
        battery_row: int64[n], index of each reading's battery in `battery_ids`.
        matrix: float64[n, len(READING_INPUTS)], input of the state update.
        soh: float64[n], percent, reported with each reading; NaN where missing.
        rows_where: the contract rows where a mask, bool[n], is true.
    """

    battery_ids: Sequence[str]
    battery_row: IntArray
    matrix: FloatArray
    soh: FloatArray
    rows_where: Callable[[BoolArray], list[Row]]


@dataclass(frozen=True)
class BatchResult:
    """Rows, entries and counts of one batch.

    Attributes:
        batch: rows for the store: predictions, closed sessions, late readings and, if requested, readings.
        entries: the champion's predictions, one entry for each predicted reading.
        predictions: number of predictions by role and target.
        history: readings that updated a state without a prediction.
        late: readings older than their battery's state, not applied.
        duplicates: readings with the time of their battery's state, not applied.
        conflicts: those of the duplicates whose values differ from the newest reading.
        implausible: applied readings of each kind of `features.plausibility`, by its name.
    """

    batch: Batch
    entries: Sequence[dict[str, Any]]
    predictions: Counter[tuple[str, str]]
    history: int
    late: int
    duplicates: int
    conflicts: int
    implausible: Counter[str]


def score_readings(
    readings: BatchReadings,
    states: FloatArray,
    scorer: Scorer,
    *,
    now: datetime,
    stores_readings: bool,
    predict_after: FloatArray | float = float("-inf"),
) -> BatchResult:
    """Update `states` (float64[k, STATE_SIZE], in place) and predict after each applied reading.

    A reading that is not newer than its battery's state gets no prediction.  If it is older, it is late: it is stored
    and flagged.  If it has the time of the state, it is a duplicate and dropped.

    Args:
        scorer: predictions of its challenger are stored, but have no entries.
        now: current wall-clock time, timezone-aware.
        stores_readings: whether to store the readings, too.
        predict_after: seconds since the epoch, float64[n] or for all: readings up to this time are not predicted.
    """
    time_s = readings.matrix[:, 0]
    snapshots, outcomes, closed = update_each_with_sessions(states, readings.battery_row, readings.matrix)
    applied, late = outcomes > 0, outcomes == step.OLDER
    predicted = applied & (time_s > predict_after)
    battery_ids = [readings.battery_ids[row] for row in readings.battery_row[predicted]]
    scores = scorer.score(battery_ids, snapshots.where(predicted), now)
    return BatchResult(
        batch=Batch(
            readings=readings.rows_where(applied) if stores_readings else [],
            predictions=scores.rows,
            cycles=cycle_rows(closed, readings.battery_ids, battery_row=readings.battery_row, soh=readings.soh),
            late=readings.rows_where(late),
        ),
        entries=scores.entries,
        predictions=Counter((str(row["role"]), str(row["target"])) for row in scores.rows),
        history=int((applied & ~predicted).sum()),
        late=int(late.sum()),
        duplicates=int((outcomes < step.OLDER).sum()),
        conflicts=int((outcomes == step.CONFLICT).sum()),
        implausible=count_by_kind(snapshots.flags[applied]),
    )
