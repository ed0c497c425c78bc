"""`make bench`: writes `reports/bench.json`, and as a table for the README `reports/bench.md`.

    python -m benchmarks                    # every part but those that take gigabytes (console)
    python -m benchmarks stream growth      # these parts only; the other entries stay as they are

Each part writes what it has measured when it is done, so that one that is interrupted costs nothing but itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.console import console
from benchmarks.growth import growth
from benchmarks.http_predict import http_predict
from benchmarks.inference import inference_one_row, inference_rows
from benchmarks.ingest import ingest
from benchmarks.report import Figure, markdown, replaced
from benchmarks.stream import stream
from benchmarks.training import training
from training.params import FEATURES, MODELS, REPORTS, read_json, write_json

#: By name, with which the names of its figures begin.
PARTS: dict[str, Callable[[], Sequence[Figure]]] = {
    "inference": lambda: [inference_one_row(MODELS), *inference_rows(MODELS)],
    "http_predict": lambda: http_predict(MODELS),
    "ingest": ingest,
    "stream": stream,
    "growth": lambda: growth(MODELS),
    "training": lambda: training(FEATURES),
    "console": console,
}
#: Loads ten million rows first.
OPTIONAL = ("console",)


def main(arguments: Sequence[str] | None = None, reports: Path = REPORTS) -> int:
    """Measure the parts that are named, or all but the optional ones, and print every figure that there is."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}")
    named = parser.parse_args(arguments).parts
    if unknown := [name for name in named if name not in PARTS]:
        parser.error(f"There is no part {unknown[0]}: name some of {', '.join(PARTS)}.")
    chosen = [name for name in PARTS if (name in named if named else name not in OPTIONAL)]
    file, progress = reports / "bench.json", Console(stderr=True)
    figures: list[Figure] = read_json(file) if file.exists() else []
    for number, name in enumerate(chosen, 1):
        began, place = time.monotonic(), f"{name} ({number} of {len(chosen)})"
        with progress.status(place):
            measured = PARTS[name]()
        progress.print(f"{place}: {len(measured)} figures in {time.monotonic() - began:.0f} s")
        figures = replaced(figures, name, measured, list(PARTS))
        write_json(file, figures)
        (reports / "bench.md").write_text(markdown(figures), encoding="utf-8")
    sys.stdout.write(markdown(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
