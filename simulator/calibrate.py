"""Calibrates the cell model to the measured discharges of one battery and reports its error on each discharge.

    python -m simulator.calibrate --source nasa_pcoe --path FOLDER --battery B0005 --out B0005.json

The parameters are fitted to some discharges (`--fit-discharges`) and the others are predicted from their current, first
temperature, ambient temperature and rest before them, with a full cell at the start and the trend of capacity and
resistance of the fitted ones; never from their own voltage.  Errors are root mean squares between the first and the
last reading under load, per cell in series.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from simulator.calibration.discharges import Measured, discharges_of
from simulator.calibration.fit import fit
from simulator.calibration.model import CalibratedCell, predict
from telemetry.command import exit_code
from telemetry.errors import TwinError
from telemetry.sources import read_source


@dataclass(frozen=True)
class DischargeError:
    """Error of the calibrated cell on one discharge; the greatest voltage error is an absolute value."""

    number: int
    start: str
    used_for_fit: bool
    capacity_ah: float
    voltage_rmse_mv: float
    voltage_max_mv: float
    temperature_rmse_c: float


def errors_of(cell: CalibratedCell, measured: Measured, used: Sequence[int]) -> list[DischargeError]:
    """Error on every discharge, in order of time."""
    rows = []
    for one, predicted in zip(measured.discharges, predict(cell, measured.discharges), strict=True):
        voltage = 1e3 * (predicted.voltage_v - one.voltage_v)[one.loaded]
        temperature = (predicted.temperature_c - one.temperature_c)[one.loaded]
        rows.append(
            DischargeError(
                one.number,
                one.start.isoformat(),
                one.number in used,
                predicted.capacity_ah,
                float(np.sqrt(np.mean(voltage**2))),
                float(np.max(np.abs(voltage))),
                float(np.sqrt(np.mean(temperature**2))),
            )
        )
    return rows


def chosen_discharges(text: str, numbers: Sequence[int]) -> list[int]:
    """Numbers of the discharges to fit: `every:4`, `first:80`, or a list such as `1,5,9`.

    Raises:
        TwinError: it is none of these.
    """
    kind, _, count = text.partition(":")
    try:
        if kind == "every" and int(count) > 0:
            return list(numbers[:: int(count)])
        if kind == "first" and int(count) > 0:
            return list(numbers[: int(count)])
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise TwinError(
            f"--fit-discharges {text!r} is not understood; give every:4, first:80 or a list such as 1,5,9",
            field="fit_discharges",
            value=text,
        ) from None


def summary(errors: Sequence[DischargeError]) -> dict[str, float]:
    """Means over the fitted and the unused discharges, and the worst unused one; without unused ones, no such entry."""
    values: dict[str, float] = {}
    for name, rows in (
        ("fitted", [one for one in errors if one.used_for_fit]),
        ("unused", [one for one in errors if not one.used_for_fit]),
    ):
        values[f"{name}_discharges"] = len(rows)
        if rows:
            values[f"{name}_voltage_rmse_mv"] = float(np.mean([one.voltage_rmse_mv for one in rows]))
            values[f"{name}_voltage_rmse_worst_mv"] = max(one.voltage_rmse_mv for one in rows)
            values[f"{name}_temperature_rmse_c"] = float(np.mean([one.temperature_rmse_c for one in rows]))
            values[f"{name}_temperature_rmse_worst_c"] = max(one.temperature_rmse_c for one in rows)
    return values


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        TwinError: the source, the battery or the choice of discharges cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="python -m simulator.calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="a telemetry source with readings, as nasa_pcoe or csv")
    parser.add_argument("--path", required=True, type=Path, help="its folder or file")
    parser.add_argument("--battery", required=True, help="id of the battery")
    parser.add_argument("--field-map", help="field map of the columns (YAML file or the name of a shipped one)")
    parser.add_argument("--nominal-capacity-ah", type=float, help="where the source does not give it")
    parser.add_argument("--chemistry", help="NMC, NCA or LFP: shape of the open-circuit voltage to start from")
    parser.add_argument("--fit-discharges", default="every:4", help="every:4 (default), first:80 or 1,5,9")
    parser.add_argument("--out", type=Path, help="file for parameters and errors (JSON)")
    given = parser.parse_args(arguments)
    console = Console(stderr=True)
    with console.status(f"reading {given.path}") as status:
        telemetry = read_source(
            given.source,
            given.path,
            field_map=given.field_map,
            defaults={"nominal_capacity_ah": given.nominal_capacity_ah, "chemistry": given.chemistry},
        )
        measured = discharges_of(telemetry, given.battery)
        used = chosen_discharges(given.fit_discharges, [one.number for one in measured.discharges])

        def progress(step: str) -> None:
            console.print(f"fitting {step}")
            status.update(f"fitting {step}")

        cell = fit(measured, used, progress)
        errors = errors_of(cell, measured, used)
    for note in measured.notes:
        console.print(note)
    sys.stdout.write("discharge  used  capacity Ah  voltage RMSE mV  max mV  temperature RMSE degC\n")
    for one in errors:
        sys.stdout.write(
            f"{one.number:9d}  {'fit' if one.used_for_fit else '':4}  {one.capacity_ah:11.3f}"
            f"  {one.voltage_rmse_mv:15.1f}  {one.voltage_max_mv:6.0f}  {one.temperature_rmse_c:21.2f}\n"
        )
    figures = summary(errors)
    for name, value in figures.items():
        sys.stdout.write(f"{name} {value:.4g}\n")
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "cell": cell.model_dump(),
            "source": given.source,
            "fit_discharges": used,
            "summary": figures,
            "discharges": [asdict(one) for one in errors],
        }
        given.out.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(exit_code(main))
