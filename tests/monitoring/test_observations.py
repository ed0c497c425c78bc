"""Observations: the few readings kept per cycle give the same end of life as all readings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.labels import end_of_life
from monitoring.evaluation.observations import HealthReading, Observation, ObservationState, observe

START = datetime(2026, 1, 1, tzinfo=UTC)


def readings_of(cycles: list[float], health: list[float | None], warnings: list[float | None]) -> list[HealthReading]:
    rows = zip(cycles, health, warnings, strict=True)
    return [HealthReading(START + timedelta(minutes=n), *row) for n, row in enumerate(rows)]


def stored_points(observations: list[Observation]) -> list[tuple[float, float | None]]:
    """Age and health as in `EvaluationStore.battery_history`: a change is preceded by the health before it."""
    newest = {(one.cycle, one.kind): one for one in observations if one.kind != "alarm"}
    points = []
    for one in sorted(newest.values(), key=lambda one: one.reading.time):
        if one.kind == "change":
            points.append((one.reading.cycle_index, one.soh_before))
        points.append((one.reading.cycle_index, one.reading.soh))
    return points


def points_of(readings: list[HealthReading]) -> list[tuple[float, float | None]]:
    return [(reading.cycle_index, reading.soh) for reading in readings]


def eol(points: list[tuple[float, float | None]], fraction: float) -> float:
    known = [(cycle, soh) for cycle, soh in points if soh is not None]
    cycles, health = np.array(known, dtype=float).reshape(-1, 2).T
    return end_of_life(cycles, health / 100.0, fraction)


#: Cycle steps and health that varies around one whole percent; None where not reported.
STEPS = st.lists(
    st.tuples(st.sampled_from([0.05, 0.3, 0.7]), st.sampled_from([None, 79.6, 79.9, 80.0, 80.4])), max_size=60
)


@given(steps=STEPS, cut=st.integers(0, 60))
def test_end_of_life_of_observations_equals_that_of_all_readings(
    steps: list[tuple[float, float | None]], cut: int
) -> None:
    cycles = list(np.cumsum([step for step, _ in steps]))
    readings = readings_of(cycles, [soh for _, soh in steps], [None] * len(steps))
    observed, first = observe(ObservationState(), readings[:cut])
    _, second = observe(observed, readings[cut:])
    stored = stored_points(first + second)
    assert eol(stored, 0.8) == pytest.approx(eol(points_of(readings), 0.8), nan_ok=True)
    assert len(stored) <= 3 * len({int(cycle) for cycle in cycles})


def test_thinning_by_count_changes_the_end_of_life() -> None:
    """Negative control of the property: thinning by count misses where health crossed the limit."""
    readings = readings_of(list(np.arange(0.0, 3.0, 0.1)), [80.4] * 14 + [79.9] * 16, [None] * 30)
    assert eol(points_of(readings[::10]), 0.8) != eol(points_of(readings), 0.8)
    assert eol(stored_points(observe(ObservationState(), readings)[1]), 0.8) == eol(points_of(readings), 0.8)


def test_rising_warning_levels_are_observed_once_per_cycle() -> None:
    readings = readings_of([10.0, 10.1, 10.2, 10.3, 10.4], [None] * 5, [0.0, 1.0, 3.0, 3.0, 1.0])
    observed, observations = observe(ObservationState(), readings)
    alarms = [one.reading for one in observations if one.kind == "alarm"]
    assert [(one.cycle_index, one.warning_level) for one in alarms] == [(10.1, 1.0), (10.2, 3.0)]
    _, later = observe(observed, readings_of([11.0], [None], [3.0]))
    assert [(one.cycle, one.kind) for one in later] == [(11, "alarm")]


def test_battery_without_health_and_warnings_has_no_observations() -> None:
    observed, observations = observe(ObservationState(), readings_of([1.0, 2.0], [None, None], [None, None]))
    assert observations == []
    assert not observed.watched
    assert observed.cycle_index == 2.0


def test_decreasing_age_is_ignored() -> None:
    observed, observations = observe(ObservationState(), readings_of([50.0, 3.0], [90.0, 90.0], [None, None]))
    assert observed.cycle_index == 50.0
    assert [one.cycle for one in observations] == [50]
