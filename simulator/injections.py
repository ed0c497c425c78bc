"""Scheduled injection of faults and scenarios into live batteries.

python -m simulator.live --inject overheating=EV-0049@20s+15s --inject end_of_life=#1@5s+20s

A scenario applies to all batteries: `--scenario hot-summer@60s`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from simulator.faults import KIND_NAMES
from simulator.live_pack import WARMEST_C, LivePack
from telemetry.errors import TwinError

#: Core temperature of an injected overheating, degC: above the contract's alarm limit with any sensor offset.
OVERHEATED_C = 68.0
_COOLED_C = 30.0
#: State of charge of an injected low charge, fraction.
LOW_CHARGE = 0.08
#: Margin on the wear factor of an injected end of life, because wear slows down with age.
_OVERSHOOT = 3.0
#: Heat wave, K, in addition to the difference between the seasons.
HEAT_WAVE_C = 14.0
#: Power of motorway fast chargers in the hot summer; the packs limit the current.
LONG_DISTANCE_CHARGER_W = 150_000.0
LONG_DISTANCE_HIGHWAY_SHARE = 0.9
#: Factor on ageing of the scenario fast_ageing: harder use than in the training data.
FAST_AGEING = 20.0
#: Battery id that stands for every battery.
ALL = "*"
_SCENARIO_FORM = re.compile(r"(?P<kind>[\w-]+)@(?P<times>.+)")
_FORM = re.compile(r"(?P<kind>\w+)=(?P<battery>[^@]+)@(?P<start>[\d.]+)s(?:\+(?P<duration>[\d.]+)s)?")


@dataclass(frozen=True)
class InjectionKind:
    """Actions of an injection on a pack.

    Attributes:
        start: called once at its start with its duration in event time, s.
        hold: called before each reading while it is active.
        end: called once after it.
        is_silent: whether the battery sends no readings while it is active.
    """

    description: str
    start: Callable[[LivePack, float], None] = lambda _pack, _seconds: None
    hold: Callable[[LivePack], None] = lambda _pack: None
    end: Callable[[LivePack], None] = lambda _pack: None
    is_silent: bool = False


def _stop_wear_at_end_of_life(pack: LivePack) -> None:
    if pack.has_reached_end:
        pack.set_wear_speed(1.0)


def _start_summer(pack: LivePack) -> None:
    pack.set_ambient_offset(pack.midsummer_offset_c + HEAT_WAVE_C)
    pack.set_long_distance_use(LONG_DISTANCE_CHARGER_W, LONG_DISTANCE_HIGHWAY_SHARE)


def _end_summer(pack: LivePack) -> None:
    pack.set_ambient_offset(0.0)
    pack.reset_use()


def _fault(name: str) -> InjectionKind:
    return InjectionKind(f"the fault {name}", lambda pack, _: pack.inject_fault(name), end=LivePack.clear_fault)


INJECTION_KINDS: Mapping[str, InjectionKind] = {
    "overheating": InjectionKind(
        f"the pack at {OVERHEATED_C:g} degC",
        hold=lambda pack: pack.heat(OVERHEATED_C),
        end=lambda pack: pack.heat(_COOLED_C),
    ),
    "low_charge": InjectionKind(f"{LOW_CHARGE:.0%} of charge", hold=lambda pack: pack.set_charge(LOW_CHARGE)),
    "end_of_life": InjectionKind(
        "accelerated wear to the end of life within the duration",
        start=lambda pack, seconds: pack.set_wear_speed(_OVERSHOOT * pack.wear_speed_to_end(seconds)),
        hold=_stop_wear_at_end_of_life,
        end=lambda pack: pack.set_wear_speed(1.0),
    ),
    "hot_summer": InjectionKind(
        f"midsummer, a heat wave of {HEAT_WAVE_C:g} degC, motorways and fast chargers",
        start=lambda pack, _: _start_summer(pack),
        end=_end_summer,
    ),
    "fast_ageing": InjectionKind(
        f"wear {FAST_AGEING:g} times as fast as natural",
        start=lambda pack, _: pack.set_wear_speed(FAST_AGEING),
        end=lambda pack: pack.set_wear_speed(1.0),
    ),
    "lost_cooling": InjectionKind(
        f"a pack that warms to {WARMEST_C:g} degC",
        start=lambda pack, _: pack.lose_cooling(),
        end=LivePack.regain_cooling,
    ),
    "silence": InjectionKind("no readings", is_silent=True),
    **{name: _fault(name) for name in KIND_NAMES},
}
#: Kinds that apply to a whole fleet.
SCENARIOS = ("hot_summer", "fast_ageing")


@dataclass(frozen=True)
class Injection:
    """One scheduled injection.

    Attributes:
        battery: id, `#n` for the n-th live battery, or `*` for all of them.
        start_s, duration_s: wall-clock time since the first reading; an infinite duration lasts until the end.
    """

    kind: str
    battery: str
    start_s: float
    duration_s: float = float("inf")

    @classmethod
    def parse(cls, text: str) -> Injection:
        """Parse KIND=BATTERY@START+DURATION, e.g. `overheating=EV-0049@20s+15s`.

        Raises:
            TwinError: the text has another form, or the kind is not one of `INJECTION_KINDS`.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            sentence = f"{text!r} is no injection: write it as overheating=EV-0049@20s+15s."
            raise TwinError(sentence, field="--inject", value=text)
        if match["kind"] not in INJECTION_KINDS:
            sentence = f"{match['kind']!r} cannot be injected: name one of {', '.join(INJECTION_KINDS)}."
            raise TwinError(sentence, field="--inject", value=text)
        duration = float("inf") if match["duration"] is None else float(match["duration"])
        return cls(match["kind"], match["battery"], float(match["start"]), duration)


def parse_scenario(text: str) -> Injection:
    """Parse KIND@START+DURATION, e.g. `hot-summer@60s`, as an injection into every battery.

    Raises:
        TwinError: the text has another form, or the kind is not one of `SCENARIOS`.
    """
    match = _SCENARIO_FORM.fullmatch(text)
    kind = "" if match is None else match["kind"].replace("-", "_")
    if match is None or kind not in SCENARIOS:
        known = ", ".join(name.replace("_", "-") for name in SCENARIOS)
        sentence = f"{text!r} is no scenario: write it as hot-summer@60s, with one of {known}."
        raise TwinError(sentence, field="--scenario", value=text)
    return Injection.parse(f"{kind}={ALL}@{match['times']}")


class InjectedPack:
    """Live battery with scheduled injections; everything else is delegated to the pack.

    Args:
        speed: event time per wall-clock time.
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
        self._scheduled = sorted(injections, key=lambda injection: injection.start_s)
        self._active: list[Injection] = []
        self._speed = speed
        self._clock = clock
        self._started_at: float | None = None

    @property
    def battery_id(self) -> str:
        """The battery's id."""
        return self.pack.battery_id

    @property
    def last_time(self) -> datetime:
        """Event time up to which the battery has been simulated."""
        return self.pack.last_time

    def history(self) -> pd.DataFrame:
        """Readings before the live run."""
        return self.pack.history()

    def batteries_row(self) -> pd.DataFrame:
        """Batteries table with the row of this battery."""
        return self.pack.batteries_row()

    def save_state(self) -> bytes:
        """State of the battery without injections, which start again in the next run."""
        return self.pack.save_state()

    def restore_state(self, saved: bytes) -> bool:
        """Continue from `saved`; False, and no change, where that is of another battery."""
        return self.pack.restore_state(saved)

    def read(self, time: datetime) -> dict[str, object] | None:
        """Apply due injections, then simulate until `time`; none in the first call, which may span days.

        None while the battery is silent.
        """
        if self._started_at is None:
            self._started_at = self._clock()
            return self.pack.read(time)
        elapsed = self._clock() - self._started_at
        while self._scheduled and self._scheduled[0].start_s <= elapsed:
            injection = self._scheduled.pop(0)
            INJECTION_KINDS[injection.kind].start(self.pack, injection.duration_s * self._speed)
            self._active.append(injection)
        for injection in list(self._active):
            if elapsed >= injection.start_s + injection.duration_s:
                INJECTION_KINDS[injection.kind].end(self.pack)
                self._active.remove(injection)
        for injection in self._active:
            INJECTION_KINDS[injection.kind].hold(self.pack)
        reading = self.pack.read(time)
        return None if any(INJECTION_KINDS[injection.kind].is_silent for injection in self._active) else reading


def with_injections(
    packs: Sequence[LivePack],
    injections: Sequence[Injection],
    *,
    speed: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[InjectedPack]:
    """Wrap `packs`, each with the injections that name it.

    Args:
        speed, clock: see `InjectedPack`.

    Raises:
        TwinError: a named battery is not among `packs`.
    """
    names = {pack.battery_id: pack.battery_id for pack in packs}
    names |= {f"#{number}": pack.battery_id for number, pack in enumerate(packs, start=1)}
    by_battery: dict[str, list[Injection]] = {pack.battery_id: [] for pack in packs}
    for injection in injections:
        if injection.battery != ALL and injection.battery not in names:
            known = ", ".join(by_battery)
            sentence = f"There is no battery {injection.battery}: name one of {known}, or #1 to #{len(packs)}."
            raise TwinError(sentence, field="--inject", value=injection.battery)
        for battery_id in by_battery if injection.battery == ALL else (names[injection.battery],):
            by_battery[battery_id].append(injection)
    return [InjectedPack(pack, by_battery[pack.battery_id], speed=speed, clock=clock) for pack in packs]
