"""Live battery: a simulated battery in the middle of its life that gives one reading a call, at any interval.

It is battery `index` of the fleet that `simulator.fleet` writes to files, simulated by the same code: `history` is its
telemetry so far, `read` gives the next reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np
import pandas as pd

from physics.pack import CORE_C, SOC, SURFACE_C
from simulator.battery import Battery, Identity
from simulator.battery_days import advance_days
from simulator.battery_state import CHARGE, Design, condition_of, health
from simulator.climate import SECONDS_PER_DAY, daily_mean_c
from simulator.driving import STANDING
from simulator.faults import KIND_NAMES, NO_FAULT
from simulator.fleet import DAYS_PER_YEAR, SimulateParams, batteries_table, logs_until, new_battery
from simulator.saved_state import design_checksum, restore, save
from simulator.sensors import SAMPLE_SIZE
from telemetry.contract import READING_FIELDS, names
from telemetry.errors import TwinError

#: A longer time between two readings is simulated as average use, a shorter one in steps of a second.
LONGEST_STEP_S = 2.0 * 3600.0
#: After days of average use, a drive starts this long before the reading.
DRIVE_BEFORE_READING_S = 1.0
#: Logs of the history start at least this long before it ends: a log is a drive, a rest and a charge of up to 7 h.
LONGEST_LOG_S = 10.0 * 3600.0
#: Factor on the age for each new attempt, where the battery ended before the live time.
YOUNGER_FACTOR = 0.8
#: Steps in which the length of a life is found.
LIFE_STEP_DAYS = 10.0
#: Accelerated wear to the end of life is found by bisection, up to so many days of natural wear.
MOST_DAYS_TO_END, BISECTIONS = 1e6, 40
#: Warming of a pack whose cooling is lost: about what fast charging does to it, and the temperature at which it ends.
WARMING_K_PER_S = 0.5 / 60.0
WARMEST_C = 62.0
#: Share of the cooling that is lost; below 1, so that the defect is a precursor and no fault event.
LOST_COOLING = 0.95


class LivePack:
    """One live battery; created with `LivePack.start`.

    Args:
        end_of_life: state of health (fraction) of its end of life.

    Attributes:
        battery: the battery itself (its identity, design, true state and `cycles`, `soh`, `has_failed`).
    """

    def __init__(self, battery: Battery, history: pd.DataFrame, end_of_life: float = 0.8) -> None:
        self.battery = battery
        self._history = history
        self._checksum = design_checksum(battery)
        self._end_of_life = end_of_life
        self._usual: tuple[Identity, Design] | None = None
        self._warming_k_per_s = 0.0

    @classmethod
    def start(
        cls,
        params: SimulateParams,
        seed: int,
        index: int,
        *,
        at: datetime,
        life_share: float = 0.6,
        recent_logs: Sequence[tuple[timedelta, float]] = (),
    ) -> Self:
        """Battery `index` of fleet `seed` at about `life_share` of its life on the date `at`.

        An index from `params.batteries` on gives a battery outside the training files.  The length of its life is
        found with average use; then it is simulated from a first day that places `at` at the wanted share, at most
        the longest time in service of `params`.  Where it ends before `at`, the battery starts younger.

        Args:
            recent_logs: parts at the end of the history with more logs than one every `params.days_between_logs`:
                how long before the end each begins, and the days between its logs.

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
        # Live readings are sent as they are.
        params = params.model_copy(update={"reports_every_s": (), "telematics_faults": 0.0})
        trial = new_battery(params, seed, index, at)
        while not trial.has_failed and trial.soh >= params.retire_below_soh:
            trial.advance_days(LIFE_STEP_DAYS)
        days = life_share * (trial.state.time_s - at.timestamp()) / SECONDS_PER_DAY
        days = min(days, DAYS_PER_YEAR * params.years_in_service[1])
        until_s = at.timestamp() - LONGEST_LOG_S
        while True:
            battery = new_battery(params, seed, index, at - timedelta(days=days))
            logs = [np.empty((0, SAMPLE_SIZE))]
            ends = [until_s - begin.total_seconds() for begin, _ in recent_logs] + [until_s]
            spacings = [params.days_between_logs] + [between for _, between in recent_logs]
            for end_s, spacing in zip(ends, spacings, strict=True):
                logs += logs_until(battery, params.model_copy(update={"days_between_logs": spacing}), end_s)
                if end_s < until_s:
                    battery.advance_days(max(end_s - battery.state.time_s, 0.0) / SECONDS_PER_DAY)
            if not battery.has_failed and battery.soh >= params.retire_below_soh:
                return cls(battery, battery.readings(np.concatenate(logs)), params.retire_below_soh)
            days *= YOUNGER_FACTOR

    @property
    def battery_id(self) -> str:
        """The battery's id."""
        return self.battery.identity.battery_id

    @property
    def last_time(self) -> datetime:
        """Event time up to which the battery has been simulated."""
        return datetime.fromtimestamp(self.battery.state.time_s, UTC)

    def history(self) -> pd.DataFrame:
        """The battery's telemetry before the live run: a readings table, columns of the contract."""
        return self._history.copy()

    def batteries_row(self) -> pd.DataFrame:
        """Batteries table with the row of this battery."""
        return batteries_table([self.battery.identity.row()])

    def clear_history(self) -> None:
        """Forget the telemetry so far; the battery itself is unchanged."""
        self._history = self._history.iloc[:0]

    def record(self, begin: datetime, end: datetime, step_s: float) -> pd.DataFrame:
        """Live from `begin` to `end` and add a reading each `step_s` to the history; those readings."""
        count = int((end - begin).total_seconds() / step_s) + 1
        rows = [self.read(begin + timedelta(seconds=number * step_s)) for number in range(count)]
        recorded = pd.DataFrame(rows, columns=names(READING_FIELDS))
        recorded["time"] = pd.to_datetime(recorded["time"], utc=True).dt.as_unit("us")
        recorded = recorded.astype({"battery_id": "str", "is_charging": "float64"})
        self._history = pd.concat([self._history, recorded], ignore_index=True)
        return recorded

    def read(self, time: datetime) -> dict[str, object]:
        """Simulate until `time` and return the reading, fields of the contract: floats, `is_charging` a bool.

        Raises:
            TwinError: `time` has no time zone or is not later than the last reading's.
        """
        if time.tzinfo is None or time <= self.last_time:
            sentence = f"time is {time!r}: it must carry a time zone and be later than {self.last_time.isoformat()}."
            raise TwinError(sentence, field="time", value=time)
        seconds = time.timestamp() - self.battery.state.time_s
        if seconds > LONGEST_STEP_S:
            while seconds > DRIVE_BEFORE_READING_S:  # a fault ends `advance_days` early, once
                self.battery.advance_days((seconds - DRIVE_BEFORE_READING_S) / SECONDS_PER_DAY)
                seconds = max(time.timestamp() - self.battery.state.time_s, DRIVE_BEFORE_READING_S)
            self.battery.start_log()
        if self._warming_k_per_s:
            core_c = self.battery.core_c
            self.heat(max(core_c, min(core_c + self._warming_k_per_s * seconds, WARMEST_C)))
        reading, ended = self.battery.read(seconds)
        if ended:
            self.battery.start_next_activity()
        reading["time"] = time
        return {name: reading[name] for name in names(READING_FIELDS)}

    def save_state(self) -> bytes:
        """State after the last reading, for `restore_state`; without injections."""
        return save(self.battery, self._checksum)

    def restore_state(self, saved: bytes) -> bool:
        """Continue from `saved`; False, and no change, where that is of a fleet with other parameters."""
        return restore(self.battery, self._checksum, saved)

    def inject_fault(self, kind: str, severity: float = 1.0) -> None:
        """Inject a defect of `kind` (of `KIND_NAMES`): a fault at severity 1, a precursor below."""
        if kind not in KIND_NAMES:
            sentence = f"kind is {kind!r}: it must be one of {', '.join(KIND_NAMES)}."
            raise TwinError(sentence, field="kind", value=kind)
        if not 0.0 <= severity <= 1.0:
            raise TwinError(f"severity is {severity!r}: it must lie between 0 and 1.", field="severity", value=severity)
        self._override(fault_kind=KIND_NAMES.index(kind), fault_severity=float(severity))

    def clear_fault(self) -> None:
        """Remove an injected defect; the battery's planned fault stays."""
        self._override(fault_kind=NO_FAULT, fault_severity=0.0)

    def lose_cooling(self, warming_k_per_s: float = WARMING_K_PER_S) -> None:
        """Lose the cooling: the pack warms steadily to `WARMEST_C`."""
        self.inject_fault("cooling_failure", LOST_COOLING)
        self._warming_k_per_s = warming_k_per_s

    def regain_cooling(self) -> None:
        """End `lose_cooling`."""
        self.clear_fault()
        self._warming_k_per_s = 0.0

    def set_ambient_offset(self, offset_c: float) -> None:
        """Add `offset_c`, K, to the ambient temperature."""
        self._override(ambient_offset_c=float(offset_c))

    @property
    def midsummer_offset_c(self) -> float:
        """Difference of the mean outdoor temperature in mid July to now, K, without weather."""
        climate = self.battery.design.climate
        now_c = float(daily_mean_c(self.battery.state.time_s, climate._replace(weather_c=0.0)))
        return climate.mean_c + climate.season_c - now_c

    def set_long_distance_use(self, charger_w: float, highway_share: float) -> None:
        """Switch to long-distance driving and fast charging at `charger_w`."""
        self.reset_use()
        battery = self.battery
        self._usual = (battery.identity, battery.design)
        identity, driver = battery.identity, battery.design.driver
        battery.identity = replace(
            identity, usage=replace(identity.usage, dc_share=1.0), model=replace(identity.model, dc_w=float(charger_w))
        )
        driver = driver._replace(highway_share=highway_share)
        battery.design = battery.design._replace(driver=driver)

    def reset_use(self) -> None:
        """Return to the battery's usual driving and charging."""
        if self._usual is not None:
            self.battery.identity, self.battery.design = self._usual
            self._usual = None

    def set_wear_speed(self, factor: float) -> None:
        """Multiply ageing by `factor`; 1 is natural."""
        if not factor >= 0.0:
            raise TwinError(f"factor is {factor!r}: it must not be negative.", field="factor", value=factor)
        self._override(wear_speed=float(factor))

    @property
    def has_reached_end(self) -> bool:
        """True once the state of health is below the end of life."""
        return self.battery.soh < self._end_of_life

    def wear_speed_to_end(self, seconds: float) -> float:
        """Factor on ageing with which the end of life is reached in `seconds` of parking; use ages more."""
        slow, fast = 0.0, MOST_DAYS_TO_END
        for _ in range(BISECTIONS):
            factor = 0.5 * (slow + fast)
            slow, fast = (factor, fast) if self._soh_after_a_day(factor) > self._end_of_life else (slow, factor)
        return fast * SECONDS_PER_DAY / seconds

    def _soh_after_a_day(self, wear_speed: float) -> float:
        battery, rng = self.battery, np.random.default_rng(0)
        fast = battery.overrides._replace(wear_speed=wear_speed)
        return float(health(advance_days(battery.state, battery.design, fast, 1.0, rng).ageing, battery.design))

    def heat(self, core_c: float) -> None:
        """Set the temperature of the whole pack to `core_c`."""
        groups = self.battery.state.groups.copy()
        groups[:, CORE_C] = groups[:, SURFACE_C] = core_c
        self.battery.state = self.battery.state._replace(groups=groups)

    def set_charge(self, soc: float) -> None:
        """Set the true and the counted state of charge, a fraction."""
        self.battery.set_at_rest(soc, self.battery.core_c)
        self.battery.state = self.battery.state._replace(bms_soc=soc)

    def plug_in(self, soc: float) -> None:
        """Park the car and start a charge at `soc`, a fraction; readings need a pause, in which the charge was used."""
        self.set_charge(soc)
        self.battery.state = self.battery.state._replace(drive=STANDING)
        self.battery.start_activity(CHARGE)

    def _override(self, **changes: Any) -> None:
        battery = self.battery
        before = condition_of(battery.state, battery.design, battery.overrides).weak_charge_offset
        battery.overrides = battery.overrides._replace(**changes)
        after = condition_of(battery.state, battery.design, battery.overrides).weak_charge_offset
        # The leakage of days, which an injected defect has behind it.
        groups = battery.state.groups.copy()
        groups[0, SOC] += after - before
        battery.state = battery.state._replace(groups=groups)
