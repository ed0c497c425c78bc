"""The cells of a pack as far as they are known: what a pack sends are extremes, the rest is drawn between them."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Quantity = Literal["temperature", "voltage"]

#: More groups are not drawn: nobody could tell them apart.
MOST_DRAWN = 400
_EXTREMES: Mapping[Quantity, tuple[str, str]] = {
    "temperature": ("hottest probe", "coldest probe"),
    "voltage": ("highest cell", "lowest cell"),
}
#: Of a box whose value is not known.
UNKNOWN = ("#9aa3ad", "not known")
_CELLS_A_ROW = 12
_NO_COUNT = "How many cells this pack has in series is not known."
#: The scale spans at least so much, so that noise does not look like trouble.
_SHORTEST_SPAN: Mapping[Quantity, float] = {"temperature": 4.0, "voltage": 0.04}
_UNITS: Mapping[Quantity, tuple[str, int]] = {"temperature": ("°C", 1), "voltage": ("V", 3)}

#: cividis (Nunez et al. 2018, doi:10.1371/journal.pone.0199239) at ten places: even for colour-blind eyes.
CIVIDIS = (
    "#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838",
)  # fmt: skip


@dataclass(frozen=True)
class Cells:
    """One value for each box that is drawn: a series group of cells, or an extreme of a pack of unknown size.

    Attributes:
        names: of the boxes.
        values: in `unit`, in the same order; empty where nothing is known.
        lowest, highest: ends of the colour scale.
        note: what of it was sent and what was not.
    """

    quantity: Quantity
    names: Sequence[str]
    values: Sequence[float]
    lowest: float
    highest: float
    note: str

    @property
    def unit(self) -> str:
        """Of the values."""
        return _UNITS[self.quantity][0]

    def label(self, cell: int) -> str:
        """One cell for people."""
        unit, decimals = _UNITS[self.quantity]
        return f"{self.names[cell]}: {self.values[cell]:.{decimals}f} {unit}"

    def at(self, share: float) -> str:
        """The value at `share` of the scale, for people."""
        unit, decimals = _UNITS[self.quantity]
        return f"{self.lowest + share * (self.highest - self.lowest):.{decimals}f} {unit}"

    def colour(self, cell: int) -> str:
        """Colour of one cell, #rrggbb."""
        return colour_of((self.values[cell] - self.lowest) / (self.highest - self.lowest))


def count_of(row: Mapping[str, Any]) -> int | None:
    """How many series groups of cells the pack has; None where that is not known."""
    count = row.get("cells_in_series")
    return int(count) if count and count >= 1 else None


def drawn_of(row: Mapping[str, Any]) -> int:
    """How many boxes to draw: one a group, or two, for the extremes, where their number is not known."""
    return min(count_of(row) or len(_EXTREMES["temperature"]), MOST_DRAWN)


def places(count: int) -> list[tuple[float, float]]:
    """Centre of each group in a flat pack around the origin, in cell widths: rows of twelve, as modules lie."""
    rows = math.ceil(count / _CELLS_A_ROW)
    across = min(count, _CELLS_A_ROW)
    return [(index % _CELLS_A_ROW - (across - 1) / 2, index // _CELLS_A_ROW - (rows - 1) / 2) for index in range(count)]


def cells_of(row: Mapping[str, Any], quantity: Quantity) -> Cells:
    """The cells of a battery, from a snapshot of it."""
    return _temperatures(row) if quantity == "temperature" else _voltages(row)


def colour_of(share: float) -> str:
    """The colour at `share` (0 to 1, clipped) of the scale."""
    place = min(max(share, 0.0), 1.0) * (len(CIVIDIS) - 1)
    lower = min(int(place), len(CIVIDIS) - 2)
    ends = zip(_rgb(CIVIDIS[lower]), _rgb(CIVIDIS[lower + 1]), strict=True)
    mixed = (round(a + (place - lower) * (b - a)) for a, b in ends)
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _temperatures(row: Mapping[str, Any]) -> Cells:
    hottest, coldest = row.get("temperature"), row.get("temperature_min")
    if hottest is None:
        return _cells("temperature", [], "The pack has sent no temperature.")
    has_coldest = coldest is not None and coldest <= hottest
    if count_of(row) is None:
        sent = "Sent: hottest and coldest probe." if has_coldest else "The pack sends its hottest probe only."
        values = [hottest, coldest] if has_coldest else [hottest]
        return _cells("temperature", values, f"{_NO_COUNT} {sent}", _EXTREMES["temperature"])
    count = drawn_of(row)
    if not has_coldest:
        note = f"The pack sends its hottest probe only: every cell shows it.{_left_out(row)}"
        return _cells("temperature", [hottest] * count, note)
    # Warm in the middle, where heat leaves last; where in the pack the probes sit is not sent.
    distance = [math.hypot(x, 1.4 * y) for x, y in places(count)]
    nearest, farthest = min(distance), max(distance)
    span = farthest - nearest or 1.0
    values = [hottest - (hottest - coldest) * (d - nearest) / span for d in distance]
    note = f"Sent: hottest and coldest probe. Which cells they are, and all between, is interpolated.{_left_out(row)}"
    return _cells("temperature", values, note)


def _voltages(row: Mapping[str, Any]) -> Cells:
    lowest, highest = row.get("cell_voltage_min"), row.get("cell_voltage_max")
    in_series, count = count_of(row), drawn_of(row)
    if lowest is None or highest is None:
        if row.get("voltage") is None:
            return _cells("voltage", [], "The pack has sent no voltage.")
        if in_series is None:
            return _cells("voltage", [], f"{_NO_COUNT} It sends no cell voltages, so none is known.")
        note = f"The pack sends no cell voltages: its own, shared out evenly.{_left_out(row)}"
        return _cells("voltage", [row["voltage"] / in_series] * count, note)
    if in_series is None:
        note = f"{_NO_COUNT} Sent: lowest and highest cell."
        return _cells("voltage", [highest, lowest], note, _EXTREMES["voltage"])
    median = row.get("cell_voltage_median")
    middle = (lowest + highest) / 2 if median is None else min(max(median, lowest), highest)
    values = [_between(lowest, middle, highest, index / max(count - 1, 1)) for index in range(count)]
    # Neighbours differ as cells do, but a battery looks the same each time.
    seed = hashlib.sha256(str(row["battery_id"]).encode()).digest()
    random.Random(seed).shuffle(values)  # noqa: S311
    sent = "lowest and highest cell" if median is None else "lowest, median and highest cell"
    note = f"Sent: {sent}. Which cells they are, and all between, is interpolated.{_left_out(row)}"
    return _cells("voltage", values, note)


def _between(lowest: float, middle: float, highest: float, share: float) -> float:
    if share <= 0.5:
        return float(lowest + (middle - lowest) * 2 * share)
    return float(middle + (highest - middle) * (2 * share - 1))


def _left_out(row: Mapping[str, Any]) -> str:
    count, drawn = count_of(row), drawn_of(row)
    return "" if count is None or count == drawn else f" Drawn are {drawn} of its {count} groups."


def _cells(quantity: Quantity, values: Sequence[float], note: str, names: Sequence[str] = ()) -> Cells:
    lowest, highest = (min(values), max(values)) if values else (0.0, 1.0)
    missing = max(_SHORTEST_SPAN[quantity] - (highest - lowest), 0.0) / 2
    names = names or [f"group {index + 1}" for index in range(len(values))]
    return Cells(quantity, names, values, lowest - missing, highest + missing, note)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
