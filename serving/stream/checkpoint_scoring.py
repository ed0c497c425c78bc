"""From the readings of a checkpoint to what is stored and sent: one fold, one call for each forest; no I/O."""

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
from serving.stream.message_parser import Readings
from telemetry.batch import Batch, Row


@dataclass(frozen=True)
class Scored:
    """What one checkpoint says.

    Attributes:
        batch: for the store: predictions, and the readings that it has to take over.
        messages: for the topic of predictions: battery id and content.
        predictions: how many were given, by role and target.
        late: readings older than their battery's state, not folded.
        duplicates: readings of the time at which their battery's state stands, not folded.
    """

    batch: Batch
    messages: Sequence[tuple[str, bytes]]
    predictions: Counter[tuple[Role, str]]
    late: int
    duplicates: int


def score(readings: Readings, states: FloatArray, scorer: Scorer, *, now: datetime, stores_readings: bool) -> Scored:
    """Fold `readings` into `states` (float64[batteries, STATE_SIZE], in place) and predict after each that was folded.

    A reading that is not newer than its battery's state gets no prediction.  It is stored and flagged if it is
    late; one for the very time of the state is the newest reading again and says nothing.

    Args:
        scorer: what its challenger says is stored beside the champion's predictions and sent nowhere.
        now: wall clock, with its zone.
        stores_readings: whether the readings themselves are stored, too.
    """
    moments, folded, closed = update_each_with_sessions(states, readings.battery_row, readings.matrix)
    late = moments.late(folded, readings.matrix[:, 0])
    given = moments.where(folded)
    battery_ids = [readings.battery_ids[row] for row in readings.battery_row[folded]]
    scores = scorer.score(given)
    champion = scorer.champion
    entries = prediction_messages(battery_ids, given, scores.champion, champion.label, champion.horizons)
    return Scored(
        batch=Batch(
            readings=[vars(reading) for reading in readings.where(folded)] if stores_readings else [],
            predictions=scorer.rows(battery_ids, given, scores, predicted_at=now),
            cycles=_sessions(readings, closed),
            late=[vars(reading) for reading in readings.where(late)],
        ),
        messages=[(entry["battery_id"], orjson.dumps(entry)) for entry in entries],
        predictions=_count("champion", scores.champion) + _count("challenger", scores.challenger or {}),
        late=int(late.sum()),
        duplicates=int((~folded).sum() - late.sum()),
    )


def _sessions(readings: Readings, closed: FloatArray) -> list[Row]:
    """The charges and drives that ended, as rows of `battery_cycles`."""
    if not len(closed):
        return []
    soh = np.array([vars(reading)["soh"] for reading in readings.rows], dtype=np.float64)
    return cycle_rows(closed_table(closed), readings.battery_ids, battery_row=readings.battery_row, soh=soh)


def _count(role: Role, predicted: Mapping[str, TargetValues]) -> Counter[tuple[Role, str]]:
    return Counter({(role, target): int((~np.isnan(given.values)).sum()) for target, given in predicted.items()})
