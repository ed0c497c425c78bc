"""From states and what happened since to predictions: the pure core of serving, without HTTP.

A `Predictor` is one release, never changed after it is made.  Whoever holds one answers a whole
request from it, so that an answer never mixes two releases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.contract import SIGNALS
from data.errors import TwinError
from features import fold
from features.state import FOLD_VERSION, READING_INPUTS, FloatArray, StateView, new_states, view
from features.targets import TARGETS, Target
from training.onnx_runtime import OnnxForest
from training.release import LoadedRelease, LocalModel

NOT_PROMOTED = "no model was promoted for this target"

_READ_FEATURES = {"reading": fold.reading_features, "cycle": fold.cycle_features}
_FEATURE_NAMES = {"reading": fold.READING_FEATURES, "cycle": fold.CYCLE_FEATURES}


@dataclass(frozen=True)
class BatteryInput:
    """What is known of one battery.

    Attributes:
        battery_id: its id.
        state: float64[STATE_SIZE], before `readings` and `cycles`; not changed by the predictor.
        readings: float64[n, len(READING_INPUTS)], in time order.
        cycles: float64[m, 1 + len(SIGNALS)], by cycle index; folded before `readings`.
    """

    battery_id: str
    state: FloatArray
    readings: FloatArray
    cycles: FloatArray


@dataclass(frozen=True)
class Prediction:
    """One target's prediction in the target's own unit; `value` is None where it is `withheld`, which says why."""

    value: float | None
    model: str | None
    withheld: str | None = None


@dataclass(frozen=True)
class BatteryAnswer:
    """What the twin says about one battery.

    Attributes:
        state: float64[STATE_SIZE], after everything that was folded.
        predictions: by target, every one of `TARGETS`.
        stale_readings, stale_cycles: how many were not newer than the state and so were not folded.
    """

    battery_id: str
    state: FloatArray
    view: StateView
    predictions: Mapping[str, Prediction]
    stale_readings: int
    stale_cycles: int


class Predictor:
    """The four forests of one release.

    Raises:
        TwinError: the release was made for another version of the fold, or one of its models asks for a
            feature that this version does not have.
    """

    def __init__(self, loaded: LoadedRelease) -> None:
        release = loaded.release
        if release.fold_version != FOLD_VERSION:
            raise TwinError(
                f"{loaded.label} was made by version {release.fold_version} of the fold and this service runs "
                f"version {FOLD_VERSION}: run `dvc repro` to register a release for this version, or serve with the "
                "code that made the release",
                field="fold_version",
                value=release.fold_version,
            )
        self.label = loaded.label
        self.horizons = dict(release.horizons)
        self._forests = {name: _TargetForest(TARGETS[name], model) for name, model in loaded.models.items()}

    def predict(self, batteries: Sequence[BatteryInput]) -> list[BatteryAnswer]:
        """Fold what each battery sent and predict its targets, with one call for each forest."""
        states = np.stack([battery.state for battery in batteries])
        stale_cycles = _stale(fold.fold_cycles, states, [battery.cycles for battery in batteries])
        stale_readings = _stale(fold.fold_readings, states, [battery.readings for battery in batteries])
        views = [view(state) for state in states]
        features = {cadence: np.stack([read(state) for state in states]) for cadence, read in _READ_FEATURES.items()}
        by_target = {
            name: self._predict_target(target, features[target.cadence], views) for name, target in TARGETS.items()
        }
        return [
            BatteryAnswer(
                battery_id=battery.battery_id,
                state=states[i],
                view=views[i],
                predictions={name: predictions[i] for name, predictions in by_target.items()},
                stale_readings=stale_readings[i],
                stale_cycles=stale_cycles[i],
            )
            for i, battery in enumerate(batteries)
        ]

    def warm_up(self) -> None:
        """Answer for a made-up battery, so that no request waits for the fold to be compiled."""
        readings, cycles = np.zeros((2, len(READING_INPUTS))), np.ones((1, 1 + len(SIGNALS)))
        self.predict([BatteryInput("warm-up", new_states(1)[0], readings, cycles)])

    def _predict_target(self, target: Target, features: FloatArray, views: Sequence[StateView]) -> list[Prediction]:
        forest = self._forests.get(target.name)
        if forest is None:
            return [Prediction(None, None, NOT_PROMOTED)] * len(views)
        reasons = [_reason_to_withhold(target, battery) for battery in views]
        rows = [i for i, reason in enumerate(reasons) if reason is None]
        predictions = [Prediction(None, forest.label, reason) for reason in reasons]
        if rows:
            for i, value in zip(rows, forest.predict(features[rows]), strict=True):
                predictions[i] = Prediction(value, forest.label)
        return predictions


class _TargetForest:
    """One target's forest and which features of its cadence it reads."""

    def __init__(self, target: Target, model: LocalModel) -> None:
        available = _FEATURE_NAMES[target.cadence]
        wanted: Sequence[str] = model.fit["feature_names"]
        unknown = sorted(set(wanted) - set(available))
        if unknown:
            raise TwinError(
                f"{model.label} asks for features that this version of the fold does not have "
                f"({', '.join(unknown)}): run `dvc repro` to register models for this version",
                field="feature_names",
                value=unknown,
            )
        self.label = model.label
        self._columns = np.array([available.index(name) for name in wanted], dtype=np.intp)
        self._offset = None if target.offset is None else available.index(target.offset)
        self._forest = OnnxForest(model.path)

    def predict(self, features: FloatArray) -> list[float]:
        """Predictions in the target's unit for `features`, float64[n, all features of the cadence]."""
        value = self._forest.predict(features.take(self._columns, axis=1).astype(np.float32))
        if self._offset is not None:
            value = value + features[:, self._offset]
        return [float(x) for x in value]


def _reason_to_withhold(target: Target, battery: StateView) -> str | None:
    if target.cadence == "reading" and not battery.has_reading:
        return "no reading yet"
    if battery.cycles_seen < target.minimum_cycles:
        return f"fewer than {target.minimum_cycles} {'cycle' if target.minimum_cycles == 1 else 'cycles'} seen"
    return None


def _stale(
    fold_rows: Callable[[FloatArray, fold.IntArray, FloatArray], Any], states: FloatArray, rows: Sequence[FloatArray]
) -> list[int]:
    """Fold all batteries' `rows` into `states`, in place; how many of each were not newer than its state."""
    counts = [len(own) for own in rows]
    if not any(counts):
        return [0] * len(rows)
    battery_row = np.repeat(np.arange(len(rows)), counts)
    folded = fold_rows(states, battery_row, np.concatenate(rows)).folded
    return [int(n) for n in np.bincount(battery_row[~folded], minlength=len(rows))]
