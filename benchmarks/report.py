"""The figures of `make bench` as they are kept and shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: name, value, unit, peer, peer_value, ratio; and a note where one belongs to it.
Figure = dict[str, Any]


def replaced(figures: Sequence[Figure], part: str, measured: Sequence[Figure], parts: Sequence[str]) -> list[Figure]:
    """`figures` with those of `part` measured anew, in the order of `parts`; a figure's name begins with its part's.

    Figures of a part that does not exist any more are left out.
    """
    kept = [figure for figure in figures if not figure["name"].startswith(part)]
    return [figure for name in parts for figure in (*kept, *measured) if figure["name"].startswith(name)]


def markdown(figures: Sequence[Figure]) -> str:
    """A table in Markdown, and below it the notes."""
    lines = ["| what | value | peer | its value | ratio |", "|---|---|---|---|---|"]
    for figure in figures:
        value, peer_value, ratio = (_shown(figure[key]) for key in ("value", "peer_value", "ratio"))
        unit = figure["unit"]
        lines.append(f"| `{figure['name']}` | {value} {unit} | {figure['peer']} | {peer_value} {unit} | {ratio}x |")
    notes = dict.fromkeys(figure["note"] for figure in figures if "note" in figure)
    return "\n".join([*lines, *(f"\n{note}" for note in notes)]) + "\n"


def _shown(value: float) -> str:
    """Three digits; none behind the point of a large number."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
