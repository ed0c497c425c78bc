"""Simulation of the telemetry of a whole fleet, each battery from new to its end of life or the end of observation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from simulator.battery import Battery, random_streams
from simulator.designs import CAR_MODELS
from telemetry.contract import BATTERY_FIELDS, names
from telemetry.errors import TwinError

DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class SimulateParams:
    """Section `simulate` of params.yaml; a value out of range is a `TwinError`.

    Attributes:
        batteries: number of batteries.
        sampling_s: time between the readings of a log, s.
        cycles_between_logs: equivalent full cycles between telematics logs, mean.
        observation_end: date (UTC) on which the fleet's observation ends.
        years_in_service: shortest and longest time between a battery's first day and the end of observation.
        retire_below_soh: state of health (fraction) below which a battery is retired.
        cycles_after_retirement: equivalent full cycles between falling below it and the last log.
        ageing_spread: factor on the spread of ageing between batteries; 1 is natural.
        hazard_scale: factor on the hazard of faults; 1 is natural.
        models: names of the car models in the fleet (`simulator.designs.CAR_MODELS`); empty: all, by their shares.
    """

    batteries: int = 24
    sampling_s: float = 30.0
    cycles_between_logs: float = 22.0
    observation_end: str = "2026-01-01"
    years_in_service: tuple[float, float] = (2.0, 8.0)
    retire_below_soh: float = 0.8
    cycles_after_retirement: float = 30.0
    ageing_spread: float = 1.0
    hazard_scale: float = 1.0
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("batteries", "sampling_s", "cycles_between_logs", "hazard_scale"):
            if not getattr(self, name) > 0:
                raise _invalid(name, getattr(self, name), "it must be greater than 0")
        for name in ("cycles_after_retirement", "ageing_spread"):
            if not getattr(self, name) >= 0:
                raise _invalid(name, getattr(self, name), "it must not be negative")
        if not 0.5 <= self.retire_below_soh < 1.0:
            raise _invalid("retire_below_soh", self.retire_below_soh, "it must be a fraction from 0.5 to below 1")
        for name in self.models:
            if name not in {model.name for model in CAR_MODELS}:
                known = ", ".join(model.name for model in CAR_MODELS)
                raise _invalid("models", name, f"it must be one of {known}")
        if len(self.years_in_service) != 2 or not 0 < self.years_in_service[0] <= self.years_in_service[1]:
            raise _invalid("years_in_service", self.years_in_service, "it must be the shortest and the longest time")
        try:
            datetime.fromisoformat(str(self.observation_end))
        except ValueError as error:
            raise _invalid("observation_end", self.observation_end, "it must be a date such as 2026-01-01") from error

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SimulateParams:
        """From the section `simulate` of params.yaml.

        Raises:
            TwinError: a key is unknown or a value is out of range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise _invalid(name, values[name], f"it must be one of {', '.join(known)}")
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**given)

    @property
    def observation_end_s(self) -> float:
        """End of observation, seconds since 1970."""
        end = datetime.fromisoformat(str(self.observation_end))
        return (end if end.tzinfo else end.replace(tzinfo=UTC)).timestamp()


def _invalid(name: str, value: object, rule: str) -> TwinError:
    field = f"simulate.{name}"
    return TwinError(f"{field} is {value!r}: {rule}.", field=field, value=value)


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
        cycles_between=params.cycles_between_logs,
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
