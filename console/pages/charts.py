"""Builders of the ECharts options of all charts; colours are theme variables that the browser resolves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

from nicegui import ui

#: [milliseconds since 1970, value]; None breaks the line.
Point = list[float | None]
Colours = Mapping[str, Mapping[str, str]]

ACTUAL, PREDICTED, LOWER, WIDTH = "actual", "predicted", "lower", "width"
LOWEST, HIGHEST, SPREAD = "lowest", "highest", "spread"
#: Theme colours of the chart of one quantity, and of the chart of a target.
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
    "STALE": ("emptyCircle", "#8a94a0"),
}
_INVISIBLE: dict[str, Any] = {"lineStyle": {"opacity": 0}, "silent": True}
#: Lines along the band, because a short peak is too narrow to be visible as an area.
_THIN: dict[str, Any] = {"lineStyle": {"width": 1, "opacity": 0.6}, "silent": True}
_NO_TOOLTIP: dict[str, Any] = {"tooltip": {"show": False}}
#: By default ECharts does not stack a positive width on a negative lower bound.
_STACKED = {"stackStrategy": "all"}
_TEXT = {"fontFamily": "system-ui, sans-serif"}


@dataclass(frozen=True)
class ReadingRange:
    """Minimum and maximum of the readings behind each mean of a chart; empty if the chart shows readings."""

    lowest: list[Point] = field(default_factory=list)
    highest: list[Point] = field(default_factory=list)

    def series(self) -> list[dict[str, Any]]:
        """Series for the band between them, with their values in the tooltip."""
        spread: list[Point] = [
            [low[0], None if low[1] is None or high[1] is None else high[1] - low[1]]
            for low, high in zip(self.lowest, self.highest, strict=True)
        ]
        return [
            _line(LOWEST, with_gaps(self.lowest), stack="range", **_STACKED, **_THIN),
            _line(SPREAD, with_gaps(spread), stack="range", areaStyle={}, **_STACKED, **_INVISIBLE, **_NO_TOOLTIP),
            _line(HIGHEST, with_gaps(self.highest), **_THIN),
        ]


@dataclass(frozen=True)
class TargetLines:
    """Points of the chart of one target."""

    actual: list[Point] = field(default_factory=list)
    predicted: list[Point] = field(default_factory=list)
    lower: list[Point] = field(default_factory=list)
    width: list[Point] = field(default_factory=list)
    reading_range: ReadingRange = field(default_factory=ReadingRange)

    @property
    def has_interval(self) -> bool:
        """Whether any prediction has an interval."""
        return any(point[1] is not None for point in self.width)

    def by_id(self) -> dict[str, list[Point]]:
        """Points by the id of their series."""
        return {ACTUAL: self.actual, PREDICTED: self.predicted, LOWER: self.lower, WIDTH: self.width}


#: A pause this many times longer than the median pause is a gap.
_GAP_FACTOR = 20.0


def with_gaps(points: list[Point]) -> list[Point]:
    """`points`, in time order, with a break wherever the battery reported nothing for much longer than usual."""
    times = [point[0] for point in points if point[0] is not None]
    if len(times) < 3 or len(times) != len(points):
        return points
    pauses = [after - before for before, after in pairwise(times)]
    longest = _GAP_FACTOR * median(pauses)
    if not longest:
        return points
    broken: list[Point] = [points[0]]
    for before, pause, point in zip(times, pauses, points[1:], strict=False):
        if pause > longest:
            broken.append([before + pause / 2, None])
        broken.append(point)
    return broken


def milliseconds(time: datetime) -> float:
    """Unix time in milliseconds, as ECharts uses it."""
    return time.timestamp() * 1e3


def paint(chart: ui.echart, colours: Colours) -> None:
    """Colour the series of `chart` by theme variables, now and after each change of the theme."""
    ui.run_javascript(f"twin.paint({chart.id}, {json.dumps({key: dict(names) for key, names in colours.items()})})")


def append(chart: ui.echart, points: Mapping[str, Sequence[Point]], window_ms: float) -> None:
    """Append new points to the lines of `chart`."""
    ui.run_javascript(f"twin.append({chart.id}, {json.dumps(points)}, {window_ms:.0f})")


def target_chart(lines: TargetLines, decimals: int) -> dict[str, Any]:
    """Chart of actual and predicted values with the prediction interval, and minimum and maximum behind means."""
    return {
        **_frame(decimals),
        "series": [
            _line(LOWER, with_gaps(lines.lower), stack="band", **_STACKED, **_INVISIBLE, **_NO_TOOLTIP),
            _line(WIDTH, with_gaps(lines.width), stack="band", areaStyle={}, **_STACKED, **_INVISIBLE, **_NO_TOOLTIP),
            *lines.reading_range.series(),
            _line(PREDICTED, with_gaps(lines.predicted), lineStyle={"width": 2}),
            _line(ACTUAL, with_gaps(lines.actual), lineStyle={"width": 1.5}),
        ],
    }


def line_chart(points: list[Point], reading_range: ReadingRange, decimals: int) -> dict[str, Any]:
    """Chart of one quantity over time."""
    return {
        **_frame(decimals),
        "series": [*reading_range.series(), _line(ACTUAL, with_gaps(points), lineStyle={"width": 1.5})],
    }


def sessions_chart(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Chart of throughput and resistance of each session over the equivalent full cycles of the battery."""
    options = _frame(2)
    options["xAxis"] = {**options["xAxis"], "type": "value", "scale": True, "name": "cycles", "nameLocation": "end"}
    options["yAxis"] = [
        {**options["yAxis"], "name": "Ah", "scale": False},  # bars start at zero
        {**options["yAxis"], "name": "mΩ", "splitLine": {"show": False}},
    ]
    throughput = [[row["cycle_index"], row["throughput_ah"]] for row in reversed(rows)]
    resistance = [
        [row["cycle_index"], None if row["resistance_ohm"] is None else row["resistance_ohm"] * 1e3]
        for row in reversed(rows)
    ]
    options["grid"] = {**options["grid"], "right": 46, "top": 26}
    options["series"] = [
        {**_line("throughput", throughput), "type": "bar", "barMaxWidth": 6},
        {
            **_line("resistance", resistance, lineStyle={"width": 2}),
            "yAxisIndex": 1,
            "symbol": "circle",
            "symbolSize": 4,
        },
    ]
    return options


def health_map() -> dict[str, Any]:
    """Scatter chart of state of health against temperature, one point per battery; without points."""
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
    """Options with the points of `health_map`; batteries without temperature or state of health are left out."""
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
