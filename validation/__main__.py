"""Command of `make validate-physics`: compares the physics with its references and writes `reports/physics.json`.

    python -m validation                # every part
    python -m validation cell ageing    # these parts only; the other results are kept
    python -m validation --nasa-pcoe FOLDER calibration    # with the data of the NASA cells
    python -m validation --ev-faults FOLDER real_cars      # with the data of two cars in service

Ends with 1 if a result exceeds its bound.  The report is written after each part.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from validation import ageing, calibration, real_cars, report
from validation.cell import cell
from validation.coarse_steps import coarse
from validation.conservation import conservation
from validation.report import Result

REPORTS = Path("reports")
#: The parts that need data of their own, with the option that names its folder.
CALIBRATION, REAL_CARS = "calibration", "real_cars"
OPTIONS = {CALIBRATION: "--nasa-pcoe", REAL_CARS: "--ev-faults"}
#: Parts by name; the names of their results start with it.  A part gets the folder for its plots.
PARTS: dict[str, Callable[[Path], Sequence[Result]]] = {
    "conservation": conservation,
    "cell": cell,
    "ageing": ageing.validate,
    "coarse": coarse,
}


def main(
    arguments: Sequence[str] | None = None,
    reports: Path = REPORTS,
    parts: Mapping[str, Callable[[Path], Sequence[Result]]] = PARTS,
) -> int:
    """Run the named parts, or all; 1 if a result exceeds its bound."""
    parser = argparse.ArgumentParser(
        prog="python -m validation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join([*parts, *OPTIONS])}")
    parser.add_argument("--nasa-pcoe", type=Path, metavar="FOLDER", help="data of the NASA cells, for calibration")
    parser.add_argument("--ev-faults", type=Path, metavar="FOLDER", help="data of two cars in service, for real_cars")
    given = parser.parse_args(arguments)
    named, all_parts = given.parts, [*parts, *OPTIONS]
    if given.nasa_pcoe:
        parts = {**parts, CALIBRATION: lambda _: calibration.measure(given.nasa_pcoe)}
    if given.ev_faults:
        parts = {**parts, REAL_CARS: lambda plots: real_cars.measure(given.ev_faults, plots)}
    for name in OPTIONS.keys() - parts.keys():
        if name in named:
            parser.error(f"The part {name} needs data of its own: add {OPTIONS[name]} FOLDER.")
        sys.stderr.write(f"{name} is left out: it needs {OPTIONS[name]} FOLDER; stored results are kept\n")
    if unknown := [name for name in named if name not in parts]:
        parser.error(f"There is no part {unknown[0]}: name some of {', '.join(parts)}.")
    file, progress = reports / "physics.json", Console(stderr=True)
    results, chosen = report.read(file), [name for name in parts if not named or name in named]
    for number, name in enumerate(chosen, 1):
        began, step = time.monotonic(), f"{name} ({number} of {len(chosen)})"
        with progress.status(step):
            measured = parts[name](reports / "physics")
        progress.print(f"{step}: {len(measured)} results in {time.monotonic() - began:.0f} s")
        results = report.merged(results, name, measured, all_parts)
        report.write(file, results)
    sys.stdout.write(report.table(results))
    return 1 if report.exceeded(results) else 0


if __name__ == "__main__":
    sys.exit(main())
