"""Is a new champion worse than the one that it replaced, on the same moments?  Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from features.state import FloatArray
from telemetry.errors import TwinError


@dataclass(frozen=True)
class RollbackParams:
    """Section `rollback` of params.yaml.

    Attributes:
        min_outcomes: truths of a target, known for both models, before the two are first compared.
        max_outcomes: with so many they are compared for the last time.  They are compared each time that their number
            has doubled.
        watch_s: and not before so much event time has passed since the promotion: a day has a night.
        min_batteries: fewer say nothing about the fleet.
        alpha: chance that noise alone takes a promotion back, over all comparisons of a watch.
    """

    min_outcomes: int = 200
    max_outcomes: int = 3200
    watch_s: float = 86_400.0
    min_batteries: int = 4
    alpha: float = 0.01

    def __post_init__(self) -> None:
        wrong = (
            ("min_outcomes", self.min_outcomes, self.min_outcomes >= 1, "a number from 1 on"),
            ("max_outcomes", self.max_outcomes, self.max_outcomes >= self.min_outcomes, "at least min_outcomes"),
            ("watch_s", self.watch_s, self.watch_s >= 0.0, "a number from 0 on"),
            ("min_batteries", self.min_batteries, self.min_batteries >= 2, "a number from 2 on"),
            ("alpha", self.alpha, 0.0 < self.alpha < 1.0, "a number between 0 and 1"),
        )
        for name, value, right, remedy in wrong:
            if not right:
                raise TwinError(
                    f"params.yaml: rollback.{name} is {value!r}; give {remedy}", field=f"rollback.{name}", value=value
                )

    @property
    def looks(self) -> int:
        """How often a target is compared at most."""
        return 1 + math.ceil(math.log2(self.max_outcomes / self.min_outcomes))

    def next_comparison(self, last: int | None) -> int:
        """With how many outcomes to compare again; `last` is how many there were the last time."""
        return self.min_outcomes if last is None else min(2 * last, self.max_outcomes)


@dataclass(frozen=True)
class PairedLoss:
    """Mean loss of both models over the same moments of one battery: absolute error, of a probability its square."""

    battery_id: str
    outcomes: int
    new: float
    old: float


@dataclass(frozen=True)
class Comparison:
    """What a look came to.

    Attributes:
        p_value: chance of so large a difference if the new model were no worse; 1 where batteries are too few.
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
        """The two losses and how sure one can be."""
        return (
            f"live error {self.new:.4g} against {self.old:.4g} of its predecessor on the same {self.outcomes} outcomes "
            f"of {self.batteries} batteries (p = {self.p_value:.2g})"
        )


def compare(by_battery: Sequence[PairedLoss], params: RollbackParams, targets: int = 1) -> Comparison:
    """Hold the new model against the old one: a one-sided paired t-test over batteries.

    A battery is one observation, since its errors belong together.  `alpha` is shared out over the looks of a watch
    and over the `targets` that are watched.
    """
    difference = np.array([one.new - one.old for one in by_battery])
    p_value = _chance(difference) if len(difference) >= params.min_batteries else 1.0
    return Comparison(
        outcomes=sum(one.outcomes for one in by_battery),
        batteries=len(by_battery),
        new=float(np.mean([one.new for one in by_battery])) if by_battery else math.nan,
        old=float(np.mean([one.old for one in by_battery])) if by_battery else math.nan,
        p_value=p_value,
        is_worse=p_value < params.alpha / (params.looks * targets),
    )


def _chance(difference: FloatArray) -> float:
    """Chance of a mean so far above 0 if the true one were not: Student's t with n - 1 degrees of freedom."""
    mean, error = difference.mean(), difference.std(ddof=1) / math.sqrt(len(difference))
    if error == 0.0:  # every battery says the same
        return 0.0 if mean > 0.0 else 1.0
    return float(stats.t.sf(mean / error, len(difference) - 1))
