"""Tests of injections and scenarios: start, duration, effect, and selection of batteries."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest

from simulator.fleet import SimulateParams
from simulator.injections import (
    FAST_AGEING,
    HEAT_WAVE_C,
    INJECTION_KINDS,
    InjectedPack,
    Injection,
    parse_scenario,
    with_injections,
)
from simulator.live_pack import LivePack
from telemetry.errors import TwinError

PARAMS = SimulateParams(days_between_logs=90.0)
AT = datetime(2026, 1, 1, 8, tzinfo=UTC)
SPEED = 120.0


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@cache
def _started(index: int) -> LivePack:
    return LivePack.start(PARAMS, 7, index, at=AT)


def start(index: int = 30) -> LivePack:
    return copy.deepcopy(_started(index))


def readings_with(text: str, seconds: int) -> list[dict[str, object]]:
    """Readings of a battery with one injection, two a second at `SPEED`."""
    clock = Clock()
    pack = start()
    battery = InjectedPack(pack, [Injection.parse(text)], speed=SPEED, clock=clock)
    readings = []
    for tick in range(2 * seconds):
        readings.append(battery.read(AT + timedelta(seconds=(tick + 1) * 0.5 * SPEED)))
        clock.now += 0.5
    return readings


def test_overheating_starts_and_ends_on_schedule() -> None:
    readings = readings_with("overheating=EV-0031@3s+4s", 12)
    hot = [n / 2 for n, reading in enumerate(readings) if float(str(reading["temperature"])) > 60.0]
    assert hot == [3.0 + n / 2 for n in range(8)]
    assert all(float(str(reading["temperature"])) < 45.0 for reading in readings[16:])


def test_end_of_life_is_reached_within_the_duration_and_stays() -> None:
    readings = readings_with("end_of_life=EV-0031@1s+10s", 14)
    health = [float(str(reading["soh"])) for reading in readings]
    assert health[0] > 80.0
    assert 75.0 < health[21] < 80.0
    assert health == sorted(health, reverse=True)
    assert health[-1] == pytest.approx(health[23], abs=0.05), "natural wear afterwards"


def test_low_charge_and_fault_show_in_the_readings() -> None:
    assert all(float(str(reading["soc"])) < 15.0 for reading in readings_with("low_charge=EV-0031@0s", 3)[1:])
    levels = [reading["warning_level"] for reading in readings_with("internal_short=EV-0031@1s+1s", 3)]
    assert levels[2:4] == [3.0, 3.0]
    assert 3.0 not in levels[:2] + levels[4:]


def test_only_the_named_battery_is_affected() -> None:
    packs = [start(index) for index in (30, 35)]
    first, second = with_injections(packs, [Injection.parse("overheating=#2@0s")], speed=1.0)
    time = max(packs[0].last_time, packs[1].last_time, AT) + timedelta(seconds=1)
    for battery in (first, second):
        battery.read(time)
    time += timedelta(seconds=1)
    assert float(str(first.read(time)["temperature"])) < 60.0 < float(str(second.read(time)["temperature"]))
    assert (first.battery_id, second.battery_id) == ("EV-0031", "EV-0036")
    assert first.batteries_row()["battery_id"].tolist() == ["EV-0031"]
    assert len(first.history())


def test_hot_summer_affects_every_battery_and_warms_the_packs_slowly() -> None:
    clock = Clock()
    packs = [start(index) for index in (30, 35)]
    twins = [start(index) for index in (30, 35)]  # the same batteries without the scenario
    batteries = with_injections(packs, [parse_scenario("hot-summer@5s")], speed=SPEED, clock=clock)
    warmer = []
    readings: list[list[dict[str, object]]] = [[], []]
    for tick in range(300):
        time = AT + timedelta(seconds=(tick + 1) * 0.5 * SPEED)
        now = [battery.read(time) for battery in batteries]
        usual = [twin.read(time) for twin in twins]
        clock.now += 0.5
        for of_battery, reading in zip(readings, now, strict=True):
            of_battery.append(reading)
        warmer.append(
            [
                (float(str(one["ambient_temperature"])) - float(str(other["ambient_temperature"])),
                 float(str(one["temperature"])) - float(str(other["temperature"])))
                for one, other in zip(now, usual, strict=True)
            ]
        )  # fmt: skip
    assert warmer[9] == [(0.0, 0.0), (0.0, 0.0)], "no difference before the start"
    for battery in range(2):
        air_c = warmer[10][battery][0]
        # In January the difference between the seasons is nearly twice their amplitude.
        season_c = packs[battery].battery.design.climate.season_c
        assert air_c == pytest.approx(HEAT_WAVE_C + 2.0 * season_c, abs=1.0)
        at_once_c, later_c = warmer[10][battery][1], warmer[-1][battery][1]
        assert at_once_c < 1.0, "a pack has a heat capacity"
        assert at_once_c < later_c < air_c
    fastest = [max(abs(float(str(one["current"]))) for one in readings[battery]) for battery in range(2)]
    assert max(fastest) > 200.0, "motorway chargers give more than the usual 50 kW"
    for battery in packs:
        INJECTION_KINDS["hot_summer"].end(battery)
    for battery, twin in zip(packs, twins, strict=True):
        assert battery.battery.identity == twin.battery.identity
        assert battery.battery.overrides == twin.battery.overrides
        assert battery.battery.design.driver == twin.battery.design.driver


def test_restored_state_excludes_the_scenario() -> None:
    pack, restarted = start(), start()
    usual_w = restarted.battery.identity.model.dc_w
    INJECTION_KINDS["hot_summer"].start(pack, 0.0)
    pack.read(AT + timedelta(minutes=1))
    assert restarted.restore_state(pack.save_state())
    assert restarted.last_time == pack.last_time
    assert restarted.battery.identity.model.dc_w == usual_w, "the usual charger"


def test_fast_ageing_multiplies_the_wear() -> None:
    def wear(*scenarios: str) -> float:
        clock = Clock()
        pack = start()
        (battery,) = with_injections([pack], [parse_scenario(text) for text in scenarios], speed=SPEED, clock=clock)
        battery.read(AT)
        before = pack.battery.soh
        clock.now += 10.0
        battery.read(AT + timedelta(hours=1))
        return before - pack.battery.soh

    assert wear("fast-ageing@5s") == pytest.approx(FAST_AGEING * wear(), rel=0.05)


@pytest.mark.parametrize("text", ["hot-summer", "ice-age@5s", "hot-summer=#1@5s", "overheating@5s", "hot-summer@soon"])
def test_an_invalid_scenario_raises_an_error(text: str) -> None:
    with pytest.raises(TwinError):
        parse_scenario(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("overheating", "write it as"),
        ("gremlins=#1@0s", "name one of overheating"),
        ("overheating=#1@soon", "write it"),
    ],
)
def test_an_invalid_injection_raises_an_error(text: str, sentence: str) -> None:
    with pytest.raises(TwinError, match=sentence):
        Injection.parse(text)


def test_an_unknown_battery_raises_an_error() -> None:
    with pytest.raises(TwinError, match="There is no battery EV-9"):
        with_injections([], [Injection("overheating", "EV-9", 0.0)], speed=1.0)


def test_every_kind_can_be_started_and_ended() -> None:
    pack = start()
    for kind in INJECTION_KINDS.values():
        kind.start(pack, 600.0)
        kind.hold(pack)
        kind.end(pack)
        assert kind.description
