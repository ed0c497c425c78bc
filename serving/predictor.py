"""From moments to predictions: the pure core of serving, without HTTP.

A `Predictor` is one release, never changed after it is made.  Whoever holds one answers a whole
request from it, so that an answer never mixes two releases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np

from features import state_update
from features.state import STATE_VERSION, FloatArray, new_states
from features.targets import TARGETS, Target
from serving.feature_snapshots import FeatureSnapshots, snapshots_of
from telemetry.errors import TwinError
from training.onnx_runtime import ForestFile, OnnxForests
from training.release import LoadedRelease, LocalModel

NOT_PROMOTED = "no model was promoted for this target"

# By cadence.
_FEATURE_NAMES = {"reading": state_update.READING_FEATURES, "cycle": state_update.CYCLE_FEATURES}
_FEATURES = {"reading": attrgetter("reading_features"), "cycle": attrgetter("cycle_features")}


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
    """The forests of one release.

    Attributes:
        name, version, label: of the release, e.g. `battery-twin`, 12 and `battery-twin/12`.
        horizons: of the release, see `Release`.
        versions: of each model, by target.

    Raises:
        TwinError: the release was made for another version of the fold, or one of its models asks for a
            feature that this version does not have.
    """

    def __init__(self, loaded: LoadedRelease) -> None:
        release = loaded.release
        if release.state_version != STATE_VERSION:
            raise TwinError(
                f"{loaded.label} was made by version {release.state_version} of the fold and this service runs "
                f"version {STATE_VERSION}: run `dvc repro` to register a release for this version, or serve with the "
                "code that made the release",
                field="state_version",
                value=release.state_version,
            )
        self.label = loaded.label
        self.name = loaded.name
        self.version = loaded.version
        self.horizons = dict(release.horizons)
        self.versions = {name: model.version for name, model in loaded.models.items()}
        self._models = {name: model.label for name, model in loaded.models.items()}
        self._forests = OnnxForests(
            {name: _forest_file(TARGETS[name], model) for name, model in loaded.models.items()},
            {cadence: len(names) for cadence, names in _FEATURE_NAMES.items()},
        )

    @property
    def labels(self) -> list[str]:
        """Of each model, e.g. `battery-soh/9`."""
        return list(self._models.values())

    def try_out(self) -> None:
        """Predict once, so that a model that cannot is noticed before somebody asks it."""
        moments = snapshots_of(new_states(1))
        enough = np.full(1, max(target.minimum_cycles for target in TARGETS.values()))
        self.predict_snapshots(replace(moments, has_reading=np.ones(1, dtype=np.bool_), cycles_seen=enough))

    def predict_snapshots(self, moments: FeatureSnapshots) -> Mapping[str, TargetValues]:
        """Predict at each of n `moments`, with one call for all forests; by target, every one of `TARGETS`.

        A moment gets the same numbers, bit for bit, in whatever company it comes.
        """
        reasons = _reasons_to_withhold(moments)
        if any(None in reasons[name] for name in self._models):
            features = {cadence: of(moments).astype(np.float32) for cadence, of in _FEATURES.items()}
            values = self._forests.predict(features)
        else:
            values = {}
        return {name: self._given(target, moments, values.get(name), reasons[name]) for name, target in TARGETS.items()}

    def _given(
        self, target: Target, moments: FeatureSnapshots, value: FloatArray | None, reasons: list[str | None]
    ) -> TargetValues:
        if target.name not in self._models:
            return TargetValues(np.full(len(moments), np.nan), None, [NOT_PROMOTED] * len(moments))
        model = self._models[target.name]
        if value is None:
            return TargetValues(np.full(len(moments), np.nan), model, reasons)
        if target.offset is not None:
            offset = _FEATURE_NAMES[target.cadence].index(target.offset)
            value = value + _FEATURES[target.cadence](moments)[:, offset]
        if any(reasons):
            value = np.where([reason is None for reason in reasons], value, np.nan)
        return TargetValues(value, model, reasons)


def _forest_file(target: Target, model: LocalModel) -> ForestFile:
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
    return ForestFile(model.path, target.cadence, tuple(available.index(name) for name in wanted))


def _reasons_to_withhold(moments: FeatureSnapshots) -> dict[str, list[str | None]]:
    """By target, for each moment; None where nothing stands against a prediction."""
    heard, cycles_seen = moments.has_reading.tolist(), moments.cycles_seen.tolist()
    reasons = {}
    for name, target in TARGETS.items():
        silent = "no reading yet" if target.cadence == "reading" else None
        least = target.minimum_cycles
        young = f"fewer than {least} {'cycle' if least == 1 else 'cycles'} seen"
        reasons[name] = [
            young if seen < least else None if has_reading else silent
            for has_reading, seen in zip(heard, cycles_seen, strict=True)
        ]
    return reasons
