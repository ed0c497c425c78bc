"""Simulated battery of the fleet: identity, random streams, choice of the next activity, and telematics logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from physics.cell import CellParameters
from physics.pack import CORE_C
from simulator.battery_days import advance_days
from simulator.battery_physics import record
from simulator.battery_state import (
    CHARGE,
    DRIVE,
    NO_OVERRIDES,
    REST,
    Activity,
    BatteryState,
    Design,
    Overrides,
    cycles,
    first_state,
    health,
    is_faulty,
    rested,
)
from simulator.climate import SECONDS_PER_DAY
from simulator.designs import CAR_MODELS, USAGES, CarModel, Usage, draw_design, pick
from simulator.sensors import SAMPLE_SIZE, TIME_S, measure
from simulator.stale_code import drop_stale_code
from simulator.telematics import Telematics, draw_telematics
from telemetry.contract import BATTERY_FIELDS, READING_FIELDS, names

FloatArray = NDArray[np.float64]

DRIVE_S = (30 * 60.0, 60 * 60.0)
REST_S = (5 * 60.0, 15 * 60.0)
DC_CHARGE_S = 50 * 60.0
AC_CHARGE_S = 7 * 3600.0
FIRST_SOC = 0.8
#: State of charge at the start of a telematics log; low, because logs of deep charges are the ones that are recorded.
DEPARTURE_SOC = (0.30, 0.60)
#: A driver charges after a drive that ended below this.
CHARGE_BELOW_SOC = 0.6
#: Standard deviation of the BMS state-of-charge error (fraction) at the start of a log, after days without a recording.
COUNTER_ERROR = 0.012


@dataclass(frozen=True)
class Identity:
    """Description of a battery as in the batteries table; None as cell parameters: those of a calibrated cell."""

    battery_id: str
    model: CarModel
    usage: Usage
    in_service_since: datetime
    cell_parameters: str | None

    def row(self) -> dict[str, object]:
        """A row of the batteries table, in the order of the contract."""
        row: dict[str, object] = {
            "battery_id": self.battery_id,
            "nominal_capacity_ah": self.model.nominal_capacity_ah,
            "nominal_voltage": round(self.model.nominal_voltage_v, 2),
            "chemistry": self.model.chemistry,
            "cells_in_series": float(self.model.cells_in_series),
            "cells_in_parallel": float(self.model.cells_in_parallel),
            "model": self.model.name,
            "in_service_since": self.in_service_since,
            "fleet": self.usage.name,
            "cell_parameters": self.cell_parameters,
        }
        return {name: row[name] for name in names(BATTERY_FIELDS)}


class RandomStreams(NamedTuple):
    """Random number generators of one battery, one for each purpose."""

    entry: np.random.Generator
    design: np.random.Generator
    life: np.random.Generator
    sensors: np.random.Generator


def random_streams(seed: int, index: int) -> RandomStreams:
    """Generators of battery `index`: those of `SeedSequence(seed).spawn(n)[index]` for any n."""
    own = np.random.SeedSequence(seed, spawn_key=(index,))
    return RandomStreams(*(np.random.default_rng(child) for child in own.spawn(len(RandomStreams._fields))))


class Battery:
    """Simulated battery: its state, its design with the planned fault, and its random streams.

    Args:
        seed: of the fleet.
        index: of the battery; its random streams depend on seed and index only.
        models: car models of the fleet.
        reports_every_s, telematics_faults: see `simulator.telematics.draw_telematics`.
        cell: cells of the pack; None: those of the model's chemistry.
        is_full: simulate every series group of the pack instead of three.
    """

    def __init__(
        self,
        seed: int,
        index: int,
        in_service_since: datetime,
        *,
        models: tuple[CarModel, ...] = CAR_MODELS,
        ageing_spread: float,
        hazard_scale: float,
        reports_every_s: Sequence[float] = (),
        telematics_faults: float = 0.0,
        cell: CellParameters | None = None,
        is_full: bool = False,
    ) -> None:
        drop_stale_code()
        start_s = in_service_since.astimezone(UTC).timestamp()
        _, design_rng, self._life_rng, self._sensor_rng = random_streams(seed, index)
        model, usage = pick(models, design_rng), pick(USAGES, design_rng)
        self.identity = Identity(
            f"EV-{index + 1:04d}", model, usage, in_service_since, model.chemistry if cell is None else None
        )
        self.design: Design = draw_design(
            model,
            usage,
            design_rng,
            in_service_s=start_s,
            ageing_spread=ageing_spread,
            hazard_scale=hazard_scale,
            cell=cell,
            is_full=is_full,
        )
        self.overrides: Overrides = NO_OVERRIDES
        self.state: BatteryState = first_state(self.design, start_s, FIRST_SOC)
        # Its own generator, so that a table is the same as single readings.
        own = self._sensor_rng.spawn(1)[0]
        self.telematics = Telematics(draw_telematics(own, reports_every_s, telematics_faults), own)

    @property
    def random_streams(self) -> tuple[np.random.Generator, np.random.Generator]:
        """The generators that operation and sensors draw from."""
        return self._life_rng, self._sensor_rng

    @property
    def cycles(self) -> float:
        """Equivalent full cycles so far."""
        return float(cycles(self.state, self.design))

    @property
    def soh(self) -> float:
        """True state of health as a fraction."""
        return float(health(self.state.ageing, self.design))

    @property
    def has_failed(self) -> bool:
        """True once a fault has happened."""
        return bool(is_faulty(self.state, self.overrides))

    def days_to_next_recording(self, days_between: float) -> float:
        """Days until the next telematics log, which begins between 6 and 18 h of its day."""
        now = self.state.time_s / SECONDS_PER_DAY
        day = np.floor(now + max(days_between * self._life_rng.uniform(0.8, 1.2), 1.0))
        return float(day + self._life_rng.uniform(0.25, 0.75) - now)

    def advance_days(self, days: float) -> None:
        """Advance by `days` of average use without recording (fewer if a fault happens)."""
        self.state = advance_days(self.state, self.design, self.overrides, days, self._life_rng)

    def set_at_rest(self, soc: float, temperature_c: float) -> None:
        """Set the pack to rest at a state of charge, a fraction, and temperature."""
        self.state = rested(self.state, self.design, self.overrides, soc, temperature_c)

    @property
    def core_c(self) -> float:
        """Hottest core temperature, degC."""
        return float(self.state.groups[:, CORE_C].max())

    def start_log(self) -> None:
        """Start a log with a drive at low charge, because the deep charge after it is the most informative."""
        soc = float(self._life_rng.uniform(*DEPARTURE_SOC))
        counted = min(max(soc + COUNTER_ERROR * float(self._life_rng.standard_normal()), 0.0), 1.0)
        self.set_at_rest(soc, self.core_c)
        self.state = self.state._replace(bms_soc=counted)
        self.start_activity(DRIVE)

    def start_activity(self, kind: int) -> None:
        """Start an activity with a duration, charger and target drawn for this usage."""
        rng = self._life_rng
        if kind == DRIVE:
            activity = Activity(DRIVE, float(rng.uniform(*DRIVE_S)), 0.0, 1.0)
        elif kind == REST:
            activity = Activity(REST, float(rng.uniform(*REST_S)), 0.0, 1.0)
        else:
            is_fast = rng.random() < self.identity.usage.dc_share
            target_soc = float(np.clip(rng.uniform(0.85, 1.1), 0.0, 1.0))
            if is_fast:
                activity = Activity(CHARGE, DC_CHARGE_S, self.identity.model.dc_w, target_soc)
            else:
                activity = Activity(CHARGE, AC_CHARGE_S, self.identity.model.ac_w, target_soc)
        self.state = self.state._replace(activity=activity)

    def start_next_activity(self) -> None:
        """Start a rest after a drive or charge; after a rest, a charge if the charge is low, else a drive."""
        if self.state.activity.kind != REST:
            self.start_activity(REST)
        elif self.state.bms_soc < CHARGE_BELOW_SOC:
            self.start_activity(CHARGE)
        else:
            self.start_activity(DRIVE)

    def read(self, seconds: float) -> tuple[dict[str, object], bool]:
        """Advance the current activity by `seconds`: a reading (without `time`), and whether the activity ended."""
        samples = np.empty((1, SAMPLE_SIZE))
        self.state, _, ended = record(self.state, self.design, self.overrides, seconds, samples, self._life_rng)
        measured = measure(samples, self.design.sensors, self._sensor_rng)
        reading: dict[str, object] = {name: float(values[0]) for name, values in measured.items()}
        reading |= {"battery_id": self.identity.battery_id, "is_charging": bool(reading["is_charging"])}
        return reading, ended

    def log(self, sampling_s: float) -> FloatArray:
        """One telematics log of true samples, float64[n, SAMPLE_SIZE]: a drive, a rest and a charge."""
        self.start_log()
        parts = []
        for kind in (DRIVE, REST, CHARGE):
            if kind != DRIVE:
                self.start_activity(kind)
            capacity = int(np.ceil(2.0 * self.state.activity.remaining_s / sampling_s)) + 1
            samples = np.empty((capacity, SAMPLE_SIZE))
            self.state, rows, _ = record(self.state, self.design, self.overrides, sampling_s, samples, self._life_rng)
            parts.append(samples[:rows])
        return np.concatenate(parts)

    def logs(
        self, *, sampling_s: float, days_between: float, until_s: float, retire_below_soh: float, cycles_after: float
    ) -> Iterator[FloatArray]:
        """Telematics logs until a fault (in the last of them), retirement or `until_s`.

        Retirement is `cycles_after` equivalent full cycles after health fell below `retire_below_soh`.
        """
        worn_at = float("nan")
        while True:
            days = self.days_to_next_recording(days_between)
            if self.state.time_s + days * SECONDS_PER_DAY > until_s:
                return
            self.advance_days(days)
            yield self.log(sampling_s)
            if np.isnan(worn_at) and self.soh < retire_below_soh:
                worn_at = self.cycles
            if self.has_failed or self.cycles >= worn_at + cycles_after:
                return

    def readings(self, samples: FloatArray) -> pd.DataFrame:
        """Sensor readings of true samples: a readings table, columns of the contract."""
        columns: dict[str, object] = {
            "battery_id": np.full(len(samples), self.identity.battery_id, dtype=object),
            "time": pd.to_datetime(np.round(samples[:, TIME_S] * 1e3).astype("int64"), unit="ms", utc=True).as_unit(
                "us"
            ),
            **measure(samples, self.design.sensors, self._sensor_rng),
        }
        frame = pd.DataFrame({name: columns[name] for name in names(READING_FIELDS)}).astype({"battery_id": "str"})
        return self.telematics.table(frame)
