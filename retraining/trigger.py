"""Decides whether detected drift starts a training.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt, ValidationInfo, field_validator

from telemetry.parameters import Parameters


class RetrainParams(Parameters):
    """Section `retrain` of params.yaml.

    Attributes:
        pause_s: minimum wall-clock time between the end of a training and the start of the next.
        longest_pause_s: upper limit of the pause, which doubles after each training without a promotion.
        kept: number of training workspaces kept under `var/retrains`.
    """

    section: ClassVar[str] = "retrain"

    pause_s: NonNegativeFloat = 3600.0
    longest_pause_s: NonNegativeFloat = Field(86_400.0, validate_default=True)
    kept: PositiveInt = 3

    @field_validator("longest_pause_s")
    @classmethod
    def _not_shorter_than_pause(cls, longest_pause_s: float, info: ValidationInfo) -> float:
        if longest_pause_s < (least := info.data.get("pause_s", 0.0)):
            raise ValueError(f"it should be at least retrain.pause_s, {least:g}")
        return longest_pause_s


@dataclass(frozen=True)
class DetectedDrift:
    """A drifting model: a row of `drift_status` with its newest window.

    Attributes:
        window_start: event time of the start of that window.
        model_version: version that the window was measured for.
    """

    target: str
    kind: str
    score: float
    threshold: float
    window_start: datetime
    model_version: str

    @property
    def sentence(self) -> str:
        """What drifts, with score and threshold."""
        return f"{self.kind} of {self.target} drift ({self.score:.3g}, bound {self.threshold:.3g})"


@dataclass(frozen=True)
class RetrainHistory:
    """Summary of the previous trainings.

    Attributes:
        ended_at: wall-clock time of the end of the last one.
        data_until: event time up to which a previous training has learned.
        unchanged: number of trainings since the last promotion that was not rolled back.
    """

    ended_at: datetime | None = None
    data_until: datetime | None = None
    unchanged: int = 0


@dataclass(frozen=True)
class Decision:
    """The drifts to train on, empty if no training is to start.

    Attributes:
        reason: the reason as a sentence.
    """

    drifts: tuple[DetectedDrift, ...]
    reason: str


def decide(
    drifts: Sequence[DetectedDrift],
    champions: Mapping[str, int],
    history: RetrainHistory,
    now: datetime,
    params: RetrainParams,
    gate_obstacle: Callable[[str], str | None] = lambda _target: None,
) -> Decision:
    """Train on drift of a current champion that is newer than the last training's data, after the pause.

    Args:
        drifts: the models that drift now.
        champions: version by target.
        now: the wall clock.
        gate_obstacle: why the gate could not promote any new model of a target; None if it could.
    """
    if not drifts:
        return Decision((), "no model drifts")
    current = [drift for drift in drifts if drift.model_version == str(champions.get(drift.target))]
    if not current:
        return Decision((), "the drifting model is no longer the champion")
    new = [drift for drift in current if history.data_until is None or drift.window_start >= history.data_until]
    if not new:
        return Decision((), "the drift lies in data that the last training has already learned from")
    pause = timedelta(seconds=min(params.pause_s * 2.0 ** min(history.unchanged, 64), params.longest_pause_s))
    if history.ended_at is not None and now < history.ended_at + pause:
        until = (history.ended_at + pause).isoformat(timespec="seconds")
        return Decision((), f"{new[0].sentence}, but the pause after the last training lasts until {until}")
    obstacles = {drift.target: gate_obstacle(drift.target) for drift in new}
    trainable = tuple(drift for drift in new if obstacles[drift.target] is None)
    if not trainable:
        return Decision((), f"{new[0].sentence}, but {obstacles[new[0].target]}")
    return Decision(trainable, "; ".join(drift.sentence for drift in trainable))
