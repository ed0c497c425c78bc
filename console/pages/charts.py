"""Options of the charts.  Colours are given by name and put in by the browser, which knows the theme."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

from nicegui import ui

#: [milliseconds since 1970, value]; None breaks a line.
Point = list[float | None]
Colours = Mapping[str, Mapping[str, str]]

ACTUAL, PREDICTED, LOWER, WIDTH = "actual", "predicted", "lower", "width"
LOWEST, HIGHEST, SPREAD = "lowest", "highest", "spread"
#: Colours of one quantity, and of the lines of a target.
LINE_COLOURS: Colours = {
    ACTUAL: {"line": "ink"},
    LOWEST: {"line": "muted"},
    HIGHEST: {"line": "muted"},
    SPREAD: {"area": "spread"},
}
TARGET_COLOURS: Colours = {
    **LINE_COLOURS,
    PREDICTED: {"line": "predicted"},
    WIDTH: {"area": "band"},
}
_MAP = {
    "NORMAL": ("circle", "#009e73"),
    "WARNING": ("triangle", "#e69f00"),
    "CRITICAL": ("rect", "#d55e00"),
    "SILENT": ("emptyCircle", "#8a94a0"),
}
_UNSEEN: dict[str, Any] = {"lineStyle": {"opacity": 0}, "silent": True}
#: A short peak is too narrow for a band.
_THIN: dict[str, Any] = {"lineStyle": {"width": 1, "opacity": 0.6}, "silent": True}
_UNTOLD: dict[str, Any] = {"tooltip": {"show": False}}
#: Otherwise a width is put on top of zero where the lower end lies below it.
_STACKED = {"stackStrategy": "all"}
_TEXT = {"fontFamily": "system-ui, sans-serif"}


@dataclass(frozen=True)
class Ends:
    """The lowest and the highest reading behind each mean of a chart; empty where it shows readings."""

    lowest: list[Point] = field(default_factory=list)
    highest: list[Point] = field(default_factory=list)

    def series(self) -> list[dict[str, Any]]:
        """A band between them, and their values for the pointer."""
        spread: list[Point] = [
            [low[0], None if low[1] is None or high[1] is None else high[1] - low[1]]
            for low, high in zip(self.lowest, self.highest, strict=True)
        ]
        return [
            _line(LOWEST, with_gaps(self.lowest), stack="ends", **_STACKED, **_THIN),
            _line(SPREAD, with_gaps(spread), stack="ends", areaStyle={}, **_STACKED, **_UNSEEN, **_UNTOLD),
            _line(HIGHEST, with_gaps(self.highest), **_THIN),
        ]


@dataclass(frozen=True)
class Lines:
    """Points of one target's chart."""

    actual: list[Point] = field(default_factory=list)
    predicted: list[Point] = field(default_factory=list)
    lower: list[Point] = field(default_factory=list)
    width: list[Point] = field(default_factory=list)
    ends: Ends = field(default_factory=Ends)

    @property
    def has_interval(self) -> bool:
        """Whether any prediction came with one."""
        return any(point[1] is not None for point in self.width)

    def by_id(self) -> dict[str, list[Point]]:
        """By the id of their series."""
        return {ACTUAL: self.actual, PREDICTED: self.predicted, LOWER: self.lower, WIDTH: self.width}


#: A pause this many times longer than usual is a gap.
_GAP = 20.0


def with_gaps(points: list[Point]) -> list[Point]:
    """`points`, in time order, and a break wherever the battery was silent for much longer than usual."""
    times = [point[0] for point in points if point[0] is not None]
    if len(times) < 3 or len(times) != len(points):
        return points
    pauses = [after - before for before, after in pairwise(times)]
    longest = _GAP * median(pauses)
    if not longest:
        return points
    broken: list[Point] = [points[0]]
    for before, pause, point in zip(times, pauses, points[1:], strict=False):
        if pause > longest:
            broken.append([before + pause / 2, None])
        broken.append(point)
    return broken


def milliseconds(time: datetime) -> float:
    """A moment as charts count it."""
    return time.timestamp() * 1e3


def paint(chart: ui.echart, colours: Colours) -> None:
    """Give `chart` the colours of the theme, by name, now and whenever it changes."""
    ui.run_javascript(f"twin.paint({chart.id}, {json.dumps({key: dict(names) for key, names in colours.items()})})")


def append(chart: ui.echart, points: Mapping[str, Sequence[Point]], window_ms: float) -> None:
    """Put new points behind the lines of `chart`."""
    ui.run_javascript(f"twin.append({chart.id}, {json.dumps(points)}, {window_ms:.0f})")


def target_chart(lines: Lines, decimals: int) -> dict[str, Any]:
    """Actual and predicted with the band of the interval, and what was lowest and highest where means are shown."""
    return {
        **_frame(decimals),
        "series": [
            _line(LOWER, with_gaps(lines.lower), stack="band", **_STACKED, **_UNSEEN, **_UNTOLD),
            _line(WIDTH, with_gaps(lines.width), stack="band", areaStyle={}, **_STACKED, **_UNSEEN, **_UNTOLD),
            *lines.ends.series(),
            _line(PREDICTED, with_gaps(lines.predicted), lineStyle={"width": 2}),
            _line(ACTUAL, with_gaps(lines.actual), lineStyle={"width": 1.5}),
        ],
    }


def line_chart(points: list[Point], ends: Ends, decimals: int) -> dict[str, Any]:
    """One quantity over time."""
    return {**_frame(decimals), "series": [*ends.series(), _line(ACTUAL, with_gaps(points), lineStyle={"width": 1.5})]}


def cycles_chart(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Throughput of each session over the battery's age, and its resistance where that was seen."""
    options = _frame(2)
    options["xAxis"] = {**options["xAxis"], "type": "value", "scale": True, "name": "cycles", "nameLocation": "end"}
    options["yAxis"] = [
        {**options["yAxis"], "name": "Ah", "scale": False},  # bars are measured from zero
        {**options["yAxis"], "name": "mΩ", "splitLine": {"show": False}},
    ]
    moved = [[row["cycle_index"], row["throughput_ah"]] for row in reversed(rows)]
    resistance = [
        [row["cycle_index"], None if row["resistance_ohm"] is None else row["resistance_ohm"] * 1e3]
        for row in reversed(rows)
    ]
    options["grid"] = {**options["grid"], "right": 46, "top": 26}
    options["series"] = [
        {**_line("throughput", moved), "type": "bar", "barMaxWidth": 6},
        {
            **_line("resistance", resistance, lineStyle={"width": 2}),
            "yAxisIndex": 1,
            "symbol": "circle",
            "symbolSize": 4,
        },
    ]
    return options


def health_map() -> dict[str, Any]:
    """Each battery by temperature and state of health; without points."""
    axis: dict[str, Any] = {"type": "value", "scale": True, "nameLocation": "middle", "axisLabel": {"fontSize": 11}}
    return {
        "textStyle": _TEXT,
        "animation": False,
        "grid": {"left": 46, "right": 14, "top": 30, "bottom": 40},
        "legend": {
            "top": 0,
            "left": 0,
            "itemWidth": 10,
            "itemHeight": 10,
            "textStyle": {"color": "#8a94a0", "fontSize": 11},
        },
        "tooltip": {"trigger": "item", ":formatter": "p => `${p.value[2]}: ${p.value[1]} % at ${p.value[0]} °C`"},
        "xAxis": {**axis, "name": "temperature, °C", "nameGap": 24},
        "yAxis": {**axis, "name": "state of health, %", "nameGap": 34},
        **health_points(()),
    }


def health_points(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The points of `health_map`: battery, status, temperature, soh; those that are not known are left out."""
    points: dict[str, list[list[Any]]] = {status: [] for status in _MAP}
    for line in lines:
        if line["temperature"] is not None and line["soh"] is not None:
            points[line["status"]].append([line["temperature"], line["soh"], line["battery_id"]])
    return {
        "series": [
            {
                "id": status,
                "name": status,
                "type": "scatter",
                "symbol": symbol,
                "symbolSize": 9,
                "itemStyle": {"color": colour, "opacity": 0.85},
                "data": [{"value": point} for point in points[status]],
            }
            for status, (symbol, colour) in _MAP.items()
        ]
    }


def _line(name: str, points: Sequence[Sequence[float | None]], **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "type": "line",
        "showSymbol": False,
        "sampling": "lttb",
        "data": points,
        "connectNulls": False,
        **more,
    }


def _frame(decimals: int) -> dict[str, Any]:
    return {
        "textStyle": _TEXT,
        "animation": False,
        "grid": {"left": 44, "right": 12, "top": 10, "bottom": 22},
        "tooltip": {
            "trigger": "axis",
            ":valueFormatter": f"v => v == null ? '–' : (+v).toFixed({decimals})",
            "confine": True,
        },
        "xAxis": {
            "type": "time",
            "axisLabel": {"fontSize": 11, "hideOverlap": True},
            "splitLine": {"show": False},
            "axisTick": {"show": False},
        },
        "yAxis": {"type": "value", "scale": True, "axisLabel": {"fontSize": 11}, "splitNumber": 3},
    }
