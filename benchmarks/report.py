"""Merging of new benchmark measurements into the report, and its Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Keys: name, value, unit, peer (the reference), peer_value, ratio; and optionally note.
Measurement = dict[str, Any]


def merge_measurements(
    measurements: Sequence[Measurement], part: str, measured: Sequence[Measurement], parts: Sequence[str]
) -> list[Measurement]:
    """Replace the measurements of `part` by `measured`, in the order of `parts`; names start with the part's name.

    Measurements of parts that no longer exist are dropped.
    """
    others = [one for one in measurements if not one["name"].startswith(part)]
    return [one for name in parts for one in (*others, *measured) if one["name"].startswith(name)]


def markdown(measurements: Sequence[Measurement]) -> str:
    """The measurements as a Markdown table, followed by their notes."""
    lines = ["| what | value | peer | its value | ratio |", "|---|---|---|---|---|"]
    for one in measurements:
        value, peer_value, ratio = (_shown(one[key]) for key in ("value", "peer_value", "ratio"))
        unit = one["unit"]
        lines.append(f"| `{one['name']}` | {value} {unit} | {one['peer']} | {peer_value} {unit} | {ratio}x |")
    notes = dict.fromkeys(one["note"] for one in measurements if "note" in one)
    return "\n".join([*lines, *(f"\n{note}" for note in notes)]) + "\n"


def _shown(value: float) -> str:
    """Three significant digits; integers above 1,000."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
