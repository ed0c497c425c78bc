"""Scores the readings of a checkpoint: updates states and converts predictions to rows and messages; no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import orjson

from features.state import FloatArray
from features.state_update import closed_table
from serving.feature_snapshots import update_each_with_sessions
from serving.prediction_rows import Role
from serving.predictor import TargetValues
from serving.response import prediction_messages
from serving.scorer import Scorer
from serving.session_rows import cycle_rows
from serving.stream.message_parser import ParsedReadings
from telemetry.batch import Batch, Row


@dataclass(frozen=True)
class CheckpointResult:
    """Rows, messages and counts of one checkpoint.

    Attributes:
        batch: rows for the store: predictions, closed sessions, late readings and, if requested, readings.
        messages: for the prediction topic: battery id and content.
        predictions: number of predictions by role and target.
        late: readings older than their battery's state, not applied.
        duplicates: readings with the time of their battery's state, not applied.
    """

    batch: Batch
    messages: Sequence[tuple[str, bytes]]
    predictions: Counter[tuple[Role, str]]
    late: int
    duplicates: int


def score_checkpoint(
    readings: ParsedReadings, states: FloatArray, scorer: Scorer, *, now: datetime, stores_readings: bool
) -> CheckpointResult:
    """Update `states` (float64[batteries, STATE_SIZE], in place) and predict after each applied reading.

    A reading that is not newer than its battery's state gets no prediction.  If it is older, it is late: it is stored
    and flagged.  If it has the time of the state, it is a duplicate and dropped.

    Args:
        scorer: predictions of its challenger are stored, but not sent.
        now: current wall-clock time, timezone-aware.
        stores_readings: whether to store the readings, too.
    """
    snapshots, applied, closed = update_each_with_sessions(states, readings.battery_row, readings.matrix)
    late = snapshots.late(applied, readings.matrix[:, 0])
    new_snapshots = snapshots.where(applied)
    battery_ids = [readings.battery_ids[row] for row in readings.battery_row[applied]]
    scores = scorer.score(new_snapshots)
    champion = scorer.champion
    entries = prediction_messages(battery_ids, new_snapshots, scores.champion, champion.label, champion.horizons)
    return CheckpointResult(
        batch=Batch(
            readings=[vars(reading) for reading in readings.where(applied)] if stores_readings else [],
            predictions=scorer.rows(battery_ids, new_snapshots, scores, predicted_at=now),
            cycles=_sessions(readings, closed),
            late=[vars(reading) for reading in readings.where(late)],
        ),
        messages=[(entry["battery_id"], orjson.dumps(entry)) for entry in entries],
        predictions=_count("champion", scores.champion) + _count("challenger", scores.challenger or {}),
        late=int(late.sum()),
        duplicates=int((~applied).sum() - late.sum()),
    )


def _sessions(readings: ParsedReadings, closed: FloatArray) -> list[Row]:
    """The charge and discharge sessions that ended, as rows of `battery_cycles`."""
    if not len(closed):
        return []
    soh = np.array([vars(reading)["soh"] for reading in readings.rows], dtype=np.float64)
    return cycle_rows(closed_table(closed), readings.battery_ids, battery_row=readings.battery_row, soh=soh)


def _count(role: Role, predicted: Mapping[str, TargetValues]) -> Counter[tuple[Role, str]]:
    return Counter({(role, target): int((~np.isnan(values.values)).sum()) for target, values in predicted.items()})
