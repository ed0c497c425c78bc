"""What an experimenter does to a living battery at a chosen moment, and for how long: faults on a timetable.

python -m simulator.live --inject overheating=EV-0049@20s+15s --inject end_of_life=#1@5s+20s

A regime is done to all of them at once: `--regime hot-summer@60s`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from simulator.faults import KIND_NAMES
from simulator.live_pack import LivePack
from telemetry.errors import TwinError

#: Core temperature of an injected overheating, degC: above the alarm of the contract whatever the sensor's offset.
OVERHEATED_C = 68.0
_COOLED_C = 30.0
#: State of charge of an injected low charge, fraction.
LOW_CHARGE = 0.08
#: An injected end of life aims below it: wear slows down as it goes on.
_OVERSHOOT = 1.5
#: A heat wave, beside the season of the place.
HEAT_WAVE_C = 14.0
#: Of the fast chargers along the motorway, where a summer's traffic goes; the packs take as much as they may.
HOLIDAY_CHARGER_W = 150_000.0
HOLIDAY_TOWN_SHARE, HOLIDAY_COUNTRY_SHARE = 0.1, 0.2
#: Wear of a fleet that is driven and charged harder than what the models know.
FAST_AGEING = 20.0
#: Every battery.
ALL = "*"
_REGIME_FORM = re.compile(r"(?P<kind>[\w-]+)@(?P<times>.+)")
_FORM = re.compile(r"(?P<kind>\w+)=(?P<battery>[^@]+)@(?P<start>[\d.]+)s(?:\+(?P<duration>[\d.]+)s)?")


@dataclass(frozen=True)
class Kind:
    """What an injection does to a pack.

    Attributes:
        begin: once at its start; the event time that it may take, s, goes with it.
        hold: before each reading while it lasts.
        end: once afterwards.
    """

    description: str
    begin: Callable[[LivePack, float], None] = lambda _pack, _seconds: None
    hold: Callable[[LivePack], None] = lambda _pack: None
    end: Callable[[LivePack], None] = lambda _pack: None


def _wear_until_the_end(pack: LivePack) -> None:
    if pack.has_reached_end:
        pack.set_wear_speed(1.0)


def _begin_summer(pack: LivePack) -> None:
    pack.set_ambient_offset(pack.midsummer_offset_c + HEAT_WAVE_C)
    pack.go_on_holiday(HOLIDAY_CHARGER_W, HOLIDAY_TOWN_SHARE, HOLIDAY_COUNTRY_SHARE)


def _end_summer(pack: LivePack) -> None:
    pack.set_ambient_offset(0.0)
    pack.come_home()


def _fault(name: str) -> Kind:
    return Kind(f"the fault {name}", lambda pack, _: pack.inject_fault(name), end=LivePack.clear_fault)


KINDS: Mapping[str, Kind] = {
    "overheating": Kind(
        f"the pack at {OVERHEATED_C:g} degC",
        hold=lambda pack: pack.heat(OVERHEATED_C),
        end=lambda pack: pack.heat(_COOLED_C),
    ),
    "low_charge": Kind(f"{LOW_CHARGE:.0%} of charge", hold=lambda pack: pack.set_charge(LOW_CHARGE)),
    "end_of_life": Kind(
        "wear so fast that it ends within the duration",
        begin=lambda pack, seconds: pack.set_wear_speed(_OVERSHOOT * pack.wear_speed_to_end(seconds)),
        hold=_wear_until_the_end,
        end=lambda pack: pack.set_wear_speed(1.0),
    ),
    "hot_summer": Kind(
        f"midsummer, a heat wave of {HEAT_WAVE_C:g} degC, motorways and fast chargers",
        begin=lambda pack, _: _begin_summer(pack),
        end=_end_summer,
    ),
    "fast_ageing": Kind(
        f"wear {FAST_AGEING:g} times as fast as natural",
        begin=lambda pack, _: pack.set_wear_speed(FAST_AGEING),
        end=lambda pack: pack.set_wear_speed(1.0),
    ),
    **{name: _fault(name) for name in KIND_NAMES},
}
#: What changes for a whole fleet.
REGIMES = ("hot_summer", "fast_ageing")


@dataclass(frozen=True)
class Injection:
    """One entry of the timetable.

    Attributes:
        battery: id, `#n` for the n-th of those that live, or `*` for all of them.
        start_s, duration_s: on the wall clock, from the first reading on; for ever where the duration is infinite.
    """

    kind: str
    battery: str
    start_s: float
    duration_s: float = float("inf")

    @classmethod
    def parse(cls, text: str) -> Injection:
        """From KIND=BATTERY@START+DURATION, e.g. `overheating=EV-0049@20s+15s`.

        Raises:
            TwinError: it has another form, or the kind is not one of `KINDS`.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            sentence = f"{text!r} is no injection: write it as overheating=EV-0049@20s+15s."
            raise TwinError(sentence, field="--inject", value=text)
        if match["kind"] not in KINDS:
            sentence = f"{match['kind']!r} cannot be injected: name one of {', '.join(KINDS)}."
            raise TwinError(sentence, field="--inject", value=text)
        duration = float("inf") if match["duration"] is None else float(match["duration"])
        return cls(match["kind"], match["battery"], float(match["start"]), duration)


def parse_scenario(text: str) -> Injection:
    """From KIND@START+DURATION, e.g. `hot-summer@60s`: what changes for every battery.

    Raises:
        TwinError: it has another form, or the kind is not one of `REGIMES`.
    """
    match = _REGIME_FORM.fullmatch(text)
    kind = "" if match is None else match["kind"].replace("-", "_")
    if match is None or kind not in REGIMES:
        known = ", ".join(name.replace("_", "-") for name in REGIMES)
        sentence = f"{text!r} is no regime: write it as hot-summer@60s, with one of {known}."
        raise TwinError(sentence, field="--regime", value=text)
    return Injection.parse(f"{kind}={ALL}@{match['times']}")


class InjectedPack:
    """A live battery to which things are done on a timetable; everything else is the pack's own.

    Args:
        speed: how much faster event time passes than the wall clock.
        clock: the wall clock, s.
    """

    def __init__(
        self,
        pack: LivePack,
        injections: Sequence[Injection],
        *,
        speed: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pack = pack
        self._waiting = sorted(injections, key=lambda one: one.start_s)
        self._active: list[Injection] = []
        self._speed = speed
        self._clock = clock
        self._began: float | None = None

    @property
    def battery_id(self) -> str:
        """The battery's id."""
        return self.pack.battery_id

    @property
    def last_time(self) -> datetime:
        """Event time up to which the battery has lived."""
        return self.pack.last_time

    def history(self) -> pd.DataFrame:
        """Readings of its past."""
        return self.pack.history()

    def batteries_row(self) -> pd.DataFrame:
        """The batteries table of this one battery."""
        return self.pack.batteries_row()

    def memory(self) -> bytes:
        """What the battery has to know to go on; what is done to it begins anew."""
        return self.pack.memory()

    def resume(self, memory: bytes) -> bool:
        """Let the battery go on where `memory` was taken."""
        return self.pack.resume(memory)

    def read(self, time: datetime) -> dict[str, object]:
        """Do what is due, then live until `time`; the first reading, which comes after days of rest, is its own."""
        if self._began is None:
            self._began = self._clock()
            return self.pack.read(time)
        elapsed = self._clock() - self._began
        while self._waiting and self._waiting[0].start_s <= elapsed:
            injection = self._waiting.pop(0)
            KINDS[injection.kind].begin(self.pack, injection.duration_s * self._speed)
            self._active.append(injection)
        for injection in list(self._active):
            if elapsed >= injection.start_s + injection.duration_s:
                KINDS[injection.kind].end(self.pack)
                self._active.remove(injection)
        for injection in self._active:
            KINDS[injection.kind].hold(self.pack)
        return self.pack.read(time)


def injected(
    packs: Sequence[LivePack],
    injections: Sequence[Injection],
    *,
    speed: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[InjectedPack]:
    """`packs` with `injections` done to those that they name.

    Args:
        speed, clock: see `InjectedPack`.

    Raises:
        TwinError: a battery that is named does not live.
    """
    names = {pack.battery_id: pack.battery_id for pack in packs}
    names |= {f"#{number}": pack.battery_id for number, pack in enumerate(packs, start=1)}
    own: dict[str, list[Injection]] = {pack.battery_id: [] for pack in packs}
    for injection in injections:
        if injection.battery != ALL and injection.battery not in names:
            sentence = f"No battery {injection.battery} lives: name one of {', '.join(own)}, or #1 to #{len(packs)}."
            raise TwinError(sentence, field="--inject", value=injection.battery)
        for battery_id in own if injection.battery == ALL else (names[injection.battery],):
            own[battery_id].append(injection)
    return [InjectedPack(pack, own[pack.battery_id], speed=speed, clock=clock) for pack in packs]
