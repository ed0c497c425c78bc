"""Stage `simulate`: write the simulated fleet, which is the default source."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from simulator.fleet import SimulateParams, simulate_fleet
from telemetry.command import exit_code
from telemetry.parameters import load_params

FLEET = Path("data/raw/fleet")


def write_fleet(readings: pd.DataFrame, batteries: pd.DataFrame, folder: Path) -> None:
    """Write the two tables in the layout of the source `fleet`; the same tables always give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    readings.to_parquet(folder / "readings.parquet", compression="zstd", index=False)
    batteries.to_parquet(folder / "batteries.parquet", compression="zstd", index=False)


def main() -> None:
    """Simulate the fleet of params.yaml."""
    params = load_params()
    readings, batteries = simulate_fleet(SimulateParams.of(params), params["seed"])
    write_fleet(readings, batteries, FLEET)
    print(f"{len(batteries)} batteries, {len(readings)} readings -> {FLEET}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
