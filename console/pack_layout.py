"""Positions, values and colours of the boxes in the 3D pack view, interpolated between reported extremes."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Quantity = Literal["temperature", "voltage"]

#: Maximum number of boxes that are drawn; more could not be distinguished.
MAX_BOXES = 400
_EXTREMES: Mapping[Quantity, tuple[str, str]] = {
    "temperature": ("hottest probe", "coldest probe"),
    "voltage": ("highest cell", "lowest cell"),
}
#: Colour and label of a box without a value.
UNKNOWN = ("#9aa3ad", "not known")
_BOXES_PER_ROW = 12
_NO_COUNT = "The number of cells in series is unknown."
#: Minimum span of the colour scale, so that noise is not amplified.
_MIN_SPAN: Mapping[Quantity, float] = {"temperature": 4.0, "voltage": 0.04}
_UNITS: Mapping[Quantity, tuple[str, int]] = {"temperature": ("°C", 1), "voltage": ("V", 3)}

#: viridis (Smith and van der Walt 2015) at ten positions: suits colour blindness, and no part of it is grey, which
#: stands for boxes without a value.
VIRIDIS = (
    "#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725",
)  # fmt: skip


@dataclass(frozen=True)
class PackCells:
    """One value per box: a series group of cells, or an extreme if the number of cells is unknown.

    Attributes:
        names: labels of the boxes.
        values: values in `unit`, in the same order; empty if the pack reports none.
        lowest, highest: ends of the colour scale.
        note: which values were reported and which are interpolated.
    """

    quantity: Quantity
    names: Sequence[str]
    values: Sequence[float]
    lowest: float
    highest: float
    note: str

    @property
    def unit(self) -> str:
        """Unit of the values."""
        return _UNITS[self.quantity][0]

    def label(self, cell: int) -> str:
        """Name and formatted value of one box."""
        unit, decimals = _UNITS[self.quantity]
        return f"{self.names[cell]}: {self.values[cell]:.{decimals}f} {unit}"

    def at(self, share: float) -> str:
        """Formatted value at the fraction `share` of the colour scale."""
        unit, decimals = _UNITS[self.quantity]
        return f"{self.lowest + share * (self.highest - self.lowest):.{decimals}f} {unit}"

    def colour(self, cell: int) -> str:
        """Colour of one box, #rrggbb."""
        return scale_colour((self.values[cell] - self.lowest) / (self.highest - self.lowest))


def series_count(row: Mapping[str, Any]) -> int | None:
    """Number of series groups of cells of the pack; None if unknown."""
    count = row.get("cells_in_series")
    return int(count) if count and count >= 1 else None


def box_count(row: Mapping[str, Any]) -> int:
    """Number of boxes: one per series group, or two (the extremes) if the number of groups is unknown."""
    return min(series_count(row) or len(_EXTREMES["temperature"]), MAX_BOXES)


def box_positions(count: int) -> list[tuple[float, float]]:
    """Centre of each box in a flat pack around the origin, in box widths: rows of twelve, as modules are mounted."""
    rows = math.ceil(count / _BOXES_PER_ROW)
    across = min(count, _BOXES_PER_ROW)
    return [
        (index % _BOXES_PER_ROW - (across - 1) / 2, index // _BOXES_PER_ROW - (rows - 1) / 2) for index in range(count)
    ]


def pack_cells(row: Mapping[str, Any], quantity: Quantity) -> PackCells:
    """Values of the boxes, from the newest row of a battery."""
    return _temperatures(row) if quantity == "temperature" else _voltages(row)


def scale_colour(share: float) -> str:
    """Colour at the fraction `share` (clipped to 0 to 1) of the scale."""
    position = min(max(share, 0.0), 1.0) * (len(VIRIDIS) - 1)
    lower = min(int(position), len(VIRIDIS) - 2)
    ends = zip(_rgb(VIRIDIS[lower]), _rgb(VIRIDIS[lower + 1]), strict=True)
    mixed = (round(a + (position - lower) * (b - a)) for a, b in ends)
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _temperatures(row: Mapping[str, Any]) -> PackCells:
    hottest, coldest = row.get("temperature"), row.get("temperature_min")
    if hottest is None:
        return _cells("temperature", [], "The pack reports no temperature.")
    has_coldest = coldest is not None and coldest <= hottest
    if series_count(row) is None:
        sent = "Reported: hottest and coldest probe." if has_coldest else "Only the hottest probe is reported."
        values = [hottest, coldest] if has_coldest else [hottest]
        return _cells("temperature", values, f"{_NO_COUNT} {sent}", _EXTREMES["temperature"])
    count = box_count(row)
    if not has_coldest:
        note = f"Only the hottest probe is reported: all cells show its value.{_omitted(row)}"
        return _cells("temperature", [hottest] * count, note)
    # Hottest in the middle, where cooling is weakest; the positions of the probes are not reported.
    distance = [math.hypot(x, 1.4 * y) for x, y in box_positions(count)]
    nearest, farthest = min(distance), max(distance)
    span = farthest - nearest or 1.0
    values = [hottest - (hottest - coldest) * (d - nearest) / span for d in distance]
    note = f"Reported: hottest and coldest probe. Their positions and all other values are interpolated.{_omitted(row)}"
    return _cells("temperature", values, note)


def _voltages(row: Mapping[str, Any]) -> PackCells:
    lowest, highest = row.get("cell_voltage_min"), row.get("cell_voltage_max")
    in_series, count = series_count(row), box_count(row)
    if lowest is None or highest is None:
        if row.get("voltage") is None:
            return _cells("voltage", [], "The pack reports no voltage.")
        if in_series is None:
            return _cells("voltage", [], f"{_NO_COUNT} No cell voltages are reported.")
        note = f"No cell voltages are reported: the pack voltage is divided evenly.{_omitted(row)}"
        return _cells("voltage", [row["voltage"] / in_series] * count, note)
    if in_series is None:
        note = f"{_NO_COUNT} Reported: lowest and highest cell."
        return _cells("voltage", [highest, lowest], note, _EXTREMES["voltage"])
    median = row.get("cell_voltage_median")
    middle = (lowest + highest) / 2 if median is None else min(max(median, lowest), highest)
    values = [_between(lowest, middle, highest, index / max(count - 1, 1)) for index in range(count)]
    # Shuffled, so that neighbours differ, with a seed per battery, so that the picture is stable.
    seed = hashlib.sha256(str(row["battery_id"]).encode()).digest()
    random.Random(seed).shuffle(values)  # noqa: S311
    reported = "lowest and highest cell" if median is None else "lowest, median and highest cell"
    note = f"Reported: {reported}. Their positions and all other values are interpolated.{_omitted(row)}"
    return _cells("voltage", values, note)


def _between(lowest: float, middle: float, highest: float, share: float) -> float:
    if share <= 0.5:
        return float(lowest + (middle - lowest) * 2 * share)
    return float(middle + (highest - middle) * (2 * share - 1))


def _omitted(row: Mapping[str, Any]) -> str:
    count, drawn = series_count(row), box_count(row)
    return "" if count is None or count == drawn else f" {drawn} of {count} groups are drawn."


def _cells(quantity: Quantity, values: Sequence[float], note: str, names: Sequence[str] = ()) -> PackCells:
    lowest, highest = (min(values), max(values)) if values else (0.0, 1.0)
    missing = max(_MIN_SPAN[quantity] - (highest - lowest), 0.0) / 2
    names = names or [f"group {index + 1}" for index in range(len(values))]
    return PackCells(quantity, names, values, lowest - missing, highest + missing, note)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
