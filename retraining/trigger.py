"""When a drift starts a training.  Pure: no database, no registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from telemetry.errors import TwinError


@dataclass(frozen=True)
class RetrainParams:
    """Section `retrain` of params.yaml.

    Attributes:
        pause_s: least time between the end of one training and the start of the next, on the wall clock.
        longest_pause_s: the pause doubles after each training that changed nothing, up to this.
        kept: how many trainings' folders stay under `var/retrains`.
    """

    pause_s: float = 3600.0
    longest_pause_s: float = 86_400.0
    kept: int = 3

    def __post_init__(self) -> None:
        for name, smallest in (("pause_s", 0.0), ("longest_pause_s", self.pause_s), ("kept", 1)):
            if not getattr(self, name) >= smallest:
                raise TwinError(
                    f"params.yaml: retrain.{name} is {getattr(self, name)!r}; give a number from {smallest:g} on",
                    field=f"retrain.{name}",
                    value=getattr(self, name),
                )


@dataclass(frozen=True)
class DetectedDrift:
    """A model that drifts: a row of `drift_status` with its newest window.

    Attributes:
        window_start: event time at which that window began.
        model_version: whose window it is.
    """

    target: str
    kind: str
    score: float
    threshold: float
    window_start: datetime
    model_version: str

    @property
    def sentence(self) -> str:
        """What drifts, and how far."""
        return f"{self.kind} of {self.target} drift ({self.score:.3g}, bound {self.threshold:.3g})"


@dataclass(frozen=True)
class RetrainHistory:
    """What trainings there were.

    Attributes:
        ended_at: end of the last one, on the wall clock.
        data_until: event time up to which some training has learned already.
        unchanged: how many in a row, up to the last one, left the champion as it was, or were taken back.
    """

    ended_at: datetime | None = None
    data_until: datetime | None = None
    unchanged: int = 0


@dataclass(frozen=True)
class Decision:
    """What to do: train because of `drifts`, or wait where there are none.

    Attributes:
        reason: why, in a sentence.
    """

    drifts: tuple[DetectedDrift, ...]
    reason: str


def decide(
    drifts: Sequence[DetectedDrift],
    champions: Mapping[str, int],
    past: RetrainHistory,
    now: datetime,
    params: RetrainParams,
    gate_obstacle: Callable[[str], str | None] = lambda _target: None,
) -> Decision:
    """Train on drift of the present champion that no training has answered yet, and not too soon after the last one.

    Args:
        drifts: those that are drifting now.
        champions: version by target.
        now: the wall clock.
        gate_obstacle: why nothing that is trained could replace the champion of a target; None where something could.
    """
    if not drifts:
        return Decision((), "nothing drifts")
    present = [one for one in drifts if one.model_version == str(champions.get(one.target))]
    if not present:
        return Decision((), "what drifts is a model that serves no longer")
    new = [one for one in present if _is_new(one, past)]
    if not new:
        return Decision((), "what drifts was seen before the last training, which knew it already")
    pause = timedelta(seconds=min(params.pause_s * 2.0 ** min(past.unchanged, 64), params.longest_pause_s))
    if past.ended_at is not None and now < past.ended_at + pause:
        until = (past.ended_at + pause).isoformat(timespec="seconds")
        return Decision((), f"{new[0].sentence}, but the last training was not long ago: not before {until}")
    vain = {one.target: gate_obstacle(one.target) for one in new}
    useful = tuple(one for one in new if vain[one.target] is None)
    if not useful:
        return Decision((), f"{new[0].sentence}, but {vain[new[0].target]}")
    return Decision(useful, "; ".join(one.sentence for one in useful))


def _is_new(drift: DetectedDrift, past: RetrainHistory) -> bool:
    return past.data_until is None or drift.window_start >= past.data_until
