"""Battery power of cars on regulatory driving cycles, from the committed tables of FASTSim (`simulator/tables`).

`python -m validation.vehicle_power` makes the tables.  FASTSim brakes with the motor alone up to its power, so
recuperation is an upper bound; 22 degC, no air conditioning, 250 W of auxiliaries.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from telemetry.errors import TwinError

TABLES = Path(__file__).parent / "tables"
TABLE_FILE = TABLES / "vehicle_power.csv"
DESCRIPTION_FILE = TABLES / "vehicle_power.json"


class Vehicle(NamedTuple):
    """A car of FASTSim: its full name, mass, constant auxiliary power and energy of its battery when new."""

    name: str
    mass_kg: float
    auxiliary_w: float
    battery_kwh: float


class Drive(NamedTuple):
    """A car on a cycle, in steps of a second: speed, and power from its battery (negative while it recuperates)."""

    speed_m_s: NDArray[np.float64]
    power_w: NDArray[np.float64]

    @property
    def distance_km(self) -> float:
        """Distance, km."""
        return float(self.speed_m_s.sum()) / 1000.0

    @property
    def consumption_wh_km(self) -> float:
        """Energy from the battery for each km, Wh, less what was recuperated."""
        return float(self.power_w.sum()) / 3600.0 / self.distance_km

    @property
    def recuperated_share(self) -> float:
        """Energy returned to the battery over energy taken from it."""
        return float(-self.power_w[self.power_w < 0.0].sum() / self.power_w[self.power_w > 0.0].sum())


def vehicles() -> dict[str, Vehicle]:
    """The cars by the names that the tables use."""
    described = json.loads(DESCRIPTION_FILE.read_text(encoding="utf-8"))["vehicles"]
    return {
        key: Vehicle(one["name"], one["mass_kg"], one["auxiliary_w"], one["battery_kwh"])
        for key, one in described.items()
    }


def drives(table_file: Path = TABLE_FILE) -> dict[tuple[str, str], Drive]:
    """Each car on each cycle of the table, by (car, cycle).

    Raises:
        TwinError: the table is incomplete.
    """
    table, names, found = pd.read_csv(table_file), list(vehicles()), {}
    missing = {"cycle", "time_s", "speed_m_s", *(f"{name}_w" for name in names)}.difference(table.columns)
    if missing:
        raise TwinError(
            f"The table {table_file.name} has no column {min(missing)}: run python -m validation.vehicle_power."
        )
    for cycle, rows in table.groupby("cycle", sort=False):
        if not np.array_equal(rows["time_s"], np.arange(1, len(rows) + 1)):
            raise TwinError(
                f"time_s of cycle {cycle} in {table_file.name} does not count seconds from 1: "
                "run python -m validation.vehicle_power."
            )
        speed_m_s = rows["speed_m_s"].to_numpy(np.float64)
        for name in names:
            found[name, str(cycle)] = Drive(speed_m_s, rows[f"{name}_w"].to_numpy(np.float64))
    return found
