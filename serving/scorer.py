"""The champion, and the challengers that predict beside it for the record: one pair for a whole request or batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from serving.feature_snapshots import FeatureSnapshots
from serving.prediction_rows import prediction_rows
from serving.predictor import Predictor, TargetValues
from telemetry.batch import Row


@dataclass(frozen=True)
class Scores:
    """What was predicted at n moments, by target; no `challenger` where nobody shadows."""

    champion: Mapping[str, TargetValues]
    challenger: Mapping[str, TargetValues] | None = None


@dataclass(frozen=True)
class Scorer:
    """Predicts with a champion and, where there are any, the challengers; never changed after it is made."""

    champion: Predictor
    challenger: Predictor | None = None

    def score(self, moments: FeatureSnapshots) -> Scores:
        """What both say of the same moments."""
        return Scores(
            self.champion.predict_snapshots(moments),
            None if self.challenger is None else self.challenger.predict_snapshots(moments),
        )

    def rows(
        self, battery_ids: Sequence[str], moments: FeatureSnapshots, scores: Scores, *, predicted_at: datetime
    ) -> list[Row]:
        """`scores` as rows of `battery_predictions`, see `prediction_rows`; those of the challenger come last."""
        rows = prediction_rows(
            battery_ids, moments, scores.champion, self.champion.horizons, role="champion", predicted_at=predicted_at
        )
        if self.challenger is not None and scores.challenger is not None:
            horizons = self.challenger.horizons
            rows += prediction_rows(
                battery_ids, moments, scores.challenger, horizons, role="challenger", predicted_at=predicted_at
            )
        return rows
