"""Builders of the ECharts options of all charts; colours are theme variables that the browser resolves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

from nicegui import ui

from console.alerts.rules import RULES, AlertRule

#: [milliseconds since 1970, value]; None breaks the line.
Point = list[float | None]
Colours = Mapping[str, Mapping[str, str]]
#: Smallest span of a value axis, so that noise does not fill the chart: absolute, and as a fraction of the values.
AxisSpan = tuple[float, float]

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
#: Up to this number of batteries the points of the map have names.
_MAX_NAMED = 40
_MAX_BINS = 16
_MIN_BINS = 6
#: Smallest spans of the axes of the map.
_TEMPERATURE_SPAN = 20.0
_SOH_SPAN = 10.0
#: Theme colours of the names in the map.
MAP_COLOURS: Colours = {status: {"label": "muted"} for status in _MAP}
SESSION_COLOURS: Colours = {
    "charge": {"line": "predicted"},
    "discharge": {"line": "muted"},
    "resistance": {"line": "warning-fill"},
}
_SESSION_KINDS: tuple[tuple[str, Callable[[Mapping[str, Any]], bool]], ...] = (
    ("charge", lambda row: row["kind"] == "charge"),
    ("discharge", lambda row: row["kind"] != "charge"),
)
_RESISTANCE_SPAN: AxisSpan = (0.0, 0.2)
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


def target_chart(lines: TargetLines, decimals: int, span: AxisSpan) -> dict[str, Any]:
    """Chart of actual and predicted values with the prediction interval, and minimum and maximum behind means."""
    return {
        **_frame(decimals, span),
        "series": [
            _line(LOWER, with_gaps(lines.lower), stack="band", **_STACKED, **_INVISIBLE, **_NO_TOOLTIP),
            _line(WIDTH, with_gaps(lines.width), stack="band", areaStyle={}, **_STACKED, **_INVISIBLE, **_NO_TOOLTIP),
            *lines.reading_range.series(),
            _line(PREDICTED, with_gaps(lines.predicted), lineStyle={"width": 2}),
            _line(ACTUAL, with_gaps(lines.actual), lineStyle={"width": 1.5}),
        ],
    }


def line_chart(points: list[Point], reading_range: ReadingRange, decimals: int, span: AxisSpan) -> dict[str, Any]:
    """Chart of one quantity over time."""
    return {
        **_frame(decimals, span),
        "series": [*reading_range.series(), _line(ACTUAL, with_gaps(points), lineStyle={"width": 1.5})],
    }


def sessions_chart(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Chart of throughput and resistance of each session over the equivalent full cycles of the battery."""
    options = _frame(2, _RESISTANCE_SPAN)
    options["xAxis"] = {**options["xAxis"], "type": "value", "scale": True, "name": "cycles", "nameLocation": "end"}
    options["yAxis"] = [
        {"type": "value", "axisLabel": {"fontSize": 11}, "splitNumber": 3, "name": "Ah"},  # bars start at zero
        {**options["yAxis"], "name": "mΩ", "splitLine": {"show": False}},
    ]
    resistance = [
        [row["cycle_index"], None if row["resistance_ohm"] is None else row["resistance_ohm"] * 1e3]
        for row in reversed(rows)
    ]
    options["grid"] = {**options["grid"], "right": 46, "top": 26}
    options["series"] = [
        *(
            {
                **_line(kind, [[row["cycle_index"], row["throughput_ah"]] for row in reversed(rows) if is_kind(row)]),
                "type": "bar",
                "barMaxWidth": 8,
                "barGap": "-100%",
            }
            for kind, is_kind in _SESSION_KINDS
        ),
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
    axis: dict[str, Any] = {"type": "value", "nameLocation": "middle", "axisLabel": {"fontSize": 11}}
    return {
        "textStyle": _TEXT,
        "animation": False,
        "grid": {"left": 48, "right": 54, "top": 30, "bottom": 40},
        "legend": {
            "top": 0,
            "left": 0,
            "itemWidth": 10,
            "itemHeight": 10,
            "textStyle": {"color": "#8a94a0", "fontSize": 11},
        },
        "tooltip": {"trigger": "item", ":formatter": "p => `${p.value[2]}: ${p.value[1]} % at ${p.value[0]} °C`"},
        "xAxis": {**axis, **_axis_range(_TEMPERATURE_SPAN, ticks=6), "name": "temperature, °C", "nameGap": 24},
        "yAxis": {**axis, **_axis_range(_SOH_SPAN, ticks=5), "name": "state of health, %", "nameGap": 34},
        **health_points(()),
    }


def health_points(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Options with the points of `health_map`; batteries without temperature or state of health are left out."""
    points: dict[str, list[list[Any]]] = {status: [] for status in _MAP}
    for line in lines:
        if line["temperature"] is not None and line["soh"] is not None:
            points[line["status"]].append([line["temperature"], line["soh"], line["battery_id"]])
    is_named = sum(map(len, points.values())) <= _MAX_NAMED
    label = {"show": is_named, "position": "right", ":formatter": "p => p.value[2]", "fontSize": 11}
    return {
        "series": [
            {
                "id": status,
                "name": status,
                "type": "scatter",
                "symbol": symbol,
                "symbolSize": 10,
                "itemStyle": {"color": colour, "opacity": 0.85},
                "label": label,
                "labelLayout": {"hideOverlap": True, "moveOverlap": "shiftY"},
                "data": [{"value": point} for point in points[status]],
                **({"markLine": _limits()} if status == "NORMAL" else {}),
            }
            for status, (symbol, colour) in _MAP.items()
        ]
    }


def _limits() -> dict[str, Any]:
    """Thresholds of temperature and state of health as dashed lines, where they lie within the axes."""
    lines = []
    for name, axis in (("thermal", "xAxis"), ("poor_health", "yAxis")):
        rule = RULES[name]
        for severity, threshold in (("WARNING", rule.warning), ("CRITICAL", rule.critical)):
            lines.append({axis: threshold, "lineStyle": {"color": _MAP[severity][1], "type": "dashed", "opacity": 0.7}})
    return {"silent": True, "symbol": "none", "label": {"show": False}, "data": lines}


def histogram(values: Iterable[float], rule: AlertRule, unit: str, widths: Sequence[float]) -> dict[str, Any]:
    """Histogram of the batteries by one value, stacked by the severity that `rule` gives it.

    Args:
        widths: widths of the bins to choose from, ascending; the first that gives at most 16 bins.
    """
    known = sorted(values)
    width = next((w for w in widths if known and (known[-1] - known[0]) / w <= _MAX_BINS), widths[-1])
    first = int(known[0] // width) if known else 0
    count = (int(known[-1] // width) - first + 1) if known else 1
    pad = max(_MIN_BINS - count, 0) // 2
    first, count = max(first - pad, 0), max(count, _MIN_BINS)
    counts = {status: [0] * count for status in ("NORMAL", "WARNING", "CRITICAL")}
    for value in known:
        counts[rule.severity(value) or "NORMAL"][int(value // width) - first] += 1
    edges = [(first + index) * width for index in range(count)]
    return {
        "textStyle": _TEXT,
        "animation": False,
        "grid": {"left": 30, "right": 8, "top": 8, "bottom": 22},
        "tooltip": {
            "trigger": "axis",
            "axisPointer": {"type": "shadow"},
            "confine": True,
            ":formatter": f"ps => ps[0].name + ' {unit}: ' + ps.reduce((n, p) => n + p.value, 0) + ' batteries'",
        },
        "xAxis": {
            "type": "category",
            "data": [f"{edge:g}–{edge + width:g}" for edge in edges],
            "axisLabel": {"fontSize": 11, "hideOverlap": True},
            "axisTick": {"show": False},
        },
        "yAxis": {"type": "value", "minInterval": 1, "splitNumber": 3, "axisLabel": {"fontSize": 11}},
        "series": [
            {
                "id": status,
                "type": "bar",
                "stack": "batteries",
                "barCategoryGap": "12%",
                "itemStyle": {"color": _MAP[status][1]},
                "data": counts[status],
            }
            for status in counts
        ],
    }


def _axis_range(span: float, fraction: float = 0.0, ticks: int = 3) -> dict[str, Any]:
    """Limits of a value axis that spans at least `span`, and at least `fraction` of the values."""
    limits = {
        f":{end}": f"v => twin.range(v, {span}, {fraction}, {ticks})[{index}]"
        for index, end in enumerate(("min", "max"))
    }
    return {**limits, "splitNumber": ticks}


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


def _frame(decimals: int, span: AxisSpan) -> dict[str, Any]:
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
        "yAxis": {"type": "value", **_axis_range(*span), "axisLabel": {"fontSize": 11}},
    }
