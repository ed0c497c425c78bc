"""What came true of a prediction, by the rules by which labels are made for training (`features.labels`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from features import labels
from features.state import MAX_GAP_S, FloatArray
from features.table import LabelParams

#: A measured capacity tells the health of a prediction at most so many equivalent full cycles away.
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
    """A prediction and its truth, in the prediction's unit.

    Attributes:
        matured_at: event time at which the truth was known.
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
    """What is known of one battery's life so far.

    Attributes:
        health_cycles: float64[n], ascending: ages (equivalent full cycles) at which health was measured.
        health: float64[n], as a fraction of the nominal capacity.
        alarm_cycles, alarm_levels: float64[k], ages at which the pack raised an alarm, and how high.
        last_cycle: age up to which it was watched.
        watched: whether it reports its health or its alarms at all; without either, silence says nothing.
        known_at: event time of the last thing known.
    """

    health_cycles: FloatArray
    health: FloatArray
    alarm_cycles: FloatArray
    alarm_levels: FloatArray
    last_cycle: float
    watched: bool
    known_at: datetime


def temperature_truth(
    prediction: StoredPrediction, time_s: FloatArray, temperature_c: FloatArray, definitions: LabelParams
) -> float | None:
    """Temperature at the time for which `prediction` was made; None where no reading can tell.

    Args:
        time_s: float64[n], ascending: readings of the battery from that of the prediction on, at least until its
            `due` + tolerance where there are any.
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
    return _known(ahead[0])


def evaluate(
    predictions: Sequence[StoredPrediction],
    life: BatteryHistory,
    definitions_of: Callable[[str | None, str | None], LabelParams | None],
) -> tuple[list[Outcome], list[StoredPrediction]]:
    """Truths of one battery's kept predictions, as far as `life` tells them.

    Args:
        definitions_of: by name and version of a model; None where they cannot be had now.

    Returns:
        The outcomes, and the predictions whose truth is not known; those without definitions are in neither.
    """
    outcomes: list[Outcome] = []
    unknown: list[StoredPrediction] = []
    groups: dict[tuple[str, str | None, str | None], list[StoredPrediction]] = {}
    for prediction in predictions:
        groups.setdefault((prediction.target, prediction.model_name, prediction.model_version), []).append(prediction)
    for (target, name, version), group in groups.items():
        definitions = definitions_of(name, version)
        if definitions is None:
            continue
        ages = np.array([np.nan if p.cycle_index is None else p.cycle_index for p in group])
        for prediction, value in zip(group, _TRUTHS[target](ages, life, definitions), strict=True):
            actual = _known(value)
            if actual is None:
                unknown.append(prediction)
            else:
                outcomes.append(Outcome(prediction, actual, life.known_at))
    return outcomes, unknown


def end_of_life_cycle(life: BatteryHistory, definitions: LabelParams) -> float:
    """Age at end of life, as far as is known now; NaN where it was not reached."""
    return labels.end_of_life(life.health_cycles, life.health, definitions.eol_fraction)


def _health(ages: FloatArray, life: BatteryHistory, _: LabelParams) -> FloatArray:
    """Percent, at the nearest measurement; of two equally near the earlier."""
    if not len(life.health_cycles):
        return np.full(len(ages), np.nan)
    distance = np.abs(life.health_cycles[None, :] - ages[:, None])
    distance[np.isnan(distance)] = np.inf
    nearest = distance.argmin(axis=1)
    near = distance[np.arange(len(ages)), nearest] <= SOH_TOLERANCE_CYCLES
    return np.where(near, _PERCENT * life.health[nearest], np.nan)


def _remaining(ages: FloatArray, life: BatteryHistory, definitions: LabelParams) -> FloatArray:
    return labels.remaining_cycles(ages, end_of_life_cycle(life, definitions))


def _failure(ages: FloatArray, life: BatteryHistory, definitions: LabelParams) -> FloatArray:
    return labels.failure_within(
        ages,
        horizon_cycles=definitions.failure_horizon_cycles,
        event_cycles=life.alarm_cycles[life.alarm_levels >= definitions.fault_warning_level],
        eol_cycle=end_of_life_cycle(life, definitions),
        last_observed_cycle=life.last_cycle if life.watched else -np.inf,
    )


_TRUTHS: Mapping[str, Callable[[FloatArray, BatteryHistory, LabelParams], FloatArray]] = {
    "soh": _health,
    "rul": _remaining,
    "failure": _failure,
}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
