"""A battery that goes on living: one reading a call, at any pace, from the middle of its life.

It is battery `index` of the same fleet that `simulator.fleet` writes to files, lived by the same code: `history` is its
past telemetry, `read` its present.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from simulator.battery import Battery, Identity
from simulator.climate import SECONDS_PER_DAY, daily_mean_c
from simulator.faults import KIND_NAMES
from simulator.fleet import SimulateParams, batteries_table, history, logs_until, new_battery
from simulator.life import NO_FAULT, Design, condition_of, health, pass_days
from simulator.pack import cell_voltages_v
from simulator.saved_state import made_of, recall, remember
from telemetry.contract import READING_FIELDS, names
from telemetry.errors import TwinError

#: A longer time between two readings is passed by average use; a shorter one is lived second by second.
LONGEST_STEP_S = 2.0 * 3600.0
#: After days that nobody recorded, the car sets out this long before the reading.
SET_OUT_S = 1.0
#: A log of the past that begins so long before the live time is over by then.
LONGEST_LOG_S = SECONDS_PER_DAY
#: Each try to be alive at the start of the live time begins this much younger than the last.
REJUVENATION = 0.8
#: Days of natural wear by which an accelerated one is reckoned.
DAYS_AHEAD = 30.0


class LivePack:
    """One living battery; make it with `LivePack.start`.

    Args:
        end_of_life: state of health (fraction) at which its life ends.

    Attributes:
        battery: the battery itself (its identity, design, true state and `cycles`, `soh`, `has_failed`).
    """

    def __init__(self, battery: Battery, past: pd.DataFrame, end_of_life: float = 0.8) -> None:
        self.battery = battery
        self._past = past
        self._made = made_of(battery)
        self._end_of_life = end_of_life
        self._home: tuple[Identity, Design] | None = None

    @classmethod
    def start(cls, params: SimulateParams, seed: int, index: int, *, at: datetime, life_share: float = 0.6) -> Self:
        """Battery `index` of fleet `seed` at about `life_share` of its life on the date `at`.

        An index from `params.batteries` on gives a battery that the training files do not hold.  The life is lived once
        to learn its length, and again with a first day such that `at` falls where it should; should other seasons end
        it before `at`, the battery starts younger.

        Raises:
            TwinError: `life_share` is not between 0 and 1, or `at` has no time zone.
        """
        if not 0.0 < life_share < 1.0:
            raise TwinError(
                f"life_share is {life_share!r}: it must lie between 0 and 1.", field="life_share", value=life_share
            )
        if at.tzinfo is None:
            raise TwinError(f"at is {at!r}: it must carry a time zone.", field="at", value=at)
        at = at.astimezone(UTC)
        trial = new_battery(params, seed, index, at)
        for _ in logs_until(trial, params, float("inf")):
            pass
        days = (trial.state.time_s - at.timestamp()) / SECONDS_PER_DAY
        while True:
            days *= life_share
            battery = new_battery(params, seed, index, at - timedelta(days=days))
            past = history(battery, params, at.timestamp() - LONGEST_LOG_S)
            if not battery.has_failed and battery.soh >= params.retire_below_soh:
                return cls(battery, past, params.retire_below_soh)
            life_share = REJUVENATION

    @property
    def battery_id(self) -> str:
        """The battery's id."""
        return self.battery.identity.battery_id

    @property
    def last_time(self) -> datetime:
        """Event time up to which the battery has lived."""
        return datetime.fromtimestamp(self.battery.state.time_s, UTC)

    def history(self) -> pd.DataFrame:
        """The battery's telemetry before it went live: a readings table, columns of the contract."""
        return self._past.copy()

    def batteries_row(self) -> pd.DataFrame:
        """The batteries table of this one battery."""
        return batteries_table([self.battery.identity.row()])

    def read(self, time: datetime) -> dict[str, object]:
        """Live until `time` and report one reading, fields of the contract: floats, `is_charging` a bool.

        Raises:
            TwinError: `time` has no time zone or is not later than the last reading's.
        """
        if time.tzinfo is None or time <= self.last_time:
            sentence = f"time is {time!r}: it must carry a time zone and be later than {self.last_time.isoformat()}."
            raise TwinError(sentence, field="time", value=time)
        seconds = time.timestamp() - self.battery.state.time_s
        if seconds > LONGEST_STEP_S:
            while seconds > SET_OUT_S:  # a fault on the way interrupts the days, once
                self.battery.pass_days((seconds - SET_OUT_S) / SECONDS_PER_DAY)
                seconds = max(time.timestamp() - self.battery.state.time_s, SET_OUT_S)
            self.battery.set_out()
        reading, ended = self.battery.read(seconds)
        if ended:
            self.battery.begin_next()
        reading["time"] = time
        return {name: reading[name] for name in names(READING_FIELDS)}

    def memory(self) -> bytes:
        """What it has to know to go on after its last reading; not what was injected into it."""
        return remember(self.battery, self._made)

    def resume(self, memory: bytes) -> bool:
        """Go on where `memory` was taken; False, and nothing changes, where the fleet is described otherwise now."""
        return recall(self.battery, self._made, memory)

    def inject_fault(self, kind: str, severity: float = 1.0) -> None:
        """Give the battery a defect of `kind` (of `KIND_NAMES`): at severity 1 it is the fault, below it only shows."""
        if kind not in KIND_NAMES:
            sentence = f"kind is {kind!r}: it must be one of {', '.join(KIND_NAMES)}."
            raise TwinError(sentence, field="kind", value=kind)
        if not 0.0 <= severity <= 1.0:
            raise TwinError(f"severity is {severity!r}: it must lie between 0 and 1.", field="severity", value=severity)
        self._override(fault_kind=KIND_NAMES.index(kind), fault_severity=float(severity))

    def clear_fault(self) -> None:
        """Take an injected defect away again; the battery's own fate stays."""
        self._override(fault_kind=NO_FAULT, fault_severity=0.0)

    def set_ambient_offset(self, offset_c: float) -> None:
        """Make the weather warmer (or colder) by `offset_c`."""
        self._override(ambient_offset_c=float(offset_c))

    @property
    def midsummer_offset_c(self) -> float:
        """How much warmer this battery's place is in mid July than now, weather aside."""
        climate = self.battery.design.climate
        now_c = float(daily_mean_c(self.battery.state.time_s, climate._replace(weather_c=0.0)))
        return climate.mean_c + climate.season_c - now_c

    def go_on_holiday(self, charger_w: float, town_share: float, country_share: float) -> None:
        """Drive far and charge fast, at `charger_w`; what is neither town nor country is motorway."""
        self.come_home()
        battery = self.battery
        self._home = (battery.identity, battery.design)
        who, driver = battery.identity, battery.design.driver
        battery.identity = replace(
            who, usage=replace(who.usage, dc_share=1.0), model=replace(who.model, dc_w=float(charger_w))
        )
        away = driver._replace(town_share=town_share, country_share=country_share)
        battery.design = battery.design._replace(driver=away)

    def come_home(self) -> None:
        """Drive and charge as ever."""
        if self._home is not None:
            self.battery.identity, self.battery.design = self._home
            self._home = None

    def set_wear_speed(self, factor: float) -> None:
        """Make every day and cycle wear like `factor` of them; 1 is natural."""
        if not factor >= 0.0:
            raise TwinError(f"factor is {factor!r}: it must not be negative.", field="factor", value=factor)
        self._override(wear_speed=float(factor))

    @property
    def has_reached_end(self) -> bool:
        """True once its health is below that at which its life ends."""
        return self.battery.soh < self._end_of_life

    def wear_speed_to_end(self, seconds: float) -> float:
        """How many times faster than natural it has to wear to reach its end of life in `seconds` of average use.

        By the wear of the next month; wear slows down as it goes on, so that it takes somewhat longer.
        """
        battery = self.battery
        month = pass_days(battery.state, battery.design, battery.overrides._replace(wear_speed=1.0), DAYS_AHEAD)
        natural = (battery.soh - float(health(month.wear, battery.design))) / (DAYS_AHEAD * SECONDS_PER_DAY)
        return max(battery.soh - self._end_of_life, 0.0) / (natural * seconds)

    def heat(self, core_c: float) -> None:
        """Bring the pack to `core_c` at once, as a short or a fire nearby would."""
        self._change_pack(core_c=core_c, shell_c=core_c)

    def set_charge(self, soc: float) -> None:
        """Set the true and the counted state of charge, a fraction."""
        self._change_pack(soc=soc)
        self.battery.state = self.battery.state._replace(bms_soc=soc)

    def cell_voltages(self) -> NDArray[np.float64]:
        """True voltage of each series group, V, at no current: float64[cells_in_series]."""
        battery = self.battery
        condition = condition_of(battery.state, battery.design, battery.overrides)
        return cell_voltages_v(battery.state.pack, battery.design.pack, condition, 0.0)

    def _change_pack(self, **changes: float) -> None:
        state = self.battery.state
        self.battery.state = state._replace(pack=state.pack._replace(**changes))

    def _override(self, **changes: Any) -> None:
        self.battery.overrides = self.battery.overrides._replace(**changes)
