"""Scores feature snapshots with the champion release and, in shadow mode, with its challengers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from serving.feature_snapshots import FeatureSnapshots
from serving.prediction_rows import prediction_rows
from serving.predictor import Predictor, TargetValues
from telemetry.batch import Row


@dataclass(frozen=True)
class Scores:
    """Predictions for n snapshots, by target; `challenger` is None without challengers."""

    champion: Mapping[str, TargetValues]
    challenger: Mapping[str, TargetValues] | None = None


@dataclass(frozen=True)
class Scorer:
    """Immutable pair of the champion and its challengers, if any; one pair scores a whole request or batch."""

    champion: Predictor
    challenger: Predictor | None = None

    def score(self, snapshots: FeatureSnapshots) -> Scores:
        """Predict with the champion and the challengers."""
        return Scores(
            self.champion.predict_snapshots(snapshots),
            None if self.challenger is None else self.challenger.predict_snapshots(snapshots),
        )

    def rows(
        self, battery_ids: Sequence[str], snapshots: FeatureSnapshots, scores: Scores, *, predicted_at: datetime
    ) -> list[Row]:
        """Convert `scores` to rows of `battery_predictions`, see `prediction_rows`; the challengers' rows come last."""
        rows = prediction_rows(
            battery_ids, snapshots, scores.champion, self.champion.horizons, role="champion", predicted_at=predicted_at
        )
        if self.challenger is not None and scores.challenger is not None:
            horizons = self.challenger.horizons
            rows += prediction_rows(
                battery_ids, snapshots, scores.challenger, horizons, role="challenger", predicted_at=predicted_at
            )
        return rows


class ScorerSource(Protocol):
    """Provides the current scorer; see `serving.release_loader.ReleaseLoader`.

    Attributes:
        scorer: None while there is no release; `problem` is the reason.
    """

    scorer: Scorer | None
    problem: str
