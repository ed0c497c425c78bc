"""Statistical test whether a new champion is worse than its predecessor on the same predictions.  Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt, ValidationInfo, field_validator
from scipy import stats

from features.state import FloatArray
from telemetry.parameters import Parameters


class RollbackParams(Parameters):
    """Section `rollback` of params.yaml.

    Attributes:
        min_outcomes: paired outcomes of a target before the first comparison.
        max_outcomes: paired outcomes at the last comparison; in between, at each doubling of their number.
        watch_s: minimum event time between promotion and last comparison, s: a day includes a night.
        min_batteries: minimum number of batteries of a comparison.
        alpha: false rollback probability over all comparisons after a promotion.
    """

    section: ClassVar[str] = "rollback"

    min_outcomes: PositiveInt = 200
    max_outcomes: PositiveInt = Field(3200, validate_default=True)
    watch_s: NonNegativeFloat = 86_400.0
    min_batteries: int = Field(4, ge=2)
    alpha: float = Field(0.01, gt=0.0, lt=1.0)

    @field_validator("max_outcomes")
    @classmethod
    def _not_fewer_than_min_outcomes(cls, max_outcomes: int, info: ValidationInfo) -> int:
        if max_outcomes < (least := info.data.get("min_outcomes", 0)):
            raise ValueError(f"it should be at least rollback.min_outcomes, {least}")
        return max_outcomes

    @property
    def max_comparisons(self) -> int:
        """Maximum number of comparisons of a target."""
        return 1 + math.ceil(math.log2(self.max_outcomes / self.min_outcomes))

    def next_comparison(self, last: int | None) -> int:
        """Number of outcomes for the next comparison; `last` is the number at the previous one."""
        return self.min_outcomes if last is None else min(2 * last, self.max_outcomes)


@dataclass(frozen=True)
class PairedLoss:
    """Mean loss of both models over the same predictions of one battery: absolute error, squared for probabilities."""

    battery_id: str
    outcomes: int
    new: float
    old: float


@dataclass(frozen=True)
class LossComparison:
    """Result of one comparison.

    Attributes:
        p_value: probability of a difference this large if the new model were not worse; 1 with too few batteries.
        new, old: mean loss over batteries.
    """

    outcomes: int
    batteries: int
    new: float
    old: float
    p_value: float
    is_worse: bool

    @property
    def sentence(self) -> str:
        """Both losses with sample sizes and p-value."""
        return (
            f"live error {self.new:.4g} against {self.old:.4g} of its predecessor on the same {self.outcomes} outcomes "
            f"of {self.batteries} batteries (p = {self.p_value:.2g})"
        )


def compare(by_battery: Sequence[PairedLoss], params: RollbackParams, targets: int = 1) -> LossComparison:
    """Compare the new model with the old one by a one-sided paired t-test over batteries.

    A battery is one observation, since its errors are correlated.  `alpha` is divided by the number of comparisons and
    of monitored `targets` (Bonferroni).
    """
    difference = np.array([one.new - one.old for one in by_battery])
    p_value = _p_value(difference) if len(difference) >= params.min_batteries else 1.0
    return LossComparison(
        outcomes=sum(one.outcomes for one in by_battery),
        batteries=len(by_battery),
        new=float(np.mean([one.new for one in by_battery])) if by_battery else math.nan,
        old=float(np.mean([one.old for one in by_battery])) if by_battery else math.nan,
        p_value=p_value,
        is_worse=p_value < params.alpha / (params.max_comparisons * targets),
    )


def _p_value(difference: FloatArray) -> float:
    """One-sided p-value of a mean above 0: Student's t with n - 1 degrees of freedom."""
    mean, error = difference.mean(), difference.std(ddof=1) / math.sqrt(len(difference))
    if error == 0.0:  # the same difference for every battery
        return 0.0 if mean > 0.0 else 1.0
    return float(stats.t.sf(mean / error, len(difference) - 1))
