"""Predicts the four targets from feature snapshots with the ONNX forests of one release; no I/O.

A `Predictor` is immutable.  One predictor scores a whole request or batch, so that no response mixes two releases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from features import plausibility, state_update
from features.state import STATE_VERSION, FloatArray, new_states
from features.state_update import IntArray
from features.targets import TARGETS, Target
from serving.feature_snapshots import FeatureSnapshots, snapshots_of
from serving.reasons import Reason, strongest
from telemetry.errors import TwinError
from training.domain import WITHHOLD, Domain
from training.intervals import Calibration
from training.onnx_runtime import ForestFile, ForestOutput, OnnxForests
from training.release import LoadedRelease, LocalModel
from training.tree_paths import TreePaths

NOT_PROMOTED = "no model was promoted for this target"

# By cadence.
_FEATURE_NAMES = {"reading": state_update.READING_FEATURES, "cycle": state_update.CYCLE_FEATURES}
_WITHHOLD = {"reading": plausibility.WITHHOLD_BY_READING, "cycle": plausibility.WITHHOLD_BY_CYCLE}
_FEATURES = {"reading": attrgetter("reading_features"), "cycle": attrgetter("cycle_features")}


@dataclass(frozen=True)
class TargetValues:
    """Predictions of one target for n snapshots, in the target's unit.

    Attributes:
        values: float64[n], NaN where withheld.
        interval: lower and upper ends of the prediction intervals, float64[n] each; None if the model has none.
        coverage: nominal coverage of the intervals.
        out_of_domain: n entries, how a battery differs from those in training; None where it does not.  Its value has
            no interval.
        reasons: n entries, the strongest contributions, in the target's unit (of a classification in log-odds); empty
            where the value is withheld.  None if they were not requested or cannot be given.
        model: label of the model, e.g. `battery-soh/9`; None if the release has none for this target.
        withheld: n entries, the reason for withholding each value; None where it is not withheld.
    """

    values: FloatArray
    model: str | None
    withheld: list[str | None]
    interval: tuple[FloatArray, FloatArray] | None = None
    coverage: float | None = None
    out_of_domain: list[str | None] | None = None
    reasons: list[list[Reason]] | None = None


class Predictor:
    """Runs the forests of one release.

    Attributes:
        name, version, label: of the release, e.g. `battery-twin`, 12 and `battery-twin/12`.
        horizons: of the release, see `Release`.
        versions: of each model, by target.

    Raises:
        TwinError: the release was registered for another state version, or one of its models needs a feature that
            this version does not have.
    """

    def __init__(self, loaded: LoadedRelease) -> None:
        release = loaded.release
        if release.state_version != STATE_VERSION:
            raise TwinError(
                f"{loaded.label} was registered for state version {release.state_version} and this service has "
                f"state version {STATE_VERSION}: run `dvc repro` to register a release for this version, or serve "
                "with the code that registered the release",
                field="state_version",
                value=release.state_version,
            )
        self.label = loaded.label
        self.name = loaded.name
        self.version = loaded.version
        self.horizons = dict(release.horizons)
        self.versions = {name: model.version for name, model in loaded.models.items()}
        self._models = {name: model.label for name, model in loaded.models.items()}
        self._calibrations = {name: Calibration.of(model.fit) for name, model in loaded.models.items()}
        self._domains = {name: Domain.of(model.fit) for name, model in loaded.models.items()}
        self._files = {name: _forest_file(TARGETS[name], model) for name, model in loaded.models.items()}
        self._forests = OnnxForests(self._files)
        # By target, read when reasons are first requested.
        self._paths = cache(lambda name: TreePaths.read(self._files[name].path))

    @property
    def labels(self) -> list[str]:
        """Label of each model, e.g. `battery-soh/9`."""
        return list(self._models.values())

    def smoke_test(self) -> None:
        """Predict once, so that a model that fails is detected before it serves requests."""
        snapshots = snapshots_of(new_states(1))
        enough = np.full(1, max(target.minimum_cycles for target in TARGETS.values()))
        self.predict_snapshots(replace(snapshots, has_reading=np.ones(1, dtype=np.bool_), cycles_seen=enough))

    def predict_snapshots(
        self, snapshots: FeatureSnapshots, *, with_reasons: bool = False
    ) -> Mapping[str, TargetValues]:
        """Predict all `TARGETS` for n `snapshots`; the results by target.

        The result for a snapshot is bitwise independent of the other snapshots in the call.

        Args:
            with_reasons: also name the strongest contributions to the predictions of explained targets.
        """
        withheld = _reasons_to_withhold(snapshots)
        features, outputs = {}, {}
        if any(None in withheld[name] for name in self._models):
            features = {cadence: of(snapshots).astype(np.float32) for cadence, of in _FEATURES.items()}
            outputs = self._forests.predict(features)
        predicted = {
            name: self._target_values(
                target,
                snapshots,
                outputs.get(name),
                withheld[name],
                self._out_of_domain(name, snapshots, features[target.cadence], withheld[name])
                if name in outputs
                else None,
            )
            for name, target in TARGETS.items()
        }
        if not with_reasons:
            return predicted
        return {
            name: replace(values, reasons=self._reasons(TARGETS[name], snapshots, values))
            for name, values in predicted.items()
        }

    def _reasons(
        self, target: Target, snapshots: FeatureSnapshots, predicted: TargetValues
    ) -> list[list[Reason]] | None:
        if not target.explained or target.name not in self._models:
            return None
        given = [i for i, withheld in enumerate(predicted.withheld) if withheld is None]
        reasons: list[list[Reason]] = [[] for _ in predicted.withheld]
        if not given:
            return reasons
        paths = self._paths(target.name)
        if paths is None:
            return None
        columns = self._files[target.name].columns
        features = _FEATURES[target.cadence](snapshots)[np.ix_(given, columns)]
        names = [_FEATURE_NAMES[target.cadence][column] for column in columns]
        contributions = paths.contributions(features.astype(np.float32))
        for i, own in zip(given, strongest(contributions, features, names), strict=True):
            reasons[i] = own
        return reasons

    def _out_of_domain(
        self, name: str, snapshots: FeatureSnapshots, features: NDArray[np.float32], withheld: list[str | None]
    ) -> list[str | None] | None:
        """How each battery is unlike those in training; None if none is.  Far from them, the prediction is withheld."""
        domain = self._domains[name]
        if domain is None:
            return None
        rows = features[:, self._files[name].columns]
        distance = domain.distance(rows)
        foreign = domain.is_foreign(snapshots.chemistry, snapshots.nominal_capacity_ah)
        found: list[str | None] | None = None
        for i in np.flatnonzero(foreign | (distance > domain.threshold)).tolist():
            if withheld[i] is not None:
                continue
            if foreign[i]:
                withheld[i] = domain.describe_battery(
                    int(snapshots.chemistry[i]), float(snapshots.nominal_capacity_ah[i])
                )
            elif distance[i] > WITHHOLD:
                withheld[i] = domain.describe(rows[i])
            else:
                found = found or [None] * len(snapshots)
                found[i] = domain.describe(rows[i])
        return found

    def _target_values(
        self,
        target: Target,
        snapshots: FeatureSnapshots,
        output: ForestOutput | None,
        withheld: list[str | None],
        out_of_domain: list[str | None] | None,
    ) -> TargetValues:
        if target.name not in self._models:
            return TargetValues(np.full(len(snapshots), np.nan), None, [NOT_PROMOTED] * len(snapshots))
        model = self._models[target.name]
        if output is None:
            return TargetValues(np.full(len(snapshots), np.nan), model, withheld)
        value, calibration = output.value, self._calibrations[target.name]
        if target.offset is not None:
            offset = _FEATURE_NAMES[target.cadence].index(target.offset)
            value = value + _FEATURES[target.cadence](snapshots)[:, offset]
        if any(withheld):
            value = np.where([reason is None for reason in withheld], value, np.nan)
        values = TargetValues(value, model, withheld, out_of_domain=out_of_domain)
        if calibration is None or output.spread is None:
            return values
        return replace(values, interval=calibration.bounds(value, output.spread), coverage=calibration.coverage)


def _forest_file(target: Target, model: LocalModel) -> ForestFile:
    available = _FEATURE_NAMES[target.cadence]
    wanted: Sequence[str] = model.fit["feature_names"]
    unknown = sorted(set(wanted) - set(available))
    if unknown:
        raise TwinError(
            f"{model.label} needs features that this version does not have ({', '.join(unknown)}): run `dvc repro` "
            "to register models for this version",
            field="feature_names",
            value=unknown,
        )
    return ForestFile(model.path, target.cadence, tuple(available.index(name) for name in wanted))


def _reasons_to_withhold(snapshots: FeatureSnapshots) -> dict[str, list[str | None]]:
    """By target, the reason for withholding each snapshot's prediction; None where it is not withheld."""
    has_reading, cycles_seen = snapshots.has_reading.tolist(), snapshots.cycles_seen.tolist()
    flagged = snapshots.flags.any()
    implausible = {bit: _implausible(snapshots.flags, bit) if flagged else {} for bit in _WITHHOLD.values()}
    reasons = {}
    for name, target in TARGETS.items():
        no_reading = "no reading yet" if target.cadence == "reading" else None
        found = implausible[_WITHHOLD[target.cadence]]
        least = target.minimum_cycles
        too_few_cycles = f"fewer than {least} {'cycle' if least == 1 else 'cycles'} seen"
        reasons[name] = [
            too_few_cycles if seen < least else found.get(i) or (None if has else no_reading)
            for i, (has, seen) in enumerate(zip(has_reading, cycles_seen, strict=True))
        ]
    return reasons


def _implausible(flags: IntArray, bit: int) -> dict[int, str]:
    """By snapshot whose predictions `bit` withholds, the reason."""
    return {i: plausibility.withheld(int(flags[i])) for i in np.flatnonzero(flags & bit).tolist()}
