"""Tests of the live battery: continuation of its history, reading intervals, save and restore, injections."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from physics.pack import CORE_C, SOC
from simulator.battery_state import CHARGE, REST, Activity
from simulator.driving import STANDING
from simulator.faults import KIND_NAMES, Defect
from simulator.fleet import SimulateParams
from simulator.live_pack import LivePack
from telemetry.contract import READING_FIELDS, names
from telemetry.errors import TwinError

PARAMS = SimulateParams(days_between_logs=90.0)
AT = datetime(2026, 1, 1, 8, tzinfo=UTC)


def start(index: int = 30) -> LivePack:
    return LivePack.start(PARAMS, 7, index, at=AT)


def readings_of(pack: LivePack, seconds: float, step_s: float) -> list[dict[str, object]]:
    """Readings each `step_s` for `seconds` after the first."""
    begin = max(pack.last_time, AT)
    steps = int(seconds / step_s)
    return [pack.read(begin + timedelta(seconds=step_s * (k + 1))) for k in range(steps)]


def charge(pack: LivePack, watts: float = 50_000.0) -> None:
    """Start a charge without end at a state of charge of 30 %."""
    pack.set_charge(0.3)
    pack.battery.state = pack.battery.state._replace(drive=STANDING, activity=Activity(CHARGE, 1e6, watts, 1.0))


@pytest.mark.parametrize("index", [24, 30, 35])
def test_it_starts_in_mid_life(index: int) -> None:
    pack = start(index)
    history = pack.history()
    assert 0.8 <= pack.battery.soh < 0.99
    assert not pack.battery.has_failed
    assert list(history.columns) == names(READING_FIELDS)
    assert (history["battery_id"] == pack.battery_id).all()
    assert history["time"].max() < AT
    assert list(pack.batteries_row()["battery_id"]) == [pack.battery_id]


def test_history_ends_before_the_live_time() -> None:
    """Regression: the last log used to end three hours after the live time."""
    params = SimulateParams(batteries=48, days_between_logs=40.0)
    at = datetime(2026, 11, 26, 16, 15, 40, tzinfo=UTC)
    assert LivePack.start(params, 7, 48, at=at, life_share=0.3275).last_time <= at


def test_restored_state_continues_the_readings() -> None:
    pack = start()
    readings_of(pack, 120.0, 0.5)
    saved, identity = pack.save_state(), pack.batteries_row()
    later = LivePack.start(PARAMS, 7, 30, at=AT + timedelta(minutes=5))
    assert later.save_state() != saved
    assert later.restore_state(saved)
    assert later.save_state() == saved
    assert later.batteries_row().equals(identity)
    # Long enough to include the end of a drive, after which the next activity is random.
    assert readings_of(later, 4000.0, 10.0) == readings_of(pack, 4000.0, 10.0)


def test_a_state_of_another_fleet_is_not_restored() -> None:
    pack = start()
    before = pack.save_state()
    other = LivePack.start(SimulateParams(days_between_logs=90.0, models=("leaf-30",)), 7, 30, at=AT)
    assert not pack.restore_state(other.save_state())
    assert pack.save_state() == before


def test_first_reading_continues_the_history() -> None:
    pack = start()
    last = pack.history().iloc[-1]
    reading = pack.read(AT + timedelta(seconds=0.5))
    assert list(reading) == names(READING_FIELDS)
    assert reading["time"] == AT + timedelta(seconds=0.5)
    assert isinstance(reading["is_charging"], bool)
    days = (AT - last["time"]).total_seconds() / 86_400.0
    assert 0.0 <= reading["charge_cycles"] - last["charge_cycles"] < 1.5 * days
    assert reading["odometer_km"] > last["odometer_km"]
    assert reading["soh"] <= last["soh"]


def test_it_drives_rests_and_charges_at_two_readings_a_second() -> None:
    pack = start()
    readings = readings_of(pack, 1200.0, 0.5)
    assert np.ptp([reading["speed_kmh"] for reading in readings]) > 20.0
    cycles = [reading["charge_cycles"] for reading in readings]
    assert np.diff(cycles).min() >= 0.0
    day = [pack.read(readings[-1]["time"] + timedelta(minutes=k + 1)) for k in range(36 * 60)]
    assert {reading["is_charging"] for reading in day} == {False, True}
    assert all(3.0 < reading["soc"] <= 100.0 for reading in day)


def test_the_same_start_gives_the_same_readings() -> None:
    assert readings_of(start(), 60.0, 0.5) == readings_of(start(), 60.0, 0.5)


def test_the_reading_interval_does_not_change_the_physics() -> None:
    ends = []
    for step_s in (0.5, 10.0, 30.0):
        pack = start()
        pack.read(AT + timedelta(seconds=1.0))
        charge(pack)
        readings_of(pack, 900.0, step_s)
        ends.append((pack.battery.state.groups, pack.battery.cycles))
    for groups, cycles in ends[1:]:
        np.testing.assert_allclose(groups[:, SOC], ends[0][0][:, SOC], atol=1e-3)
        np.testing.assert_allclose(groups[:, CORE_C], ends[0][0][:, CORE_C], atol=0.05)
        assert cycles == pytest.approx(ends[0][1], abs=1e-6)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_an_injected_fault_sets_the_warning_level_until_cleared(kind: str) -> None:
    pack = start()
    assert readings_of(pack, 1.0, 0.5)[-1]["warning_level"] < 3.0
    pack.inject_fault(kind, 0.9)
    assert readings_of(pack, 1.0, 0.5)[-1]["warning_level"] < 3.0
    pack.inject_fault(kind)
    assert readings_of(pack, 1.0, 0.5)[-1]["warning_level"] == 3.0
    pack.clear_fault()
    assert readings_of(pack, 1.0, 0.5)[-1]["warning_level"] < 3.0


def test_faults_change_temperature_and_voltages() -> None:
    """Against a healthy pack: hotter without cooling, one low cell with a short, larger drop with a bad contact."""

    def hot_charge(kind: str | None, seconds: float = 1500.0) -> dict[str, object]:
        pack = start()
        pack.set_ambient_offset(35.0)
        pack.read(AT + timedelta(seconds=1.0))
        charge(pack, 100_000.0)
        if kind is not None:
            pack.inject_fault(kind)
        return readings_of(pack, seconds, 30.0)[-1]

    healthy = hot_charge(None)
    assert hot_charge("cooling_failure")["temperature"] > healthy["temperature"] + 0.9
    short = hot_charge("internal_short")
    spread = [r["cell_voltage_median"] - r["cell_voltage_min"] for r in (healthy, short)]
    assert spread[1] > spread[0] + 0.02
    early = hot_charge(None, 120.0)  # before the voltage limit makes all packs alike
    assert hot_charge("contact_resistance", 120.0)["voltage"] > early["voltage"] + 1.0


def test_overrides_change_ambient_temperature_and_wear() -> None:
    natural, worn, warm = start(), start(), start()
    worn.set_wear_speed(20.0)
    warm.set_ambient_offset(15.0)
    later = AT + timedelta(days=60)
    readings = [pack.read(later) for pack in (natural, worn, warm)]
    assert readings[1]["soh"] < readings[0]["soh"] - 1.0
    assert readings[2]["ambient_temperature"] - readings[0]["ambient_temperature"] == pytest.approx(15.0, abs=1.0)
    assert readings[2]["soh"] < readings[0]["soh"]
    assert readings[1]["charge_cycles"] == pytest.approx(readings[0]["charge_cycles"], abs=1.0)


def test_a_failed_battery_still_gives_readings() -> None:
    pack = start()
    pack.battery.state = pack.battery.state._replace(defect=Defect(0.1, KIND_NAMES.index("imbalance"), 0.95))
    for days in (100, 200):
        reading = pack.read(AT + timedelta(days=days))
        assert reading["warning_level"] == 3.0
        assert (AT + timedelta(days=days) - pack.last_time).total_seconds() == pytest.approx(0.0, abs=1e-3)


def test_a_resting_pack_has_no_current() -> None:
    pack = start()
    pack.read(AT + timedelta(seconds=1.0))
    state = pack.battery.state
    pack.battery.state = state._replace(activity=Activity(REST, 1e6, 0.0, 1.0), drive=STANDING)
    assert all(abs(reading["current"]) < 0.5 for reading in readings_of(pack, 60.0, 0.5))


def test_invalid_arguments_raise_an_error() -> None:
    pack = start()
    with pytest.raises(TwinError, match="later than"):
        pack.read(pack.last_time)
    with pytest.raises(TwinError, match="time zone"):
        pack.read(datetime(2027, 1, 1))
    with pytest.raises(TwinError, match="contact_resistance"):
        pack.inject_fault("gremlins")
    with pytest.raises(TwinError, match="severity"):
        pack.inject_fault(KIND_NAMES[0], 2.0)
    with pytest.raises(TwinError, match="factor"):
        pack.set_wear_speed(-1.0)
    with pytest.raises(TwinError, match="life_share"):
        LivePack.start(PARAMS, 7, 30, at=AT, life_share=1.5)
