"""Definitions of the prediction targets: label, features, baselines, ground truth and presentation, one entry each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from features import labels
from features.state import FloatArray
from features.state_update import CYCLE_FEATURES, READING_FEATURES


@dataclass(frozen=True)
class Presentation:
    """How a target appears outside: in the API, the telemetry store, the metrics and on the pages.

    Attributes:
        field: its name in the API.
        short: its name in narrow columns.
        unit: of its values outside.
        symbol: the unit on pages and in tables.
        decimals: number of decimals on pages.
        axis_span: smallest span of the value axis of a chart, and as a fraction of the values.
        description: meaning of the value, for API documents and metrics.
        purpose: intended use, for the model card; parameters of the labels in braces.
        no_label: why a data source may have no label.
        no_truth: why the ground truth of a prediction may not be known yet.
        error_buckets: upper bounds of the histogram of absolute errors, in `unit`.
        factor: from the target's unit to `unit`.
        minimum: smallest value that is reported, in `unit`.
        stored_column: column of `ev_telemetry` that also holds the champion's prediction.
    """

    field: str
    short: str
    unit: str
    symbol: str
    decimals: int
    axis_span: tuple[float, float]
    description: str
    purpose: str
    no_label: str
    no_truth: str
    error_buckets: tuple[float, ...]
    factor: float = 1.0
    minimum: float | None = None
    stored_column: str | None = None


@dataclass(frozen=True)
class Target:
    """Definition of one prediction target.

    Attributes:
        label: column of the target's feature table with the ground truth, in `unit`.
        cadence: whether a row is one reading or one closed cycle.
        feature_names: the model's inputs, in order.
        forbidden: contract columns from which the label is computed; none may be a feature.
        baselines: names in `training.baselines` that a model has to beat.
        matures: when the ground truth of a prediction is known: with a measurement of the same age, `horizon` seconds
            or cycles later, or at the end of life.  A target by reading matures after seconds.
        label_of: label at given ages of a battery (targets by cycle); the label of a target by reading is `signal`
            after the horizon.
        horizon: a number, or the parameter of the labels that holds it.
        signal: column of a reading with the measured value, in the presented unit.
        label_columns: columns of `battery_cycles` that `label_of` uses, besides health and warnings.
        offset: feature whose value is added to the model output, if the model predicts a change.
        minimum_cycles: cycles that must have been observed before a prediction is given.
        floor: lower bound of the |actual| in the denominator of the relative accuracy, in `unit`.
        explained: whether predictions name, on request, the features that contribute most.
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
    matures: Literal["measured", "seconds", "cycles", "end_of_life"]
    shown: Presentation
    label_of: labels.LabelFunction = labels.no_cycle_label
    horizon: str | float = 0.0
    signal: str | None = None
    label_columns: tuple[str, ...] = ()
    offset: str | None = None
    minimum_cycles: int = 0
    floor: float = 1.0
    explained: bool = False

    @property
    def is_forecast(self) -> bool:
        """Whether a prediction is for a time, `due`."""
        return self.matures == "seconds"

    @property
    def horizon_key(self) -> str | None:
        """Name of its horizon in a release; None if it has none."""
        unit = {"seconds": "s", "cycles": "cycles"}.get(self.matures)
        return None if unit is None else f"{self.name}_{unit}"

    @property
    def predicted_column(self) -> str:
        """Column of the newest prediction in the console's battery rows."""
        return self.shown.stored_column or f"{self.name}_predicted"

    def horizon_in(self, definitions: Mapping[str, Any]) -> float:
        """The horizon according to `definitions`, the label parameters of a model."""
        return float(definitions[self.horizon]) if isinstance(self.horizon, str) else self.horizon

    def bounded(self, values: FloatArray) -> FloatArray:
        """Values in `unit`, none below the smallest that is reported."""
        return values if self.shown.minimum is None else np.maximum(values, self.shown.minimum / self.shown.factor)

    def to_shown(self, values: FloatArray) -> FloatArray:
        """Convert values from `unit` to the presented unit; NaN stays NaN."""
        scaled = values * self.shown.factor
        return scaled if self.shown.minimum is None else np.maximum(scaled, self.shown.minimum)


def signal_of(feature: str) -> str:
    """The signal that `feature` is a statistic of, or `feature` itself."""
    return feature.split("__")[0]


_HEALTH_LABELS = ("capacity_ah", "soh", "capacity_method", "warning_level", "throughput_ah")
_CYCLES = "equivalent full cycles"

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
            matures="measured",
            label_of=labels.measured_health,
            signal="soh",
            minimum_cycles=1,
            floor=0.1,
            shown=Presentation(
                field="soh",
                short="SoH",
                unit="%",
                symbol="%",
                decimals=1,
                axis_span=(2.0, 0.0),
                description="present capacity relative to the nominal capacity",
                purpose="State of health now: usable capacity as a share of the nominal one, from how the battery "
                "charges and discharges. No measured capacity is among its inputs.",
                no_label="no cycle has a measured capacity",
                no_truth="the pack does not report its state of health",
                error_buckets=(0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0),
                factor=100.0,
            ),
        ),
        Target(
            name="temperature",
            title="Temperature forecast",
            unit="degC",
            kind="regression",
            cadence="reading",
            label="temperature_ahead_c",
            feature_names=READING_FEATURES,
            forbidden=("temperature_ahead_c",),
            baselines=("persistence", "mean"),
            matures="seconds",
            horizon="temperature_horizon_s",
            signal="temperature",
            offset="temperature_c",
            floor=10.0,
            shown=Presentation(
                field="temperature",
                short="temp. forecast",
                unit="degC",
                symbol="°C",
                decimals=1,
                axis_span=(5.0, 0.0),
                description="temperature of the hottest probe at the horizon",
                purpose="Temperature of the hottest probe {temperature_horizon_s:g} s ahead. The model predicts the "
                "change from now.",
                no_label="no reading has another one at the horizon without a gap in between",
                no_truth="no forecast is due at the newest reading",
                error_buckets=(0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
            ),
        ),
        Target(
            name="rul",
            title="Remaining useful life",
            unit=_CYCLES,
            kind="regression",
            cadence="cycle",
            label="remaining_cycles",
            feature_names=CYCLE_FEATURES,
            forbidden=_HEALTH_LABELS,
            baselines=("mean", "cycle_count", "linear_extrapolation"),
            matures="end_of_life",
            label_of=labels.remaining_life,
            minimum_cycles=10,
            floor=50.0,
            explained=True,
            shown=Presentation(
                field="rul",
                short="RUL",
                unit=_CYCLES,
                symbol="cycles",
                decimals=0,
                axis_span=(20.0, 0.1),
                description="remaining useful life",
                purpose="Remaining useful life: equivalent full cycles until the capacity stays below "
                "{eol_fraction:.0%} of the nominal one. Batteries that have not reached it have no label "
                "(right-censored).",
                no_label="no battery was observed until its end of life",
                no_truth="known at the end of life of the battery",
                error_buckets=(5.0, 10.0, 25.0, 50.0, 100.0, 200.0, 400.0, 800.0),
                minimum=0.0,
                stored_column="rul_prediction",
            ),
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
            matures="cycles",
            label_of=labels.failure,
            horizon="failure_horizon_cycles",
            minimum_cycles=10,
            floor=0.1,
            explained=True,
            shown=Presentation(
                field="failure_probability",
                short="failure",
                unit="probability",
                symbol="",
                decimals=3,
                axis_span=(0.02, 0.0),
                description="probability of end of life or a fault within the horizon",
                purpose="Probability that the battery reaches its end of life or shows a fault within the next "
                "{failure_horizon_cycles:g} equivalent full cycles, calibrated by a sigmoid.",
                no_label="for no row is it known whether a failure follows within the horizon",
                no_truth="known when the horizon has elapsed or the battery has failed",
                error_buckets=(0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
                stored_column="failure_probability",
            ),
        ),
    )
}

TARGET_NAMES: tuple[str, ...] = tuple(TARGETS)
FORECASTS: tuple[str, ...] = tuple(name for name, target in TARGETS.items() if target.is_forecast)
#: Targets whose label may mature after the telemetry is deleted; the forecasts have a due time.
SLOW_TARGETS: tuple[str, ...] = tuple(name for name in TARGETS if name not in FORECASTS)
