"""Scores feature snapshots with the champion release and, in shadow mode, with its challengers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import numpy as np

from features.plausibility import kinds_of, note
from features.prediction_rows import Role, prediction_rows
from serving.feature_snapshots import FeatureSnapshots
from serving.predictor import Predictor
from serving.response import prediction_entries
from telemetry.batch import Row


@dataclass(frozen=True)
class Scores:
    """Predictions for n snapshots.

    Attributes:
        entries: n entries of the champion, see `serving.response.prediction_entries`.
        rows: rows of `battery_predictions` of the champion, then of the challengers.
    """

    entries: list[dict[str, Any]]
    rows: list[Row]


@dataclass(frozen=True)
class Scorer:
    """Immutable pair of the champion and its challengers, if any; one pair scores a whole request or batch."""

    champion: Predictor
    challenger: Predictor | None = None

    def score(self, battery_ids: Sequence[str], snapshots: FeatureSnapshots, predicted_at: datetime) -> Scores:
        """Predict with the champion and the challengers.

        Args:
            battery_ids: battery of each snapshot.
            predicted_at: current wall-clock time, timezone-aware.
        """
        scores = score(self.champion, battery_ids, snapshots, "champion", predicted_at)
        if self.challenger is not None:
            scores.rows.extend(score(self.challenger, battery_ids, snapshots, "challenger", predicted_at).rows)
        return scores


class ScorerSource(Protocol):
    """Provides the current scorer; see `serving.release_loader.ReleaseLoader`.

    Attributes:
        scorer: None while there is no release; `problem` is the reason.
    """

    scorer: Scorer | None
    problem: str


def score(
    predictor: Predictor, battery_ids: Sequence[str], snapshots: FeatureSnapshots, role: Role, predicted_at: datetime
) -> Scores:
    """Predict with one predictor, see `Scorer.score`."""
    entries = prediction_entries(battery_ids, snapshots, predictor.predict_snapshots(snapshots), predictor)
    for i, kind in zip(*np.nonzero(kinds_of(snapshots.flags)), strict=True):
        entries[i]["notes"].append(note(kind, 1))
    return Scores(entries, prediction_rows(entries, role=role, predicted_at=predicted_at))
