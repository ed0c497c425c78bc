"""Benchmark of simulating fleets: the training fleet of params.yaml on two cores, and growth with the fleet size."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from rich.progress import Progress

from pipelines.simulate import write_fleet
from simulator.fleet import SimulateParams, simulate_fleet, write_fleet_parts
from telemetry.parameters import load_params

_CORES = 2
_LIMIT_S = 60.0
_VEHICLES = (10, 100, 1_000)
#: Short lives have few logs, so that a thousand of them are measured in less than a minute or two.
_YEARS = 1.0
_WINDOWS = 2


def fleet() -> list[dict[str, Any]]:
    """Seconds for the training fleet, and cars per second in fleets of 10, 100 and 1,000 (1x is linear growth).

    The first includes the start of the worker processes and writing its files, as the stage `simulate` does; the second
    is that of `python -m simulator.fleet` in one process.  Compiled before, as from the second run on.
    """
    params = load_params()
    training = SimulateParams.of(params)
    with tempfile.TemporaryDirectory(prefix="twin-bench-") as name:
        folder = Path(name)
        short = training.model_copy(update={"years_in_service": (_YEARS, _YEARS)})
        _vehicles_a_second(short, params["seed"], 1, folder / "compiled")
        began = time.perf_counter()
        made = simulate_fleet(training, params["seed"], workers=_CORES)
        write_fleet(made, folder / "fleet", folder / "truth.parquet")
        seconds = time.perf_counter() - began
        rates = {n: _vehicles_a_second(short, params["seed"], n, folder / f"{n}") for n in _VEHICLES}
    measurements = [
        {
            "name": "fleet_training",
            "value": seconds,
            "unit": "s",
            "peer": f"limit, {training.batteries} batteries and {len(made.readings):,} readings on {_CORES} cores",
            "peer_value": _LIMIT_S,
            "ratio": seconds / _LIMIT_S,
        }
    ]
    return measurements + [
        {
            "name": f"fleet_{n}_vehicles",
            "value": rate,
            "unit": "vehicles/s",
            "peer": f"{_VEHICLES[0]} vehicles, {_YEARS:g} year, one core",
            "peer_value": rates[_VEHICLES[0]],
            "ratio": rate / rates[_VEHICLES[0]],
        }
        for n, rate in rates.items()
    ]


def _vehicles_a_second(params: SimulateParams, seed: int, vehicles: int, folder: Path) -> float:
    began = time.perf_counter()
    write_fleet_parts(
        folder,
        params.model_copy(update={"batteries": vehicles}),
        seed,
        windows=_WINDOWS,
        workers=1,
        progress=Progress(disable=True),
    )
    return vehicles / (time.perf_counter() - began)
