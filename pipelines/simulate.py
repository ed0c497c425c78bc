"""Stage `simulate`: write the simulated fleet, which is the default source, and apart from it its true states."""

from __future__ import annotations

import sys
from pathlib import Path

from simulator.fleet import SimulatedFleet, SimulateParams, simulate_fleet
from simulator.worker_processes import available_cores
from telemetry.command import exit_code
from telemetry.parameters import load_params

FLEET = Path("data/raw/fleet")
#: True states (`simulator.fleet.TRUTH_COLUMNS`), for comparison with predictions; no feature may read them.
TRUTH = Path("data/truth/fleet.parquet")


def write_fleet(fleet: SimulatedFleet, folder: Path, truth: Path) -> None:
    """Write the readings and batteries in the layout of the source `fleet` to `folder`, and the true states to `truth`.

    The same fleet always gives the same bytes.
    """
    for path, table in (
        (folder / "readings.parquet", fleet.readings),
        (folder / "batteries.parquet", fleet.batteries),
        (truth, fleet.truth),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path, compression="zstd", index=False)


def main() -> None:
    """Simulate the fleet of params.yaml on all cores; the files are the same for any number of them."""
    params = load_params()
    fleet = simulate_fleet(SimulateParams.of(params), params["seed"], workers=available_cores())
    write_fleet(fleet, FLEET, TRUTH)
    print(f"{len(fleet.batteries)} batteries, {len(fleet.readings)} readings -> {FLEET}, true states -> {TRUTH}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
