"""Simulation of the telemetry of a whole fleet, each battery from new to its end of life or the end of observation."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from simulator.battery import Battery, random_streams
from simulator.designs import CAR_MODELS
from telemetry.contract import BATTERY_FIELDS, names
from telemetry.parameters import Parameters

DAYS_PER_YEAR = 365.25


class SimulateParams(Parameters):
    """Section `simulate` of params.yaml.

    Attributes:
        batteries: number of batteries.
        sampling_s: time between the readings of a log, s.
        days_between_logs: days between telematics logs, mean.
        observation_end: date (UTC) on which the fleet's observation ends.
        years_in_service: shortest and longest time between a battery's first day and the end of observation.
        retire_below_soh: state of health (fraction) below which a battery is retired.
        cycles_after_retirement: equivalent full cycles between falling below it and the last log.
        ageing_spread: factor on the spread of ageing between batteries; 1 is natural.
        hazard_scale: factor on the hazard of faults; 1 is natural.
        models: names of the car models in the fleet (`simulator.designs.CAR_MODELS`); empty: all, by their shares.
    """

    section: ClassVar[str] = "simulate"

    batteries: PositiveInt = 24
    sampling_s: PositiveFloat = 30.0
    days_between_logs: PositiveFloat = 120.0
    observation_end: date = date(2026, 1, 1)
    years_in_service: tuple[PositiveFloat, PositiveFloat] = (4.0, 15.0)
    retire_below_soh: float = Field(0.8, ge=0.5, lt=1.0)
    cycles_after_retirement: NonNegativeFloat = 30.0
    ageing_spread: NonNegativeFloat = 1.0
    hazard_scale: PositiveFloat = 1.0
    models: tuple[str, ...] = ()

    @field_validator("years_in_service")
    @classmethod
    def _shortest_first(cls, years: tuple[float, float]) -> tuple[float, float]:
        if years[0] > years[1]:
            raise ValueError("it should be the shortest and the longest time")
        return years

    @field_validator("models")
    @classmethod
    def _known_models(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        known = [model.name for model in CAR_MODELS]
        if unknown := sorted(set(models) - set(known)):
            raise ValueError(f"there is no {', '.join(unknown)}: it should be some of {', '.join(known)}")
        return models

    @property
    def observation_end_s(self) -> float:
        """End of observation, seconds since 1970."""
        end = self.observation_end
        return datetime(end.year, end.month, end.day, tzinfo=UTC).timestamp()


def new_battery(params: SimulateParams, seed: int, index: int, in_service_since: datetime) -> Battery:
    """Battery `index` of the fleet with `seed`, on its first day."""
    return Battery(
        seed,
        index,
        in_service_since,
        models=tuple(model for model in CAR_MODELS if not params.models or model.name in params.models),
        ageing_spread=params.ageing_spread,
        hazard_scale=params.hazard_scale,
    )


def logs_until(battery: Battery, params: SimulateParams, until_s: float) -> Iterator[NDArray[np.float64]]:
    """The battery's telematics logs until its end, or `until_s` if that is sooner."""
    return battery.logs(
        sampling_s=params.sampling_s,
        days_between=params.days_between_logs,
        until_s=until_s,
        retire_below_soh=params.retire_below_soh,
        cycles_after=params.cycles_after_retirement,
    )


def simulate_history(battery: Battery, params: SimulateParams, until_s: float) -> pd.DataFrame:
    """Advance the battery to its end, or `until_s` if that is sooner, and return its telemetry."""
    return pd.concat([battery.readings(log) for log in logs_until(battery, params, until_s)], ignore_index=True)


def simulate_battery(params: SimulateParams, seed: int, index: int) -> tuple[pd.DataFrame, dict[str, object]]:
    """Readings and batteries-table row of battery `index`; independent of all other batteries of the fleet."""
    years = random_streams(seed, index).entry.uniform(*params.years_in_service)
    end = datetime.fromtimestamp(params.observation_end_s, UTC)
    since = (end - timedelta(days=DAYS_PER_YEAR * years)).replace(hour=0, minute=0, second=0, microsecond=0)
    battery = new_battery(params, seed, index, since)
    return simulate_history(battery, params, params.observation_end_s), battery.identity.row()


def simulate_fleet(params: SimulateParams, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The readings (by battery and time) and the batteries table of the whole fleet, columns of the contract."""
    histories = [simulate_battery(params, seed, index) for index in range(params.batteries)]
    readings = pd.concat([table for table, _ in histories], ignore_index=True)
    return readings, batteries_table([row for _, row in histories])


def batteries_table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Rows of `Identity.row` as a batteries table with the contract's types."""
    table = pd.DataFrame(rows, columns=names(BATTERY_FIELDS))
    return table.assign(in_service_since=pd.to_datetime(table["in_service_since"], utc=True).dt.as_unit("us"))
