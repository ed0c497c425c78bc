"""Command of `make validate-physics`: compares the physics with its references and writes `reports/physics.json`.

    python -m validation                # every part
    python -m validation cell ageing    # these parts only; the other results are kept

Ends with 1 if a result exceeds its bound.  The report is written after each part.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from validation import ageing, report
from validation.report import Result

REPORTS = Path("reports")
#: Parts by name; the names of their results start with it.  A part gets the folder for its plots.
PARTS: dict[str, Callable[[Path], Sequence[Result]]] = {"ageing": ageing.validate}


def main(
    arguments: Sequence[str] | None = None,
    reports: Path = REPORTS,
    parts: Mapping[str, Callable[[Path], Sequence[Result]]] = PARTS,
) -> int:
    """Run the named parts, or all; 1 if a result exceeds its bound."""
    parser = argparse.ArgumentParser(
        prog="python -m validation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(parts)}")
    named = parser.parse_args(arguments).parts
    if unknown := [name for name in named if name not in parts]:
        parser.error(f"There is no part {unknown[0]}: name some of {', '.join(parts)}.")
    file, progress = reports / "physics.json", Console(stderr=True)
    results, chosen = report.read(file), [name for name in parts if not named or name in named]
    for number, name in enumerate(chosen, 1):
        began, step = time.monotonic(), f"{name} ({number} of {len(chosen)})"
        with progress.status(step):
            measured = parts[name](reports / "physics")
        progress.print(f"{step}: {len(measured)} results in {time.monotonic() - began:.0f} s")
        results = report.merged(results, name, measured, list(parts))
        report.write(file, results)
    sys.stdout.write(report.table(results))
    return 1 if report.exceeded(results) else 0


if __name__ == "__main__":
    sys.exit(main())
