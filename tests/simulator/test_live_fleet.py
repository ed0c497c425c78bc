"""The live fleet: ages, the battery without cooling, the charging and the silent one; equal for an equal seed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features import state
from features.plausibility import N_KINDS
from features.state_update import readings_matrix, update_from_readings
from simulator.injections import with_injections
from simulator.live_fleet import (
    CHARGING,
    SILENCE,
    SILENT,
    UNSEEN,
    WITHOUT_COOLING,
    default_injections,
    start_batteries,
)
from simulator.live_pack import LivePack
from telemetry.health import battery_health

ROOT = Path(__file__).resolve().parents[2]
AT = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def fleet() -> list[LivePack]:
    return start_batteries(10, ROOT / "params.yaml", AT)


def test_ages_are_mixed_and_few_batteries_are_worn(fleet: list[LivePack]) -> None:
    soh = np.array([pack.battery.soh for pack in fleet])
    assert soh.max() > 0.95
    assert np.ptp(soh) > 0.08
    assert (soh < 0.85).sum() <= 3
    assert soh.min() >= 0.8
    assert not any(pack.battery.has_failed for pack in fleet)
    assert len({pack.battery.identity.model.name for pack in fleet}) >= 3
    assert len({pack.battery.identity.usage.name for pack in fleet}) >= 3
    assert np.ptp([pack.battery.design.climate.mean_c for pack in fleet]) > 10.0


def test_the_last_week_has_a_log_about_every_day_and_the_last_hours_no_pause(fleet: list[LivePack]) -> None:
    for number, pack in enumerate(fleet):
        times = pack.history()["time"]
        assert times.is_monotonic_increasing
        days = times[times > AT - timedelta(days=29)].dt.date.nunique()
        week = times[times > AT - timedelta(days=7)].dt.date.nunique()
        assert days - 2 > week >= 4
        today = times[times >= AT - timedelta(hours=10)]
        pauses = today.diff().dropna()
        assert pauses[pauses > timedelta(seconds=30)].tolist() == ([UNSEEN] if number == CHARGING else [])
        end = AT - SILENCE if number == SILENT else AT
        assert timedelta(0) <= end - times.iloc[-1] <= timedelta(seconds=20)


def implausible(pack: LivePack, readings: pd.DataFrame) -> int:
    """Number of readings with an implausible kind in the state update of `readings`."""
    row = pack.batteries_row().iloc[0]
    states = state.new_states(1)
    state.set_battery(
        states[0],
        nominal_capacity_ah=float(row["nominal_capacity_ah"]),
        cells_in_series=float(row["cells_in_series"]),
        chemistry=str(row["chemistry"]),
    )
    update_from_readings(states, np.zeros(len(readings), dtype=np.int64), readings_matrix(readings))
    return int(states[0, state.IMPLAUSIBLE_COUNT : state.IMPLAUSIBLE_COUNT + N_KINDS].sum())


def test_histories_are_plausible_and_no_car_charges_while_it_drives(fleet: list[LivePack]) -> None:
    for pack in fleet:
        history = pack.history()
        assert implausible(pack, history) == 0, pack.battery_id
        assert (history.loc[history["is_charging"] == 1.0, "speed_kmh"] == 0.0).all()
    # Negative control: the current with the wrong sign.
    history = fleet[CHARGING].history()
    assert implausible(fleet[CHARGING], history.assign(current=-history["current"])) > 0


def test_one_loses_its_cooling_one_charges_and_one_is_silent(fleet: list[LivePack]) -> None:
    newest = [pack.history().iloc[-1] for pack in fleet]
    assert [bool(reading["is_charging"]) for reading in newest] == [number == CHARGING for number in range(10)]
    assert 40.0 < newest[WITHOUT_COOLING]["temperature"] < 47.0
    assert all(reading["temperature"] < 40.0 for n, reading in enumerate(newest) if n != WITHOUT_COOLING)
    batteries = with_injections(fleet, default_injections(10), speed=1.0)
    for battery in batteries:
        battery.read(AT + timedelta(seconds=30))
    for minute in range(1, 6):
        readings = [battery.read(AT + timedelta(minutes=minute)) for battery in batteries]
    assert [number for number, reading in enumerate(readings) if reading is None] == [SILENT]
    hot = readings[WITHOUT_COOLING]
    assert hot is not None
    assert battery_health(None, None, float(str(hot["temperature"])), None) == "WARNING"


def test_the_same_seed_and_time_give_the_same_fleet() -> None:
    first, second = (start_batteries(5, ROOT / "params.yaml", AT) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.history().equals(other.history())


def test_a_small_or_healthy_fleet_has_no_faults() -> None:
    assert default_injections(4) == []
    assert default_injections(10, is_mixed=False) == []
    for pack in start_batteries(2, ROOT / "params.yaml", AT):
        newest = pack.history().iloc[-1]
        assert not newest["is_charging"]
        assert newest["temperature"] < 40.0
        assert AT - newest["time"] < timedelta(minutes=1)
