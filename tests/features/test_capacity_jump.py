"""A lasting jump of capacity is noticed as another pack under the same id; scatter, single or fast charges are not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import plausibility, state_update
from features import state as s
from features.battery_row import set_battery_from_row
from simulator.battery import Battery
from simulator.designs import CAR_MODELS
from telemetry.contract import SIGNALS

SINCE = datetime(2020, 1, 1, tzinfo=UTC)
LEAST, CONFIRMED = int(plausibility.CAPACITY_KNOWN_AFTER), int(plausibility.CAPACITY_CONFIRMED_BY)


def pack(model: str, *, since: datetime = SINCE, soh: float = 1.1, index: int = 0) -> Battery:
    """A simulated battery of a car model, used until its state of health is `soh`."""
    models = tuple(one for one in CAR_MODELS if one.name == model)
    battery = Battery(5, index, since, models=models, ageing_spread=1.0, hazard_scale=1e-9)
    while battery.soh > soh:
        battery.advance_days(30.0)
    return battery


def readings(battery: Battery, logs: int) -> pd.DataFrame:
    """Telematics logs of successive days, each with a charge; the pack reports no cycle count."""
    found = []
    for _ in range(logs):
        battery.advance_days(battery.days_to_next_recording(0.5))
        found.append(battery.readings(battery.log(30.0)))
    return pd.concat(found, ignore_index=True).assign(charge_cycles=np.nan)


def update(state: np.ndarray, rows: pd.DataFrame) -> None:
    state_update.update_from_readings(
        state[None], np.zeros(len(rows), dtype=np.int64), state_update.readings_matrix(rows)
    )


def flagged(state: np.ndarray) -> int:
    """How many readings had the kind `capacity`."""
    return int(s.implausible_counts(state[None])[0, plausibility.CAPACITY])


@pytest.mark.parametrize("model", ["leaf-30", "bolt-66", "model3-79"])
def test_replaced_pack_is_noticed_and_the_former_one_never(model: str) -> None:
    old = pack(model, soh=0.82)
    (state,) = s.new_states(1)
    set_battery_from_row(state, old.identity.row())
    update(state, readings(old, 60))
    assert state[s.CAPACITY_CHARGES] >= 3 * LEAST, "the former pack was charged slowly often enough to show scatter"
    assert flagged(state) == 0
    new = pack(model, since=datetime.fromtimestamp(old.state.time_s + 86_400.0, UTC), index=1)
    update(state, readings(new, 40))
    assert state[s.CAPACITY_JUMPS] >= CONFIRMED
    assert int(state[s.IMPLAUSIBLE]) >> plausibility.CAPACITY & 1, "and stays until the event is entered"
    assert not int(state[s.IMPLAUSIBLE]) & (plausibility.WITHHOLD_BY_CYCLE | plausibility.WITHHOLD_BY_READING)
    found = s.implausible_counts(state[None])[0]
    assert found[plausibility.CAPACITY] == found.sum() > 0
    (anew,) = s.new_states(1)  # as after the event `replaced`
    set_battery_from_row(anew, old.identity.row())
    update(anew, readings(new, 20))
    assert flagged(anew) == 0


def charged(capacities: list[float], c_rates: list[float] | None = None) -> np.ndarray:
    """A state of a 100 Ah pack after slow charges, or charges with `c_rates`."""
    states = s.new_states(1)
    s.set_battery(states[0], nominal_capacity_ah=100.0, cells_in_series=96)
    cycles = np.full((len(capacities), 1 + len(SIGNALS)), np.nan)
    cycles[:, 0] = np.arange(1.0, 1.0 + len(capacities))
    cycles[:, 1 + SIGNALS.index(plausibility.CAPACITY_SIGNAL)] = 16.0 * np.array(capacities)
    cycles[:, 1 + SIGNALS.index("charge_current_mean_a")] = 100.0 * np.array(c_rates or [0.1] * len(capacities))
    state_update.update_from_cycles(states, np.zeros(len(cycles), dtype=np.int64), cycles)
    one: dict[str, Any] = {"time": pd.to_datetime([SINCE], utc=True), "voltage": 350.0, "current": 1.0}
    update(states[0], pd.DataFrame({**one, "temperature": 20.0}))
    return states[0]


@settings(deadline=None)  # the first call compiles
@given(
    st.lists(st.floats(0.97, 1.03), min_size=LEAST, max_size=30),
    st.lists(st.floats(1.12, 1.4), max_size=2 * CONFIRMED),
    st.floats(0.5, 1.5),
)
def test_only_enough_charges_in_a_row_are_a_jump(before: list[float], after: list[float], level: float) -> None:
    state = charged([level * x for x in (*before, *after)])
    assert flagged(state) == (len(after) >= CONFIRMED)
    # One usual charge, and the next jump must be confirmed anew.
    assert flagged(charged([level * x for x in (*before, *after[: CONFIRMED - 1], 1.0, 1.3)])) == 0


@settings(deadline=None)
@given(st.lists(st.floats(0.96, 1.03), max_size=60))
def test_scatter_is_no_jump(capacities: list[float]) -> None:
    assert flagged(charged(capacities)) == 0


def test_falling_capacity_is_ageing_and_fast_charges_do_not_count() -> None:
    assert flagged(charged([1.0] * 20 + [0.7] * 20)) == 0
    rising = [1.0] * 20 + [1.2] * 20
    assert flagged(charged(rising)) == 1
    assert flagged(charged(rising, [0.1] * 20 + [0.6] * 20)) == 0
    assert flagged(charged([1.0] * (LEAST - 1) + [1.2] * CONFIRMED)) == 0, "too few charges to compare with"
