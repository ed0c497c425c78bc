"""The cells of a pack as far as they are known: what a pack sends are extremes, the rest is drawn between them."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Quantity = Literal["temperature", "voltage"]

#: Where a pack does not say how many cells it has in series.
DEFAULT_CELLS = 96
MOST_CELLS = 400
_CELLS_A_ROW = 12
#: The scale spans at least so much, so that noise does not look like trouble.
_SHORTEST_SPAN: Mapping[Quantity, float] = {"temperature": 4.0, "voltage": 0.04}
_UNITS: Mapping[Quantity, tuple[str, int]] = {"temperature": ("°C", 1), "voltage": ("V", 3)}

#: cividis (Nunez et al. 2018, doi:10.1371/journal.pone.0199239) at ten places: even for colour-blind eyes.
CIVIDIS = (
    "#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838",
)  # fmt: skip


@dataclass(frozen=True)
class Cells:
    """One value for each series group of cells.

    Attributes:
        values: in `unit`, in order of the groups; empty where nothing is known.
        lowest, highest: ends of the colour scale.
        note: what of it was sent and what was not.
    """

    quantity: Quantity
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
        return f"group {cell + 1}: {self.values[cell]:.{decimals}f} {unit}"

    def at(self, share: float) -> str:
        """The value at `share` of the scale, for people."""
        unit, decimals = _UNITS[self.quantity]
        return f"{self.lowest + share * (self.highest - self.lowest):.{decimals}f} {unit}"

    def colour(self, cell: int) -> str:
        """Colour of one cell, #rrggbb."""
        return colour_of((self.values[cell] - self.lowest) / (self.highest - self.lowest))


def count_of(row: Mapping[str, Any]) -> int:
    """How many series groups to draw."""
    count = row.get("cells_in_series")
    return min(max(int(count), 1), MOST_CELLS) if count else DEFAULT_CELLS


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
    count = count_of(row)
    if hottest is None:
        return _cells("temperature", [], "The pack has sent no temperature.")
    if coldest is None or coldest > hottest:
        return _cells("temperature", [hottest] * count, "The pack sends its hottest probe only: every cell shows it.")
    # Warm in the middle, where heat leaves last; where in the pack the probes sit is not sent.
    distance = [math.hypot(x, 1.4 * y) for x, y in places(count)]
    nearest, farthest = min(distance), max(distance)
    span = farthest - nearest or 1.0
    values = [hottest - (hottest - coldest) * (d - nearest) / span for d in distance]
    note = "Sent: hottest and coldest probe. Which cells they are, and all between, is interpolated."
    return _cells("temperature", values, note)


def _voltages(row: Mapping[str, Any]) -> Cells:
    lowest, highest = row.get("cell_voltage_min"), row.get("cell_voltage_max")
    count = count_of(row)
    if lowest is None or highest is None:
        if row.get("voltage") is None:
            return _cells("voltage", [], "The pack has sent no voltage.")
        mean = row["voltage"] / count
        return _cells("voltage", [mean] * count, "The pack sends no cell voltages: its own, shared out evenly.")
    median = row.get("cell_voltage_median")
    middle = (lowest + highest) / 2 if median is None else min(max(median, lowest), highest)
    values = [_between(lowest, middle, highest, index / max(count - 1, 1)) for index in range(count)]
    # Neighbours differ as cells do, but a battery looks the same each time.
    seed = hashlib.sha256(str(row["battery_id"]).encode()).digest()
    random.Random(seed).shuffle(values)  # noqa: S311
    note = "Sent: lowest, median and highest cell. Which cells they are, and all between, is interpolated."
    return _cells("voltage", values, note)


def _between(lowest: float, middle: float, highest: float, share: float) -> float:
    if share <= 0.5:
        return float(lowest + (middle - lowest) * 2 * share)
    return float(middle + (highest - middle) * (2 * share - 1))


def _cells(quantity: Quantity, values: Sequence[float], note: str) -> Cells:
    lowest, highest = (min(values), max(values)) if values else (0.0, 1.0)
    missing = max(_SHORTEST_SPAN[quantity] - (highest - lowest), 0.0) / 2
    return Cells(quantity, values, lowest - missing, highest + missing, note)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
