"""Writes `validation/data/blast_lite.json`: what BLAST-Lite itself computes on the histories of `ageing_histories.py`.

    python -m validation.blast_lite

BLAST-Lite needs numpy below 2, so it runs in an environment of its own (`requirements-blast-lite.lock`).
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TypedDict

from validation.isolated import python_of

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements-blast-lite.lock"
FILE = Path(__file__).parent / "data" / "blast_lite.json"


class Reference(TypedDict):
    """Capacity and resistance, relative to new, when new and after each year; resistance is None where it has no model.

    They come from one `update_battery_state` a day; `capacity_own_parts` is the last capacity by
    `simulate_battery_life`.
    """

    model: str
    history: str
    capacity: list[float]
    resistance: list[float] | None
    capacity_own_parts: float


def read(file: Path = FILE) -> tuple[str, list[Reference]]:
    """Version of BLAST-Lite and its results, from the committed file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return content["blast_lite"], content["results"]


def main() -> None:
    """Run BLAST-Lite and write the file, one result a line."""
    command: list[str | Path] = [python_of("blast-lite", LOCK), "-m", "validation.blast_lite_run"]
    content = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)
    results = ",\n    ".join(json.dumps(one) for one in content.pop("results"))
    head = json.dumps(content, indent=2).removesuffix("\n}")
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(f'{head},\n  "results": [\n    {results}\n  ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
