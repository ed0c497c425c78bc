"""Promotion gate: decides from error sums per battery whether a challenger may become champion (no I/O)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from telemetry.errors import TwinError
from telemetry.parameters import Parameters, load_params

Outcome = Literal["passed", "failed", "undecided"]

#: Bootstrap of the comparison with the champion; the seed is fixed, so that a verdict can be repeated.
_RESAMPLES = 5000
_SEED = 7


class GateThresholds(Parameters):
    """Section `gate` of params.yaml.

    Attributes:
        min_skill: by target, the smallest skill (error reduction against the best baseline, as a share); `default` is
            that of the others.
        confidence: probability of the one-sided bound of the error difference to the champion.
        min_batteries: with fewer gate batteries in common, the comparison with the champion is undecided.
    """

    section: ClassVar[str] = "gate"

    min_skill: Mapping[str, float]
    confidence: float = Field(0.9, ge=0.5, lt=1.0)
    min_batteries: int = Field(5, ge=2)

    def skill_needed(self, target: str) -> float:
        """Smallest skill of `target`, exclusive.

        Raises:
            TwinError: no threshold is set for this target.
        """
        for name in (target, "default"):
            if name in self.min_skill:
                return self.min_skill[name]
        raise TwinError(f"params.yaml has no gate.min_skill.{target}; add it", field=f"gate.min_skill.{target}")


def project_gate(params_file: Path) -> GateThresholds | None:
    """Section `gate` of `params_file`; None without the file or the section."""
    params = load_params(params_file) if params_file.is_file() else {}
    return GateThresholds.of(params) if GateThresholds.section in params else None


def required_gate(params_file: Path) -> GateThresholds:
    """Section `gate` of `params_file`.

    Raises:
        TwinError: there is no such file or section.
    """
    gate = project_gate(params_file)
    if gate is None:
        raise TwinError(
            f"{params_file} has no section gate: run this in the project's folder or give --params", field="--params"
        )
    return gate


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
    """Result of the gate with its reasons, one sentence each.

    Attributes:
        outcome: "undecided" if the gate batteries are too few for a comparison with the champion.
    """

    outcome: Outcome
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the model may become champion."""
        return self.outcome == "passed"

    @property
    def sentence(self) -> str:
        """Result and reasons, to follow the name of the version."""
        verb = {"passed": "passes the gate", "failed": "fails the gate", "undecided": "is undecided by the gate"}
        return f"{verb[self.outcome]}: {'; '.join(self.reasons)}"


def decide(challenger: GateScore, champion: GateScore | None, thresholds: GateThresholds) -> Verdict:
    """Pass `challenger` if it beats its best baseline and is better than the present `champion`.

    Better: the upper one-sided bound of the error difference, challenger minus champion, lies below 0.  Both are
    evaluated on the same rows, those of batteries that the champion was not trained on, and the bound is that of a
    bootstrap over batteries (`upper_bound`).  If the champion cannot be run on these rows, the reason is reported and
    the baselines decide.
    """
    beats_baseline, reason = _against_baselines(challenger, thresholds.skill_needed(challenger.target))
    if not beats_baseline:
        return Verdict("failed", (reason,))
    if champion is None:
        return Verdict("passed", (reason, "there is no champion yet"))
    outcome, comparison = _against_champion(challenger, champion, thresholds)
    return Verdict(outcome, (reason, comparison))


def upper_bound(difference: NDArray[np.float64], rows: NDArray[np.int64], confidence: float) -> float:
    """One-sided upper bound of a mean error difference per row, by a bootstrap over batteries (percentile method).

    A battery's rows resemble each other, so batteries are drawn, each with all its rows (Efron and Tibshirani 1993,
    doi:10.1201/9780429246593, section 13.3).  Deterministic, and independent of the order of the batteries.

    Args:
        difference: float64[n], by battery the sum of the differences over its rows.
        rows: int64[n], by battery the number of rows.
        confidence: probability that the mean lies below the bound.
    """
    order = np.lexsort((rows, difference))
    drawn = order[np.random.default_rng(_SEED).integers(len(order), size=(_RESAMPLES, len(order)))]
    means = difference[drawn].sum(axis=1) / rows[drawn].sum(axis=1)
    return float(np.quantile(means, confidence))


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


def _against_champion(challenger: GateScore, champion: GateScore, thresholds: GateThresholds) -> tuple[Outcome, str]:
    name = f"the champion, {champion.version},"
    if champion.unscored is not None:
        return "passed", f"{name} cannot be run on these rows ({champion.unscored}): compared with the baselines alone"
    common = sorted((challenger.by_battery.keys() & champion.by_battery.keys()) - champion.trained_on)
    excluded = len(challenger.by_battery.keys() & champion.trained_on)
    left_out = f", {excluded} excluded because it was trained on them" if excluded else ""
    batteries = f"{len(common)} gate batter{'y' if len(common) == 1 else 'ies'}{left_out}"
    if len(common) < thresholds.min_batteries:
        needed = f"at least {thresholds.min_batteries} are needed (gate.min_batteries)"
        return "undecided", f"not comparable with {name} on {batteries}: {needed}"
    own, other = ([score.by_battery[battery] for battery in common] for score in (challenger, champion))
    difference = np.array([new.total - old.total for new, old in zip(own, other, strict=True)])
    bound = upper_bound(difference, np.array([battery.rows for battery in own]), thresholds.confidence)
    better = bound < 0.0
    errors = f"error {challenger.error(set(common)):.4g} against {champion.error(set(common)):.4g} on {batteries}"
    limit = f"upper {100.0 * thresholds.confidence:g} % bound of the difference {bound:.2g}"
    return ("passed" if better else "failed"), f"{'better' if better else 'not better'} than {name} {errors}, {limit}"
