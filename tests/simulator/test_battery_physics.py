"""Property tests of a simulated battery in use: physical ranges, monotone counters, rest, and more use more ageing."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physics.cell import open_circuit_voltage_v
from physics.pack import CORE_C, SOC
from simulator.battery import Battery
from simulator.battery_days import advance_days
from simulator.battery_physics import record
from simulator.battery_state import CHARGE, DRIVE, REST, Activity, BatteryState
from simulator.climate import ambient_c
from simulator.designs import CAR_MODELS
from simulator.driving import STANDING
from simulator.faults import KIND_NAMES, Defect
from simulator.sensors import CELL_MEDIAN_V, SAMPLE_SIZE

SINCE = datetime(2019, 7, 1, tzinfo=UTC)
MODELS = range(len(CAR_MODELS))


@cache
def battery(model: int, index: int = 0) -> Battery:
    return Battery(3, index, SINCE, models=(CAR_MODELS[model],), ageing_spread=1.0, hazard_scale=1.0)


def in_range(state: BatteryState) -> None:
    assert np.isfinite(state.groups).all()
    assert (state.groups[:, SOC] > -0.1).all()
    assert (state.groups[:, SOC] < 1.02).all()
    assert (state.groups[:, CORE_C] > -40.0).all()
    assert (state.groups[:, CORE_C] < 90.0).all()
    assert 0.0 <= state.bms_soc <= 1.0
    assert 0.0 <= state.defect.severity <= 1.0
    assert (state.ageing >= 0.0).all()


def in_activity(one: Battery, kind: int, soc: float, seconds: float, watts: float) -> BatteryState:
    """State after an activity, from a state of charge."""
    own = one.state
    one.set_at_rest(soc, one.core_c)
    start, one.state = one.state, own
    start = start._replace(bms_soc=soc, drive=STANDING, activity=Activity(kind, seconds, watts, 1.0))
    samples = np.empty((int(2 * seconds / 30.0) + 30, SAMPLE_SIZE))
    return record(start, one.design, one.overrides, 30.0, samples, np.random.default_rng(1))[0]


@settings(max_examples=40, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    steps=st.lists(
        st.tuples(
            st.sampled_from((DRIVE, REST, CHARGE)), st.floats(0.05, 1.0), st.floats(60.0, 7200.0), st.floats(2e3, 2e5)
        ),
        min_size=1,
        max_size=4,
    ),
    days=st.floats(0.1, 400.0),
    kind=st.sampled_from((-1, *range(len(KIND_NAMES)))),
    severity=st.floats(0.0, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_state_leaves_its_physical_range(
    model: int, steps: list[tuple[int, float, float, float]], days: float, kind: int, severity: float, seed: int
) -> None:
    one = battery(model)
    first = one.state
    rng = np.random.default_rng(seed)
    try:
        one.state = first._replace(defect=Defect(0.1, kind, severity if kind >= 0 else 0.0))
        one.state = advance_days(one.state, one.design, one.overrides, days, rng)
        in_range(one.state)
        for activity, soc, seconds, watts in steps:
            before = one.state
            one.state = in_activity(one, activity, soc, seconds, watts)
            in_range(one.state)
            assert one.state.discharged_ah >= before.discharged_ah
            assert one.state.odometer_km >= before.odometer_km
            assert (one.state.ageing >= before.ageing).all()
    finally:
        one.state = first


@pytest.mark.parametrize("model", MODELS)
def test_driving_warms_and_a_resting_pack_relaxes_to_its_ocv_and_the_air(model: int) -> None:
    one = battery(model)
    driven = in_activity(one, DRIVE, 0.9, 3600.0, 0.0)
    rested = in_activity(one, REST, 0.9, 3600.0, 0.0)
    assert driven.groups[:, CORE_C].mean() > rested.groups[:, CORE_C].mean() + 0.02
    start = driven._replace(activity=Activity(REST, 3e5, 0.0, 1.0), drive=STANDING)
    samples = np.empty((7200, SAMPLE_SIZE))
    parked, rows, _ = record(start, one.design, one.overrides, 60.0, samples, np.random.default_rng(1))
    cell = one.design.pack.cell
    mean = parked.groups[2]
    at_rest_v = open_circuit_voltage_v(float(mean[SOC]), cell) + cell.hysteresis_v * float(mean[1])
    assert samples[rows - 1, CELL_MEDIAN_V] == pytest.approx(at_rest_v, abs=0.003)
    # Two days behind the mean of the air, which swings.
    air_c = np.mean([ambient_c(parked.time_s - 3600.0 * hour, one.design.climate) for hour in range(24)])
    assert mean[CORE_C] == pytest.approx(air_c, abs=3.0)


@pytest.mark.parametrize("model", MODELS)
def test_more_use_never_means_less_ageing(model: int) -> None:
    one = battery(model)
    losses = []
    for factor in (0.0, 0.5, 1.0, 2.0):
        usage = one.design.usage._replace(km_per_day=factor * one.design.usage.km_per_day, long_share=0.0)
        design = one.design._replace(usage=usage, plan=one.design.plan._replace(threshold=1e9))
        state = advance_days(one.state, design, one.overrides, 1500.0, np.random.default_rng(5))
        # Losses of use; those of storage depend on the charge at which the car stands.
        losses.append(state.ageing[:, 1].min())
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]
