"""Ground truth of predictions, computed by the label functions of training (`features.labels`).  Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from features import labels
from features.labels import LabelParams
from features.state import MAX_GAP_S, FloatArray
from features.targets import TARGETS

#: A health measurement is the label of predictions at most this many equivalent full cycles away.
SOH_TOLERANCE_CYCLES = 1.0


@dataclass(frozen=True)
class StoredPrediction:
    """One row of `battery_predictions`, in the units of that table (soh in percent)."""

    battery_id: str
    time: datetime
    target: str
    role: str
    value: float
    lower: float | None
    upper: float | None
    due: datetime | None
    cycle_index: float | None
    model_name: str | None
    model_version: str | None


@dataclass(frozen=True)
class Outcome:
    """A prediction with its ground truth, in the prediction's unit.

    Attributes:
        matured_at: event time at which the label was known.
    """

    prediction: StoredPrediction
    actual: float
    matured_at: datetime

    @property
    def error(self) -> float:
        """Predicted minus actual."""
        return self.prediction.value - self.actual


@dataclass(frozen=True, kw_only=True)
class BatteryHistory(labels.BatteryRecord):
    """Record of one battery so far.

    Attributes:
        known_at: event time of the newest observation.
    """

    health_tolerance_cycles: float = SOH_TOLERANCE_CYCLES
    known_at: datetime


def forecast_label(
    prediction: StoredPrediction, time_s: FloatArray, values: FloatArray, definitions: LabelParams
) -> float | None:
    """Value at the time for which `prediction` was made; None without a reading near enough.

    Args:
        time_s: float64[n], ascending: readings of the battery from that of the prediction on, until at least its
            `due` + tolerance.
        values: float64[n], the target's signal.
    """
    if prediction.due is None or not len(time_s) or time_s[0] != prediction.time.timestamp():
        return None
    ahead = labels.value_ahead(
        time_s,
        values,
        horizon_s=(prediction.due - prediction.time).total_seconds(),
        tolerance_s=definitions.temperature_tolerance_s,
        max_gap_s=MAX_GAP_S,
    )
    return _none_if_nan(ahead[0])


def evaluate(
    predictions: Sequence[StoredPrediction],
    history: BatteryHistory,
    definitions_of: Callable[[str | None, str | None], LabelParams | None],
) -> tuple[list[Outcome], list[StoredPrediction]]:
    """Label the pending predictions of one battery as far as `history` allows.

    Args:
        definitions_of: label definitions by name and version of a model; None while they are unavailable.

    Returns:
        The outcomes, and the predictions whose label has not matured; those without definitions are in neither.
    """
    outcomes: list[Outcome] = []
    pending: list[StoredPrediction] = []
    groups: dict[tuple[str, str | None, str | None], list[StoredPrediction]] = {}
    for prediction in predictions:
        groups.setdefault((prediction.target, prediction.model_name, prediction.model_version), []).append(prediction)
    for (target, name, version), group in groups.items():
        definitions = definitions_of(name, version)
        if definitions is None:
            continue
        ages = np.array([np.nan if p.cycle_index is None else p.cycle_index for p in group])
        entry = TARGETS[target]
        actual_values = entry.shown.factor * entry.label_of(ages, history, definitions)
        for prediction, value in zip(group, actual_values.tolist(), strict=True):
            actual = _none_if_nan(value)
            if actual is None:
                pending.append(prediction)
            else:
                outcomes.append(Outcome(prediction, actual, history.known_at))
    return outcomes, pending


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
