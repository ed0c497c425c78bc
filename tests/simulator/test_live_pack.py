"""A live battery goes on where its history ends, at any pace, and does what it is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from simulator.faults import KIND_NAMES
from simulator.fleet import SimulateParams
from simulator.life import CHARGE, REST, Activity
from simulator.live_pack import LivePack
from telemetry.contract import READING_FIELDS, names
from telemetry.errors import TwinError

PARAMS = SimulateParams(cycles_between_logs=60.0)
AT = datetime(2026, 1, 1, 8, tzinfo=UTC)


def start(index: int = 30) -> LivePack:
    return LivePack.start(PARAMS, 7, index, at=AT)


def live(pack: LivePack, seconds: float, step_s: float) -> list[dict[str, object]]:
    """Readings each `step_s` for `seconds` after the first."""
    begin = max(pack.last_time, AT)
    steps = int(seconds / step_s)
    return [pack.read(begin + timedelta(seconds=step_s * (k + 1))) for k in range(steps)]


def charge(pack: LivePack, watts: float = 50_000.0) -> None:
    """Plug the car in for good, at 30 %."""
    state = pack.battery.state
    pack.battery.state = state._replace(
        pack=state.pack._replace(soc=0.3),
        drive=state.drive._replace(speed_m_s=0.0),
        bms_soc=0.3,
        activity=Activity(CHARGE, 1e6, watts, 1.0),
    )


@pytest.mark.parametrize("index", [24, 30, 35])
def test_it_starts_in_the_middle_of_a_life(index: int) -> None:
    pack = start(index)
    past = pack.history()
    assert 0.8 <= pack.battery.soh < 0.99
    assert not pack.battery.has_failed
    assert list(past.columns) == names(READING_FIELDS)
    assert (past["battery_id"] == pack.battery_id).all()
    assert past["time"].max() < AT
    assert list(pack.batteries_row()["battery_id"]) == [pack.battery_id]


def test_its_past_is_over_when_it_goes_live() -> None:
    """A log that began before it was once lived to its end, three hours ahead of the clock."""
    params = SimulateParams(batteries=48, cycles_between_logs=40.0, ageing_spread=1.3, models=("hatchback-52",))
    at = datetime(2026, 11, 26, 16, 15, 40, tzinfo=UTC)
    assert LivePack.start(params, 7, 48, at=at, life_share=0.3275).last_time <= at


def test_a_restart_goes_on_where_it_was() -> None:
    pack = start()
    live(pack, 120.0, 0.5)
    memory, identity = pack.memory(), pack.batteries_row()
    later = LivePack.start(PARAMS, 7, 30, at=AT + timedelta(minutes=5))
    assert later.memory() != memory  # it would have begun elsewhere
    assert later.resume(memory)
    assert later.memory() == memory
    assert later.batteries_row().equals(identity)
    # Through the end of a drive, where chance decides what comes next.
    assert live(later, 4000.0, 10.0) == live(pack, 4000.0, 10.0)


def test_what_another_fleet_remembers_is_not_taken_over() -> None:
    pack = start()
    before = pack.memory()
    other = LivePack.start(SimulateParams(cycles_between_logs=60.0, models=("van-75",)), 7, 30, at=AT)
    assert not pack.resume(other.memory())
    assert pack.memory() == before


def test_it_goes_on_where_its_history_ends() -> None:
    pack = start()
    last = pack.history().iloc[-1]
    reading = pack.read(AT + timedelta(seconds=0.5))
    assert list(reading) == names(READING_FIELDS)
    assert reading["time"] == AT + timedelta(seconds=0.5)
    assert isinstance(reading["is_charging"], bool)
    days = (AT - last["time"]).total_seconds() / 86_400.0
    expected = last["charge_cycles"] + days * pack.battery.design.usage.cycles_per_day
    assert reading["charge_cycles"] == pytest.approx(expected, abs=0.1)
    assert reading["odometer_km"] > last["odometer_km"]
    assert reading["soh"] <= last["soh"]


def test_it_drives_rests_and_charges_at_two_readings_a_second() -> None:
    pack = start()
    readings = live(pack, 1200.0, 0.5)
    assert np.ptp([reading["speed_kmh"] for reading in readings]) > 20.0
    cycles = [reading["charge_cycles"] for reading in readings]
    assert np.diff(cycles).min() >= 0.0
    day = [pack.read(readings[-1]["time"] + timedelta(minutes=k + 1)) for k in range(36 * 60)]
    assert {reading["is_charging"] for reading in day} == {False, True}
    assert all(3.0 < reading["soc"] <= 100.0 for reading in day)


def test_the_same_start_gives_the_same_readings() -> None:
    assert live(start(), 60.0, 0.5) == live(start(), 60.0, 0.5)


def test_the_pace_of_reading_does_not_change_the_physics() -> None:
    ends = []
    for step_s in (0.5, 10.0, 30.0):
        pack = start()
        pack.read(AT + timedelta(seconds=1.0))
        charge(pack)
        live(pack, 900.0, step_s)
        ends.append((pack.battery.state.pack, pack.battery.cycles))
    for state, cycles in ends[1:]:
        assert state.soc == pytest.approx(ends[0][0].soc, abs=1e-3)
        assert state.core_c == pytest.approx(ends[0][0].core_c, abs=0.05)
        assert cycles == pytest.approx(ends[0][1], abs=1e-6)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_an_injected_fault_raises_the_alarm_and_is_cleared(kind: str) -> None:
    pack = start()
    assert live(pack, 1.0, 0.5)[-1]["warning_level"] < 3.0
    pack.inject_fault(kind, 0.9)
    assert live(pack, 1.0, 0.5)[-1]["warning_level"] < 3.0
    pack.inject_fault(kind)
    assert live(pack, 1.0, 0.5)[-1]["warning_level"] == 3.0
    pack.clear_fault()
    assert live(pack, 1.0, 0.5)[-1]["warning_level"] < 3.0


def test_faults_show_in_the_physics() -> None:
    """Beside a twin left alone: hotter without cooling, a lower cell with a short, more drop at a bad contact."""

    def hot_charge(kind: str | None, seconds: float = 1500.0) -> tuple[dict[str, object], LivePack]:
        pack = start()
        pack.set_ambient_offset(35.0)
        pack.read(AT + timedelta(seconds=1.0))
        charge(pack, 100_000.0)
        if kind is not None:
            pack.inject_fault(kind)
        return live(pack, seconds, 30.0)[-1], pack

    sound, pack = hot_charge(None)
    assert hot_charge("cooling_failure")[0]["temperature"] > sound["temperature"] + 0.9
    short, _ = hot_charge("internal_short")
    spread = [r["cell_voltage_median"] - r["cell_voltage_min"] for r in (sound, short)]
    assert spread[1] > spread[0] + 0.02
    early, _ = hot_charge(None, 120.0)  # before the voltage limit makes all packs alike
    assert hot_charge("contact_resistance", 120.0)[0]["voltage"] > early["voltage"] + 1.0
    assert len(pack.cell_voltages()) == pack.battery.identity.model.cells_in_series


def test_overrides_change_the_weather_and_the_speed_of_wear() -> None:
    natural, worn, warm = start(), start(), start()
    worn.set_wear_speed(20.0)
    warm.set_ambient_offset(15.0)
    later = AT + timedelta(days=60)
    readings = [pack.read(later) for pack in (natural, worn, warm)]
    assert readings[1]["soh"] < readings[0]["soh"] - 1.0
    assert readings[2]["ambient_temperature"] - readings[0]["ambient_temperature"] == pytest.approx(15.0, abs=1.0)
    assert readings[2]["soh"] < readings[0]["soh"]
    assert readings[1]["charge_cycles"] == pytest.approx(readings[0]["charge_cycles"])


def test_a_failed_battery_still_reports() -> None:
    pack = start()
    plan = pack.battery.design.fault._replace(threshold=pack.battery.state.cumulative_hazard * 1.05)
    pack.battery.design = pack.battery.design._replace(fault=plan)
    for days in (100, 200):
        reading = pack.read(AT + timedelta(days=days))
        assert reading["warning_level"] == 3.0
        assert (AT + timedelta(days=days) - pack.last_time).total_seconds() == pytest.approx(0.0, abs=1e-3)


def test_a_resting_pack_gives_no_current() -> None:
    pack = start()
    pack.read(AT + timedelta(seconds=1.0))
    state = pack.battery.state
    pack.battery.state = state._replace(
        activity=Activity(REST, 1e6, 0.0, 1.0), drive=state.drive._replace(speed_m_s=0.0)
    )
    assert all(abs(reading["current"]) < 0.5 for reading in live(pack, 60.0, 0.5))


def test_mistakes_are_named() -> None:
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
