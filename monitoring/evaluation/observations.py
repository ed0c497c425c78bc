"""What is remembered of a battery's readings: enough to tell its end of life and its faults years later.

Readings are retired after a month.  Of every whole cycle at most three stay: the first that reports a health, the last
at which health crossed a whole percent, and the one that raised the highest alarm.  `features.labels.end_of_life` gives
the same of them as of all readings where its fraction is a whole percent and health crosses at most one in a cycle.
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
    """The part of a reading that tells about life; `soh` in percent, what is missing is None."""

    time: datetime
    cycle_index: float
    soh: float | None
    warning_level: float | None


@dataclass(frozen=True)
class Observation:
    """A reading that is remembered as the `kind` of its whole cycle.

    Attributes:
        soh_before: of a change: the health reported before it, %.
    """

    cycle: int
    kind: ObservationKind
    reading: HealthReading
    soh_before: float | None = None


@dataclass(frozen=True)
class ObservationState:
    """Where the observation of one battery stands.

    Attributes:
        until: time of the last reading seen.
        cycle_index: highest age seen, equivalent full cycles.
        soh_cycle, soh: whole cycle of the last health that was reported, and that health, %.
        alarm_level: highest alarm in the present whole cycle.
        watched: whether it has ever reported a health or an alarm level.
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
    """Look at `readings` of one battery, later than `observed.until` and in time order.

    Returns:
        Where the observation stands now, and what is to be remembered; of two with one cycle and kind the later
        replaces the earlier.
    """
    found: list[Observation] = []
    for reading in readings:
        observed = _one(observed, reading, found)
    return observed, found


def _one(observed: ObservationState, reading: HealthReading, found: list[Observation]) -> ObservationState:
    # An age that goes back is that of a reset counter; the fold does not follow it either.
    age = reading.cycle_index if observed.cycle_index is None else max(reading.cycle_index, observed.cycle_index)
    reading = replace(reading, cycle_index=age)
    cycle = math.floor(age)
    is_new_cycle = observed.cycle_index is None or cycle > math.floor(observed.cycle_index)
    alarm = 0.0 if is_new_cycle else observed.alarm_level
    soh_cycle, before = observed.soh_cycle, observed.soh
    if reading.soh is not None:
        if before is None or cycle != soh_cycle:
            found.append(Observation(cycle, "first", reading))
        elif math.floor(reading.soh) != math.floor(before):
            found.append(Observation(cycle, "change", reading, before))
        soh_cycle, before = cycle, reading.soh
    if reading.warning_level is not None and reading.warning_level > alarm:
        alarm = reading.warning_level
        found.append(Observation(cycle, "alarm", reading))
    watched = observed.watched or reading.soh is not None or reading.warning_level is not None
    return ObservationState(reading.time, age, soh_cycle, before, alarm, watched)
