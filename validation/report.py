"""Results of the validation: their form, merging into the report, and whether they keep their bounds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

DIGITS = 6


class Result(TypedDict):
    """One line of `reports/physics.json`.

    `value` is at most `bound`; without a bound (None) it is information.  `reference` says what it was compared with.
    `name` starts with the name of its part, for example `cell_`.
    """

    name: str
    value: float
    unit: str
    bound: float | None
    reference: str


def exceeded(results: Sequence[Result]) -> list[Result]:
    """Results beyond their bound, or without a finite value."""
    return [one for one in results if one["bound"] is not None and not one["value"] <= one["bound"]]


def merged(stored: Sequence[Result], part: str, measured: Sequence[Result], parts: Sequence[str]) -> list[Result]:
    """`stored` with the results of `part` replaced by `measured`, in the order of `parts`."""
    if wrong := [one["name"] for one in measured if not one["name"].startswith(f"{part}_")]:
        raise ValueError(f"The results of part {part} are named {part}_...: rename {wrong[0]}.")
    others = [one for one in stored if not one["name"].startswith(f"{part}_")]
    return [one for name in parts for one in (*others, *measured) if one["name"].startswith(f"{name}_")]


def read(file: Path) -> list[Result]:
    """The results in `file`; none if it does not exist."""
    stored: list[Result] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return stored


def write(file: Path, results: Sequence[Result]) -> None:
    """Write `results` as JSON, rounded to six digits; a value that is not finite becomes null."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rounded = [
        one | {"value": float(f"{one['value']:.{DIGITS}g}") if math.isfinite(one["value"]) else None} for one in results
    ]
    file.write_text(json.dumps(rounded, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def table(results: Sequence[Result]) -> str:
    """The results as lines of text, those beyond their bound marked."""
    bad = {one["name"] for one in exceeded(results)}
    lines = []
    for one in results:
        bound = "" if one["bound"] is None else f"  (at most {one['bound']:g})"
        mark = "  EXCEEDED" if one["name"] in bad else ""
        lines.append(f"{one['name']:50} {one['value']:12.4g} {one['unit']}{bound}{mark}")
    return "\n".join(lines) + "\n"
