"""Definitions of the four prediction targets: label, features, baselines, units and limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from features.state_update import CYCLE_FEATURES, READING_FEATURES


@dataclass(frozen=True)
class Target:
    """Definition of one prediction target.

    Attributes:
        label: column of the target's feature table with the ground truth, in `unit`.
        cadence: whether a row is one reading or one closed cycle.
        feature_names: the model's inputs, in order.
        forbidden: contract columns from which the label is computed; none may be a feature.
        baselines: names in `training.baselines` that a model has to beat.
        offset: feature whose value is added to the model output, if the model predicts a change.
        minimum_cycles: cycles that must have been observed before a prediction is given.
        floor: lower bound of the |actual| in the denominator of the relative accuracy, in `unit`.
    """

    name: str
    title: str
    unit: str
    kind: Literal["regression", "classification"]
    cadence: Literal["reading", "cycle"]
    label: str
    feature_names: tuple[str, ...]
    forbidden: tuple[str, ...]
    baselines: tuple[str, ...]
    offset: str | None = None
    minimum_cycles: int = 0
    floor: float = 1.0

    @property
    def predicts_change(self) -> bool:
        """Whether the model predicts the change from `offset` instead of the value."""
        return self.offset is not None


_HEALTH_LABELS = ("capacity_ah", "soh", "capacity_method", "warning_level", "throughput_ah")

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="soh",
            title="State of health",
            unit="fraction of nominal capacity",
            kind="regression",
            cadence="cycle",
            label="soh_fraction",
            feature_names=CYCLE_FEATURES,
            forbidden=_HEALTH_LABELS,
            baselines=("mean", "cycle_count"),
            minimum_cycles=1,
            floor=0.1,
        ),
        Target(
            name="temperature",
            title="Battery temperature ahead",
            unit="degC",
            kind="regression",
            cadence="reading",
            label="temperature_ahead_c",
            feature_names=READING_FEATURES,
            forbidden=("temperature_ahead_c",),
            baselines=("persistence", "mean"),
            offset="temperature_c",
            floor=10.0,
        ),
        Target(
            name="rul",
            title="Remaining useful life",
            unit="equivalent full cycles",
            kind="regression",
            cadence="cycle",
            label="remaining_cycles",
            feature_names=CYCLE_FEATURES,
            forbidden=_HEALTH_LABELS,
            baselines=("mean", "cycle_count", "linear_extrapolation"),
            minimum_cycles=10,
            floor=50.0,
        ),
        Target(
            name="failure",
            title="Failure probability",
            unit="probability",
            kind="classification",
            cadence="cycle",
            label="fails_within_horizon",
            feature_names=CYCLE_FEATURES,
            forbidden=_HEALTH_LABELS,
            baselines=("base_rate", "cycle_count"),
            minimum_cycles=10,
            floor=0.1,
        ),
    )
}

TARGET_NAMES: tuple[str, ...] = tuple(TARGETS)
