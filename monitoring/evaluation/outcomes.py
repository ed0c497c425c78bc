"""Ground truth of predictions, computed by the label functions of training (`features.labels`).  Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from features import labels
from features.state import MAX_GAP_S, FloatArray
from features.table import LabelParams

#: A health measurement is the label of predictions at most this many equivalent full cycles away.
SOH_TOLERANCE_CYCLES = 1.0
_PERCENT = 100.0


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


@dataclass(frozen=True)
class BatteryHistory:
    """Health measurements and warnings of one battery so far.

    Attributes:
        health_cycles: float64[n], ascending: ages (equivalent full cycles) at which health was measured.
        health: float64[n], as a fraction of the nominal capacity.
        alarm_cycles, alarm_levels: float64[k], ages at which the pack raised a warning, and its level.
        last_cycle: age up to which it was observed.
        watched: whether it reports health or warnings at all; without either, the absence of a warning is no label.
        known_at: event time of the newest observation.
    """

    health_cycles: FloatArray
    health: FloatArray
    alarm_cycles: FloatArray
    alarm_levels: FloatArray
    last_cycle: float
    watched: bool
    known_at: datetime


def temperature_label(
    prediction: StoredPrediction, time_s: FloatArray, temperature_c: FloatArray, definitions: LabelParams
) -> float | None:
    """Temperature at the time for which `prediction` was made; None without a reading near enough.

    Args:
        time_s: float64[n], ascending: readings of the battery from that of the prediction on, until at least its
            `due` + tolerance.
        temperature_c: float64[n].
    """
    if prediction.due is None or not len(time_s) or time_s[0] != prediction.time.timestamp():
        return None
    ahead = labels.temperature_ahead(
        time_s,
        temperature_c,
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
        for prediction, value in zip(group, _LABELS[target](ages, history, definitions), strict=True):
            actual = _none_if_nan(value)
            if actual is None:
                pending.append(prediction)
            else:
                outcomes.append(Outcome(prediction, actual, history.known_at))
    return outcomes, pending


def end_of_life_cycle(history: BatteryHistory, definitions: LabelParams) -> float:
    """Age at end of life according to the history so far; NaN if not reached."""
    return labels.end_of_life(history.health_cycles, history.health, definitions.eol_fraction)


def _health(ages: FloatArray, history: BatteryHistory, _: LabelParams) -> FloatArray:
    """Percent, from the nearest measurement; of two equally near the earlier."""
    if not len(history.health_cycles):
        return np.full(len(ages), np.nan)
    distance = np.abs(history.health_cycles[None, :] - ages[:, None])
    distance[np.isnan(distance)] = np.inf
    nearest = distance.argmin(axis=1)
    is_near = distance[np.arange(len(ages)), nearest] <= SOH_TOLERANCE_CYCLES
    return np.where(is_near, _PERCENT * history.health[nearest], np.nan)


def _remaining(ages: FloatArray, history: BatteryHistory, definitions: LabelParams) -> FloatArray:
    return labels.remaining_cycles(ages, end_of_life_cycle(history, definitions))


def _failure(ages: FloatArray, history: BatteryHistory, definitions: LabelParams) -> FloatArray:
    return labels.failure_within(
        ages,
        horizon_cycles=definitions.failure_horizon_cycles,
        event_cycles=history.alarm_cycles[history.alarm_levels >= definitions.fault_warning_level],
        eol_cycle=end_of_life_cycle(history, definitions),
        last_observed_cycle=history.last_cycle if history.watched else -np.inf,
    )


_LABELS: Mapping[str, Callable[[FloatArray, BatteryHistory, LabelParams], FloatArray]] = {
    "soh": _health,
    "rul": _remaining,
    "failure": _failure,
}


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
