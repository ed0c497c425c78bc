"""Simulation of the telemetry of a whole fleet, each battery from new to its end of life or the end of observation.

    python -m simulator.fleet --vehicles 1000 --years 8 --out DIR

writes a fleet in parts: cycle summaries of whole lives, readings of some telematics logs, and the true state at each
log in a folder of its own, which no source reads.  Where a run was stopped, the same command continues it.  The files
depend on seed and parameters alone, not on the number of workers.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from physics.cell import CellParameters
from physics.compiled import sources_checksum
from simulator.battery import Battery, random_streams
from simulator.calibration.cell import cell_parameters
from simulator.calibration.model import load_cell
from simulator.cycle_summaries import cycle_summaries
from simulator.designs import CAR_MODELS, CarModel
from simulator.faults import KIND_NAMES, NO_FAULT
from simulator.fleet_files import TRUTH, write_parts
from simulator.reading_windows import sampled_windows
from simulator.sensors import SAMPLE_SIZE
from simulator.worker_processes import available_cores, run_in_workers
from telemetry.command import exit_code
from telemetry.contract import BATTERY_FIELDS, EARLIEST, names
from telemetry.errors import TwinError
from telemetry.fleet_layout import BATTERIES, CYCLES, READINGS
from telemetry.parameters import PARAMS_FILE, Parameters, load_params

DAYS_PER_YEAR = 365.25
#: Types of the columns of a truth table, in their order.
TRUTH_COLUMNS: dict[str, str] = {
    "battery_id": "str",
    "time": "datetime64[us, UTC]",
    "cycles": "float64",
    "soh": "float64",
    "cumulative_hazard": "float64",
    "fault": "str",
    "severity": "float64",
    "has_failed": "bool",
}
#: Batteries in a part of the files: what is simulated again if a run is stopped, and held in memory.
BATTERIES_A_PART = 8
#: Telematics logs of a battery whose readings are kept, besides its last one.
READING_WINDOWS = 12


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
        reports_every_s: reporting intervals of the telematics units, s, of which each battery has one; empty: every
            reading of a log.
        telematics_faults: factor on the rates of lost, repeated and wrongly dated readings; 1 as in two real cars.
        models: names of the car models in the fleet (`simulator.designs.CAR_MODELS`); empty: all, by their shares.
        cell: file of a calibrated cell (`python -m simulator.calibrate --out`), of which the packs are made; None: the
            cells of their chemistry.
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
    reports_every_s: tuple[PositiveFloat, ...] = ()
    telematics_faults: NonNegativeFloat = 0.0
    models: tuple[str, ...] = ()
    cell: Path | None = None

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
    models = tuple(model for model in CAR_MODELS if not params.models or model.name in params.models)
    return Battery(
        seed,
        index,
        in_service_since,
        models=models,
        cell=None if params.cell is None else _calibrated_cell(params.cell, models),
        ageing_spread=params.ageing_spread,
        hazard_scale=params.hazard_scale,
        reports_every_s=params.reports_every_s,
        telematics_faults=params.telematics_faults,
    )


@cache
def _calibrated_cell(file: Path, models: tuple[CarModel, ...]) -> CellParameters:
    calibrated = load_cell(file)
    if wrong := [model for model in models if model.chemistry != calibrated.chemistry]:
        raise TwinError(
            f"simulate.cell {file} is of chemistry {calibrated.chemistry}, {wrong[0].name} has {wrong[0].chemistry}: "
            "name car models of its chemistry in simulate.models",
            field="simulate.cell",
            value=str(file),
        )
    return cell_parameters(calibrated)


def logs_until(battery: Battery, params: SimulateParams, until_s: float) -> Iterator[NDArray[np.float64]]:
    """The battery's telematics logs until its end, or `until_s` if that is sooner."""
    return battery.logs(
        sampling_s=params.sampling_s,
        days_between=params.days_between_logs,
        until_s=until_s,
        retire_below_soh=params.retire_below_soh,
        cycles_after=params.cycles_after_retirement,
    )


class SimulatedBattery(NamedTuple):
    """One battery: its readings (contract), its row of the batteries table, and the truth (`TRUTH_COLUMNS`) by log."""

    readings: pd.DataFrame
    row: dict[str, object]
    truth: pd.DataFrame


class SimulatedFleet(NamedTuple):
    """Readings by battery and time and batteries (columns of the contract), and the truth of all logs."""

    readings: pd.DataFrame
    batteries: pd.DataFrame
    truth: pd.DataFrame


def truth_row(battery: Battery) -> dict[str, object]:
    """The true state of a battery at the end of a log, as `TRUTH_COLUMNS`.

    `soh` is a fraction, `cumulative_hazard` that of the onset of a defect since its first day, `fault` the kind of its
    defect ("" as long as there is none), `severity` 0 to 1; 1 is the fault.
    """
    defect = battery.state.defect
    return {
        "battery_id": battery.identity.battery_id,
        "time": datetime.fromtimestamp(battery.state.time_s, UTC),
        "cycles": battery.cycles,
        "soh": battery.soh,
        "cumulative_hazard": float(defect.cumulative_hazard),
        "fault": "" if defect.kind == NO_FAULT else KIND_NAMES[defect.kind],
        "severity": float(defect.severity),
        "has_failed": battery.has_failed,
    }


def simulate_history(battery: Battery, params: SimulateParams, until_s: float) -> SimulatedBattery:
    """Advance the battery to its end, or `until_s` if that is sooner, and return its telemetry."""
    readings, truth = [battery.readings(np.empty((0, SAMPLE_SIZE)))], []
    for log in logs_until(battery, params, until_s):
        readings.append(battery.readings(log))
        truth.append(truth_row(battery))
    return SimulatedBattery(
        pd.concat(readings[1:] or readings, ignore_index=True),
        battery.identity.row(),
        pd.DataFrame(truth, columns=list(TRUTH_COLUMNS)).astype(TRUTH_COLUMNS),
    )


def simulate_battery(params: SimulateParams, seed: int, index: int) -> SimulatedBattery:
    """Battery `index` of a fleet; independent of all other batteries of the fleet."""
    years = random_streams(seed, index).entry.uniform(*params.years_in_service)
    end = datetime.fromtimestamp(params.observation_end_s, UTC)
    since = (end - timedelta(days=DAYS_PER_YEAR * years)).replace(hour=0, minute=0, second=0, microsecond=0)
    return simulate_history(new_battery(params, seed, index, since), params, params.observation_end_s)


def simulate_fleet(params: SimulateParams, seed: int, workers: int = 1) -> SimulatedFleet:
    """The whole fleet; the same for any number of worker processes."""
    lives = list(run_in_workers(partial(simulate_battery, params, seed), range(params.batteries), workers))
    return SimulatedFleet(
        pd.concat([life.readings for life in lives], ignore_index=True),
        batteries_table([life.row for life in lives]),
        pd.concat([life.truth for life in lives], ignore_index=True),
    )


def batteries_table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Rows of `Identity.row` as a batteries table with the contract's types."""
    table = pd.DataFrame(rows, columns=names(BATTERY_FIELDS))
    return table.assign(in_service_since=pd.to_datetime(table["in_service_since"], utc=True).dt.as_unit("us"))


def simulate_part(params: SimulateParams, seed: int, windows: int | None, part: int) -> dict[str, pd.DataFrame]:
    """The tables of a part of the fleet, by name; `windows` as in `sampled_windows`."""
    first = part * BATTERIES_A_PART
    indices = range(first, min(first + BATTERIES_A_PART, params.batteries))
    lives = [simulate_battery(params, seed, index) for index in indices]
    readings = [
        sampled_windows(life.readings, life.truth["time"], windows, seed, index)
        for life, index in zip(lives, indices, strict=True)
    ]
    return {
        READINGS: pd.concat(readings, ignore_index=True),
        CYCLES: pd.concat([cycle_summaries(life.readings, life.row) for life in lives], ignore_index=True),
        TRUTH: pd.concat([life.truth for life in lives], ignore_index=True),
        BATTERIES: batteries_table([life.row for life in lives]),
    }


def write_fleet_parts(
    folder: Path, params: SimulateParams, seed: int, *, windows: int | None, workers: int, progress: Progress
) -> int:
    """Write the parts of the fleet that `folder` lacks; their number.  Errors as those of `write_parts`."""
    manifest = {
        "seed": seed,
        "simulate": params.model_dump(mode="json"),
        "reading_windows": windows,
        "batteries_a_part": BATTERIES_A_PART,
        # Of the code that the rows come from, so that no fleet is continued by another simulator.
        "code": sources_checksum("simulator", "physics", "features"),
    }
    parts = math.ceil(params.batteries / BATTERIES_A_PART)
    make = partial(simulate_part, params, seed, windows)
    return write_parts(folder, manifest, parts, make, workers=workers, progress=progress)


def params_of_command(given: argparse.Namespace, params: Mapping[str, Any]) -> SimulateParams:
    """Section `simulate` of `params` with the vehicles and years of the command line.

    Raises:
        TwinError: an option or a parameter is out of range.
    """
    changed: dict[str, object] = dict(params.get(SimulateParams.section) or {})
    if given.vehicles is not None:
        changed["batteries"] = _positive("--vehicles", given.vehicles)
    if given.years is not None:
        years = _positive("--years", given.years)
        changed["years_in_service"] = (years, years)
    found = SimulateParams.of({SimulateParams.section: changed})
    years_possible = (found.observation_end_s - EARLIEST.timestamp()) / (86_400.0 * DAYS_PER_YEAR)
    if found.years_in_service[1] > years_possible:
        raise TwinError(
            f"simulate.years_in_service (--years) is {found.years_in_service[1]}: lives would begin before "
            f"{EARLIEST:%Y}; give at most {int(years_possible)}",
            field="simulate.years_in_service",
            value=found.years_in_service[1],
        )
    return found


def _positive(option: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise TwinError(f"{option} is {value}: give a number above 0", field=option, value=value)
    return value


def _windows(text: str) -> int | None:
    if text != "all" and not text.isdecimal():
        raise TwinError(
            f"--reading-windows is {text!r}: give a number of logs, 0 or more, or all",
            field="--reading-windows",
            value=text,
        )
    return None if text == "all" else int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        TwinError: an option or parameter is out of range, or the folder holds another fleet.
    """
    parser = argparse.ArgumentParser(
        prog="python -m simulator.fleet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the fleet; set source.path to it to train")
    parser.add_argument("--vehicles", type=int, help="number of batteries (default: simulate.batteries)")
    parser.add_argument("--years", type=float, help="years of each battery's observation (default: simulate's)")
    parser.add_argument("--seed", type=int, help="default: seed of the parameters, or 0")
    parser.add_argument("--workers", type=int, help="processes; default: all cores")
    parser.add_argument(
        "--reading-windows",
        default=str(READING_WINDOWS),
        help="logs of each battery with readings, besides its last one; or all (default: %(default)s)",
    )
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="section simulate (default: %(default)s)")
    given = parser.parse_args(arguments)
    if not given.params.is_file():
        raise TwinError(
            f"{given.params} does not exist; name a file with a section simulate in --params",
            field="--params",
            value=str(given.params),
        )
    content = load_params(given.params)
    params, windows = params_of_command(given, content), _windows(given.reading_windows)
    seed = content.get("seed", 0) if given.seed is None else given.seed
    if seed < 0:
        raise TwinError(f"--seed is {seed}: give a number of 0 or more", field="--seed", value=seed)
    workers = int(_positive("--workers", available_cores() if given.workers is None else given.workers))
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    try:
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
            new = write_fleet_parts(given.out, params, seed, windows=windows, workers=workers, progress=progress)
    except KeyboardInterrupt:
        console.print("stopped; the same command continues", style="yellow")
        return 130
    print(f"{params.batteries} batteries -> {given.out}, parts written now: {new}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
