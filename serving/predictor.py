"""From moments to predictions: the pure core of serving, without HTTP.

A `Predictor` is one release, never changed after it is made.  Whoever holds one answers a whole
request from it, so that an answer never mixes two releases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.errors import TwinError
from features import fold
from features.fold import BoolArray
from features.state import FOLD_VERSION, FloatArray
from features.targets import TARGETS, Target
from serving.moments import Moments
from training.onnx_runtime import OnnxForest
from training.release import LoadedRelease, LocalModel

NOT_PROMOTED = "no model was promoted for this target"

_FEATURE_NAMES = {"reading": fold.READING_FEATURES, "cycle": fold.CYCLE_FEATURES}


@dataclass(frozen=True)
class Prediction:
    """One target's prediction in the target's own unit; `value` is None where it is `withheld`, which says why."""

    value: float | None
    model: str | None
    withheld: str | None = None


@dataclass(frozen=True)
class TargetValues:
    """One target's predictions at n moments, in the target's own unit.

    Attributes:
        values: float64[n], NaN where withheld.
        model: label of the model, e.g. `battery-soh/9`; None where the release has none for this target.
        reasons: n entries, why a value is withheld; None where it is given.
    """

    values: FloatArray
    model: str | None
    reasons: list[str | None]

    def at(self, i: int) -> Prediction:
        """The prediction at moment `i`."""
        reason = self.reasons[i]
        return Prediction(float(self.values[i]) if reason is None else None, self.model, reason)


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

    def predict_moments(self, moments: Moments) -> Mapping[str, TargetValues]:
        """Predict at each of n `moments`, with one call for each forest; by target, every one of `TARGETS`.

        A moment gets the same numbers, bit for bit, in whatever company it comes.
        """
        return {name: self._predict_target(target, moments) for name, target in TARGETS.items()}

    def _predict_target(self, target: Target, moments: Moments) -> TargetValues:
        values = np.full(len(moments), np.nan)
        forest = self._forests.get(target.name)
        if forest is None:
            return TargetValues(values, None, [NOT_PROMOTED] * len(moments))
        features = moments.reading_features if target.cadence == "reading" else moments.cycle_features
        reasons, given = _reasons_to_withhold(target, moments)
        if given.any():
            values[given] = forest.predict(features[given])
        return TargetValues(values, forest.label, reasons)


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

    def predict(self, features: FloatArray) -> FloatArray:
        """float64[n] in the target's unit for `features`, float64[n, all features of the cadence]."""
        value = self._forest.predict(features.take(self._columns, axis=1).astype(np.float32))
        return value if self._offset is None else value + features[:, self._offset]


def _reasons_to_withhold(target: Target, moments: Moments) -> tuple[list[str | None], BoolArray]:
    """At each moment the reason, None where a value is given; and where that is."""
    reasons: list[str | None] = [None] * len(moments)
    young = moments.cycles_seen < target.minimum_cycles
    silent = ~moments.has_reading if target.cadence == "reading" else np.zeros_like(young)
    cycles = "cycle" if target.minimum_cycles == 1 else "cycles"
    for where, reason in ((young, f"fewer than {target.minimum_cycles} {cycles} seen"), (silent, "no reading yet")):
        for i in np.flatnonzero(where):
            reasons[i] = reason
    return reasons, ~(young | silent)
