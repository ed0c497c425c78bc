"""Reduces readings to the few observations per cycle from which end-of-life and fault labels can be computed later.

Readings are deleted after 30 days.  Of every whole cycle at most three are kept: the first that reports a health, the
last at which health crossed a whole percent, and the one with the highest warning level.  `features.labels.end_of_life`
of these equals that of all readings if its fraction is a whole percent and health crosses at most one per cycle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

ObservationKind = Literal["first", "change", "alarm"]


@dataclass(frozen=True)
class HealthReading:
    """The health and warning fields of a reading; `soh` in percent, None where missing."""

    time: datetime
    cycle_index: float
    soh: float | None
    warning_level: float | None


@dataclass(frozen=True)
class Observation:
    """A reading that is kept as the `kind` of its whole cycle.

    Attributes:
        soh_before: for a change, the health reported before it, %.
    """

    cycle: int
    kind: ObservationKind
    reading: HealthReading
    soh_before: float | None = None


@dataclass(frozen=True)
class ObservationState:
    """State of the observation of one battery.

    Attributes:
        until: cursor: time of the last observed reading.
        cycle_index: highest age observed, equivalent full cycles.
        soh_cycle, soh: whole cycle of the last reported health, and that health, %.
        alarm_level: highest warning level in the current whole cycle.
        watched: whether it has ever reported a health or a warning level.
    """

    until: datetime | None = None
    cycle_index: float | None = None
    soh_cycle: int | None = None
    soh: float | None = None
    alarm_level: float = 0.0
    watched: bool = False


def observe(
    observed: ObservationState, readings: Iterable[HealthReading]
) -> tuple[ObservationState, list[Observation]]:
    """Observe `readings` of one battery, later than `observed.until` and in time order.

    Returns:
        The new state, and the observations to store; of two with the same cycle and kind the later one counts.
    """
    observations: list[Observation] = []
    for reading in readings:
        observed = _observe_reading(observed, reading, observations)
    return observed, observations


def _observe_reading(
    observed: ObservationState, reading: HealthReading, observations: list[Observation]
) -> ObservationState:
    # An age that decreases is a reset counter; the battery state ignores it too.
    age = reading.cycle_index if observed.cycle_index is None else max(reading.cycle_index, observed.cycle_index)
    reading = replace(reading, cycle_index=age)
    cycle = math.floor(age)
    is_new_cycle = observed.cycle_index is None or cycle > math.floor(observed.cycle_index)
    alarm = 0.0 if is_new_cycle else observed.alarm_level
    soh_cycle, before = observed.soh_cycle, observed.soh
    if reading.soh is not None:
        if before is None or cycle != soh_cycle:
            observations.append(Observation(cycle, "first", reading))
        elif math.floor(reading.soh) != math.floor(before):
            observations.append(Observation(cycle, "change", reading, before))
        soh_cycle, before = cycle, reading.soh
    if reading.warning_level is not None and reading.warning_level > alarm:
        alarm = reading.warning_level
        observations.append(Observation(cycle, "alarm", reading))
    watched = observed.watched or reading.soh is not None or reading.warning_level is not None
    return ObservationState(reading.time, age, soh_cycle, before, alarm, watched)
