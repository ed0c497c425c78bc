"""Labels: permanent end of life, censoring, and a temperature horizon that never crosses a gap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import labels


def test_end_of_life_ignores_a_dip_that_recovers() -> None:
    cycles = np.arange(1.0, 8.0)
    dips_and_recovers = np.array([0.90, 0.79, 0.85, 0.81, 0.79, np.nan, 0.78])
    assert labels.end_of_life(cycles, dips_and_recovers, 0.8) == 5.0
    assert np.isnan(labels.end_of_life(cycles, np.full(7, 0.9), 0.8))
    assert np.isnan(labels.end_of_life(cycles, np.full(7, np.nan), 0.8))
    assert labels.end_of_life(cycles, np.full(7, 0.5), 0.8) == 1.0


def test_remaining_cycles_of_a_censored_battery_are_unknown() -> None:
    assert np.isnan(labels.remaining_cycles(np.arange(5.0), float("nan"))).all()


def test_remaining_cycles_are_unknown_after_the_end_of_life() -> None:
    remaining = labels.remaining_cycles(np.arange(1.0, 6.0), 3.0)
    assert remaining[:2].tolist() == [2.0, 1.0]
    assert np.isnan(remaining[2:]).all()


@given(
    last=st.integers(1, 400),
    eol=st.none() | st.integers(1, 400),
    horizon=st.integers(1, 150),
    faults=st.lists(st.integers(1, 400), max_size=4),
)
def test_failure_label_is_unknown_beyond_the_observed_record(
    last: int, eol: int | None, horizon: int, faults: list[int]
) -> None:
    index = np.arange(1.0, last + 1.0)
    eol_cycle = float("nan") if eol is None or eol > last else float(eol)
    events = np.array([float(f) for f in faults if f <= last])
    label = labels.failure_within(
        index, horizon_cycles=horizon, event_cycles=events, eol_cycle=eol_cycle, last_observed_cycle=float(last)
    )
    for i, cycle in enumerate(index):
        ahead = [e for e in [*events, eol_cycle] if cycle < e <= cycle + horizon]
        if not np.isnan(eol_cycle) and cycle >= eol_cycle:
            assert np.isnan(label[i])
        elif ahead:
            assert label[i] == 1.0
        elif cycle + horizon <= last:
            assert label[i] == 0.0
        else:
            assert np.isnan(label[i])  # censored: neither a failure nor evidence against one


def ahead(time_s: list[float], temperature: list[float]) -> np.ndarray:
    return labels.value_ahead(
        np.array(time_s), np.array(temperature), horizon_s=300.0, tolerance_s=30.0, max_gap_s=120.0
    )


def test_temperature_label_is_the_reading_nearest_to_the_horizon() -> None:
    times = [0.0, 100.0, 200.0, 290.0, 305.0, 400.0]
    assert ahead(times, [20.0, 21.0, 22.0, 23.0, 24.0, 25.0])[:2] == pytest.approx([24.0, 25.0])


def test_temperature_label_is_unknown_across_a_gap() -> None:
    times = [0.0, 60.0, 120.0, 300.0, 360.0]  # 180 s without a reading
    assert np.isnan(ahead(times, [20.0, 20.0, 20.0, 30.0, 31.0])).all()


def test_temperature_label_is_unknown_outside_the_tolerance() -> None:
    assert np.isnan(ahead([0.0, 100.0, 200.0], [1.0, 2.0, 3.0])).all()
    assert ahead([], []).size == 0


def test_life_quarters() -> None:
    assert labels.life_quarter(np.array([0.0, 24.0, 25.0, 60.0, 99.0, 100.0, 130.0]), 100.0).tolist() == [
        1, 1, 2, 3, 4, 4, 4,
    ]  # fmt: skip
