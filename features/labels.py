"""Labels of the targets, computed from later measurements; NaN where the label is unknown.

A battery that has not failed when its record ends is right-censored: its remaining life is
unknown, not short, and it counts as not failed only for the observed part of the horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from features.state import FloatArray
from telemetry.parameters import Parameters


class LabelParams(Parameters):
    """Label definitions: end of life, failure and horizons; `targets` in params.yaml.

    An empty entry there has the default below; in the pipeline that of the source takes precedence (`definitions`).
    """

    section: ClassVar[str] = "targets"

    eol_fraction: float = Field(0.8, gt=0.0, lt=1.0)
    failure_horizon_cycles: PositiveFloat = 100.0
    temperature_horizon_s: PositiveFloat = 300.0
    temperature_tolerance_s: NonNegativeFloat = 30.0
    temperature_every_s: PositiveFloat = 300.0
    fault_warning_level: float = 3.0
    min_rows: PositiveInt = 50
    min_events: NonNegativeInt = 10

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """As `Parameters.of`; an empty entry has the default."""
        section = params.get(cls.section) or {}
        return super().of({cls.section: {name: value for name, value in section.items() if value is not None}})


def definitions(params: Mapping[str, Any], of_source: Mapping[str, float]) -> dict[str, Any]:
    """Section `targets` of params.yaml with defaults in place of its empty entries, as stored with a model.

    Args:
        params: content of params.yaml.
        of_source: defaults of the data source, which take precedence over those of `LabelParams`.

    Raises:
        TwinError: for the first parameter that is unknown or out of range.
    """
    filled = {name: of_source.get(name) if value is None else value for name, value in params["targets"].items()}
    defaults = LabelParams.of({"targets": filled})
    return {name: getattr(defaults, name) if value is None else value for name, value in filled.items()}


#: Column with the result of `observed_cycles`.
OBSERVED = "observed_cycles"


@dataclass(frozen=True, kw_only=True)
class BatteryRecord:
    """Everything observed of one battery that labels of its cycles are computed from.

    Attributes:
        health_cycles: float64[n], ascending: ages (equivalent full cycles) at which health was measured.
        health: float64[n], as a fraction of the nominal capacity.
        alarm_cycles, alarm_levels: float64[k], ages at which the pack reported a warning level, and that level.
        last_cycle: age up to which it was observed.
        watched: whether it reports health or warnings at all; without either, the absence of a warning is no label.
        cycle_index: float64[m], ascending: ages at the ends of its cycles.
        cycles: float64[m] by column of `battery_cycles`, for the `label_columns` of all targets.
        health_tolerance_cycles: largest distance from a health measurement at which it is the label.
    """

    health_cycles: FloatArray
    health: FloatArray
    alarm_cycles: FloatArray
    alarm_levels: FloatArray
    last_cycle: float
    watched: bool
    cycle_index: FloatArray
    cycles: Mapping[str, FloatArray]
    health_tolerance_cycles: float = 0.0

    def end_of_life(self, params: LabelParams) -> float:
        """Age at end of life according to the record; NaN if not reached."""
        return end_of_life(self.health_cycles, self.health, params.eol_fraction)

    def censored_at(self, params: LabelParams) -> float:
        """Age at the last measured health of a battery that has not reached its end of life; NaN for others."""
        if not len(self.health_cycles) or not np.isnan(self.end_of_life(params)):
            return float("nan")
        return float(self.health_cycles[-1])


#: Labels at float64[n] ages (equivalent full cycles) of one battery, in the unit of the target; NaN if unknown.
LabelFunction = Callable[[FloatArray, BatteryRecord, LabelParams], FloatArray]


def no_cycle_label(ages: FloatArray, record: BatteryRecord, params: LabelParams) -> FloatArray:
    """The label of a target without labels by cycle: unknown."""
    return np.full(len(ages), np.nan)


def measured_health(ages: FloatArray, record: BatteryRecord, params: LabelParams) -> FloatArray:
    """State of health as a fraction, from the nearest measurement; of two equally near the earlier."""
    if not len(record.health_cycles):
        return np.full(len(ages), np.nan)
    nearest = _nearest(record.health_cycles, ages)
    nearest = np.searchsorted(record.health_cycles, record.health_cycles[nearest])  # the first one at that age
    is_near = np.abs(record.health_cycles[nearest] - ages) <= record.health_tolerance_cycles
    return np.where(is_near, record.health[nearest], np.nan)


def remaining_life(ages: FloatArray, record: BatteryRecord, params: LabelParams) -> FloatArray:
    """Equivalent full cycles until the end of life."""
    return remaining_cycles(ages, record.end_of_life(params))


def observed_cycles(ages: FloatArray, record: BatteryRecord, params: LabelParams) -> FloatArray:
    """Equivalent full cycles that a right-censored battery was observed for: its remaining life is longer.

    NaN for a battery that has reached its end of life, and where its health is not known any more.
    """
    observed = record.censored_at(params) - ages
    return np.where(observed >= 0.0, observed, np.nan)


def failure(ages: FloatArray, record: BatteryRecord, params: LabelParams) -> FloatArray:
    """1 if the battery reaches its end of life or shows a fault within the horizon, else 0."""
    return failure_within(
        ages,
        horizon_cycles=params.failure_horizon_cycles,
        event_cycles=record.alarm_cycles[record.alarm_levels >= params.fault_warning_level],
        eol_cycle=record.end_of_life(params),
        last_observed_cycle=record.last_cycle if record.watched else -np.inf,
    )


def end_of_life(cycle_index: FloatArray, soh: FloatArray, eol_fraction: float) -> float:
    """First cycle from which every later measured state of health is below `eol_fraction`; NaN if there is none.

    Args:
        cycle_index: float64[n], ascending.
        soh: float64[n], measured capacity / nominal capacity as a fraction; NaN where not measured.
    """
    measured = ~np.isnan(soh)
    index, below = cycle_index[measured], soh[measured] < eol_fraction
    if not below.size or not below[-1]:
        return float("nan")
    recovered = np.flatnonzero(~below)
    return float(index[recovered[-1] + 1] if recovered.size else index[0])


def remaining_cycles(cycle_index: FloatArray, eol_cycle: float) -> FloatArray:
    """Equivalent full cycles until `eol_cycle`; NaN from then on and for a battery that did not reach it."""
    remaining = eol_cycle - cycle_index
    return np.where(remaining > 0.0, remaining, np.nan)


def failure_within(
    cycle_index: FloatArray,
    *,
    horizon_cycles: float,
    event_cycles: FloatArray,
    eol_cycle: float,
    last_observed_cycle: float,
) -> FloatArray:
    """1 if the battery fails within the horizon, 0 if it was observed that long and did not, NaN if unknown.

    Args:
        cycle_index: float64[n], when the prediction is made.
        event_cycles: float64[k], cycles at which faults occurred.
        eol_cycle: end of life, NaN if it was not reached; rows from then on get NaN, as the battery has failed already.
        last_observed_cycle: cycle at which the record ends.
    """
    events = np.sort(np.append(event_cycles, eol_cycle) if not np.isnan(eol_cycle) else event_cycles)
    following = np.searchsorted(events, cycle_index, side="right")
    next_event = np.append(events, np.inf)[following]
    label = np.full(len(cycle_index), np.nan)
    label[cycle_index + horizon_cycles <= last_observed_cycle] = 0.0
    label[next_event <= cycle_index + horizon_cycles] = 1.0
    if not np.isnan(eol_cycle):
        label[cycle_index >= eol_cycle] = np.nan
    return label


def value_ahead(
    time_s: FloatArray,
    values: FloatArray,
    *,
    horizon_s: float,
    tolerance_s: float,
    max_gap_s: float,
) -> FloatArray:
    """Value at the reading nearest to `time_s + horizon_s`, within `tolerance_s`, never across a gap.

    Args:
        time_s: float64[n], strictly ascending, of one battery.
        values: float64[n], of one signal.

    Returns:
        float64[n], NaN where there is no such reading.
    """
    if not len(time_s):
        return np.empty(0)
    due = time_s + horizon_s
    nearest = _nearest(time_s, due)
    segment = np.cumsum(np.diff(time_s, prepend=time_s[0]) > max_gap_s)
    known = (np.abs(time_s[nearest] - due) <= tolerance_s) & (segment[nearest] == segment) & (time_s[nearest] > time_s)
    return np.where(known, values[nearest], np.nan)


def _nearest(ascending: FloatArray, wanted: FloatArray) -> NDArray[np.int64]:
    """Index of the element of `ascending` nearest to each of `wanted`; of two equally near the earlier."""
    after = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(np.abs(ascending[after] - wanted) < np.abs(ascending[before] - wanted), after, before)


def life_quarter(cycle_index: FloatArray, end_cycle: float) -> FloatArray:
    """Quarter of life (1 to 4) at each cycle; `end_cycle` is the end of life or, if censored, the end of the record."""
    if not end_cycle > 0.0:
        return np.ones(len(cycle_index))
    return np.clip(np.floor(4.0 * cycle_index / end_cycle) + 1.0, 1.0, 4.0)
