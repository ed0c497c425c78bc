"""Command of `make bench`: runs benchmarks and writes `reports/bench.json` and, as a table, `reports/bench.md`.

    python -m benchmarks                    # every part except those that need gigabytes (console)
    python -m benchmarks stream growth      # these parts only; the other entries are kept

The reports are written after each part, so that an interruption loses one part only.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.cell import cell
from benchmarks.console import console
from benchmarks.fleet import fleet
from benchmarks.growth import growth
from benchmarks.http_predict import http_predict
from benchmarks.inference import inference_one_row, inference_rows
from benchmarks.ingest import ingest
from benchmarks.live_fleet import live_fleet
from benchmarks.report import Measurement, markdown, merge_measurements
from benchmarks.stream import stream
from benchmarks.training import training
from training.params import FEATURES, MODELS, REPORTS, read_json, write_json

#: Benchmarks by name; the names of its measurements start with it.
PARTS: dict[str, Callable[[], Sequence[Measurement]]] = {
    "inference": lambda: [inference_one_row(MODELS), *inference_rows(MODELS)],
    "http_predict": lambda: http_predict(MODELS),
    "ingest": ingest,
    "stream": stream,
    "growth": lambda: growth(MODELS),
    "training": lambda: training(FEATURES),
    "cell": cell,
    "fleet": fleet,
    "live_fleet": live_fleet,
    "console": console,
}
#: Not run by default: loads ten million rows first.
OPTIONAL = ("console",)


def main(arguments: Sequence[str] | None = None, reports: Path = REPORTS) -> int:
    """Run the named parts, or all except the optional ones, and print all measurements."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}")
    named = parser.parse_args(arguments).parts
    if unknown := [name for name in named if name not in PARTS]:
        parser.error(f"There is no part {unknown[0]}: name some of {', '.join(PARTS)}.")
    chosen = [name for name in PARTS if (name in named if named else name not in OPTIONAL)]
    file, progress = reports / "bench.json", Console(stderr=True)
    measurements: list[Measurement] = read_json(file) if file.exists() else []
    for number, name in enumerate(chosen, 1):
        began, step = time.monotonic(), f"{name} ({number} of {len(chosen)})"
        with progress.status(step):
            measured = PARTS[name]()
        progress.print(f"{step}: {len(measured)} measurements in {time.monotonic() - began:.0f} s")
        measurements = merge_measurements(measurements, name, measured, list(PARTS))
        write_json(file, measurements)
        (reports / "bench.md").write_text(markdown(measurements), encoding="utf-8")
    sys.stdout.write(markdown(measurements))
    return 0


if __name__ == "__main__":
    sys.exit(main())
