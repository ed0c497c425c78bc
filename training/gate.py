"""Promotion gate: decides from error sums per battery whether a challenger may become champion (no I/O)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from telemetry.errors import TwinError


@dataclass(frozen=True)
class GateThresholds:
    """Section `gate` of params.yaml.

    Attributes:
        min_skill: by target, the smallest skill (error reduction against the best baseline, as a share); `default` is
            that of the others.
        tolerance: share by which a challenger's error may exceed the champion's.
    """

    min_skill: Mapping[str, float]
    tolerance: float = 0.0

    @classmethod
    def from_params(cls, section: Mapping[str, Any]) -> GateThresholds:
        """The thresholds in `section`.

        Raises:
            TwinError: `min_skill` or `tolerance` is missing.
        """
        for key in ("min_skill", "tolerance"):
            if key not in section:
                raise TwinError(f"params.yaml has no gate.{key}; add it", field=f"gate.{key}")
        return cls({name: float(value) for name, value in section["min_skill"].items()}, float(section["tolerance"]))

    def skill_needed(self, target: str) -> float:
        """Smallest skill of `target`, exclusive.

        Raises:
            TwinError: no threshold is set for this target.
        """
        for name in (target, "default"):
            if name in self.min_skill:
                return self.min_skill[name]
        raise TwinError(f"params.yaml has no gate.min_skill.{target}; add it", field=f"gate.min_skill.{target}")


@dataclass(frozen=True)
class BatteryError:
    """Sum of the errors of one battery and the number of its rows."""

    total: float
    rows: int


@dataclass(frozen=True)
class GateScore:
    """Errors of one model version on the gate rows.

    Attributes:
        target: name of the target.
        version: its name in reasons, e.g. "version 3".
        by_battery: absolute errors (squared for a probability) by battery.
        baselines: mean error of each baseline over all gate rows.
        trained_on: batteries whose rows the model was fitted on.
        unscored: why the model cannot be run on these rows; None if it can.
    """

    target: str
    version: str
    by_battery: Mapping[str, BatteryError]
    baselines: Mapping[str, float] = field(default_factory=dict)
    trained_on: Set[str] = frozenset()
    unscored: str | None = None

    def error(self, batteries: Set[str] | None = None) -> float:
        """Mean error over the rows of `batteries` (None: all); MAE or Brier score."""
        chosen = [value for name, value in self.by_battery.items() if batteries is None or name in batteries]
        return sum(value.total for value in chosen) / sum(value.rows for value in chosen)


@dataclass(frozen=True)
class Verdict:
    """Whether a challenger may become champion, with the reasons, one sentence each."""

    passed: bool
    reasons: tuple[str, ...]


def decide(challenger: GateScore, champion: GateScore | None, thresholds: GateThresholds) -> Verdict:
    """Pass `challenger` if it beats its best baseline and is not worse than the present `champion`.

    The two are compared on the same rows, those of batteries that the champion was not trained on; if none
    is left, the challenger does not pass.  If the champion cannot be run on these rows (other features or
    another state version), the reason is reported and the baselines decide.
    """
    beats_baseline, reason = _against_baselines(challenger, thresholds.skill_needed(challenger.target))
    if not beats_baseline:
        return Verdict(False, (reason,))
    if champion is None:
        return Verdict(True, (reason, "there is no champion yet"))
    not_worse, comparison = _against_champion(challenger, champion, thresholds.tolerance)
    return Verdict(not_worse, (reason, comparison))


def _against_baselines(challenger: GateScore, needed: float) -> tuple[bool, str]:
    if not challenger.by_battery:
        return False, "it has no gate rows"
    if not challenger.baselines:
        return False, "it has no baseline to be compared with"
    name, best = min(challenger.baselines.items(), key=lambda item: item[1])
    error = challenger.error()
    if best <= 0.0:
        return False, f"the baseline {name} has an error of 0, so no model can beat it"
    skill = 1.0 - error / best
    passed = skill > needed
    sentence = f"skill {skill:.3f} against {name} (error {error:.4g}, baseline {best:.4g})"
    return passed, f"{sentence}, {'above' if passed else 'not above'} the required {needed:g}"


def _against_champion(challenger: GateScore, champion: GateScore, tolerance: float) -> tuple[bool, str]:
    name = f"the champion, {champion.version},"
    if champion.unscored is not None:
        return True, f"{name} cannot be run on these rows ({champion.unscored}): compared with the baselines alone"
    held_out = (challenger.by_battery.keys() & champion.by_battery.keys()) - champion.trained_on
    if not held_out:
        return False, f"{name} was trained on every gate battery, so the two cannot be compared"
    error, champion_error = challenger.error(held_out), champion.error(held_out)
    passed = error <= champion_error * (1.0 + tolerance)
    relation = "not worse" if passed else "worse"
    excluded = len(challenger.by_battery.keys() & champion.trained_on)
    left_out = f", {excluded} excluded because it was trained on them" if excluded else ""
    batteries = f"{len(held_out)} batter{'y' if len(held_out) == 1 else 'ies'}"
    return passed, f"{relation} than {name} error {error:.4g} against {champion_error:.4g} on {batteries}{left_out}"
