"""Fleet page: counters, map of health and temperature, what to do next, what changed, live table and distributions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from statistics import fmean
from typing import Any

from nicegui import ui

from console.alerts.next_actions import NextAction, next_actions
from console.alerts.rules import RULES
from console.changes import DAY, FleetChanges
from console.connection_pool import StoreRow
from console.live_updates import FleetSnapshot
from console.pages import charts
from console.pages.components import (
    STALE_S,
    div,
    empty,
    entry,
    number,
    panel,
    power_kw,
    press,
    set_text,
    status_of,
    text,
)
from console.pages.context import PageContext, Visitor
from console.pages.frame import frame

#: Minimum interval between updates of the scatter chart.
_MAP_INTERVAL_S = 3.0
_ROW_PX = 32
_ACTIONS = 40
#: Lines of each kind of change.
_EACH = 3
#: Title, column of the table, alert rule, unit and widths of the bins.  The thresholds lie on the edges of most bins.
_HISTOGRAMS: tuple[tuple[str, str, str, str, tuple[float, ...]], ...] = (
    ("State of health", "soh", "poor_health", "%", (0.5, 1.0, 2.5, 5.0)),
    ("Remaining useful life", "rul", "short_life", "cycles", (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)),
)
_FILTERS = ("CRITICAL", "WARNING", "NORMAL", "STALE")
_NUMBER = "p => p.value == null ? '–' : p.value.toFixed({decimals})"
_OPEN = "location.assign(window.path_prefix + '/battery/' + encodeURIComponent(e.data.battery_id))"
_OPEN_BY_KEY = f"e => {{ if (e.event.key === 'Enter') {_OPEN} }}"
_OPEN_BY_CLICK = f"e => {_OPEN}"
_WITHOUT_STALE = "over batteries with data in the last minute"
_SHAPES = "({NORMAL: '● ', WARNING: '▲ ', CRITICAL: '■ ', STALE: '○ '})"
#: Sort order of the status column.
_RANK = "({CRITICAL: 0, WARNING: 1, STALE: 2, NORMAL: 3})"
_STATUS = {
    ":valueFormatter": f"p => {_SHAPES}[p.value] + p.value",
    ":cellClass": "p => 'chip-cell s-' + p.value",
    ":comparator": f"(a, b) => {_RANK}[a] - {_RANK}[b]",
}

_ELAPSED = {":valueFormatter": "p => twin.elapsed(p.value)"}


def fleet_page(context: PageContext, visitor: Visitor) -> None:
    """Build the page."""
    with frame(context, visitor, "Fleet", "/"):
        page = _FleetPage(context)
        page.show(context.live.snapshot, frozenset(context.live.snapshot.rows))
        context.live.changed.subscribe(page.show)


class _FleetPage:
    def __init__(self, context: PageContext) -> None:
        self._live = context.live
        self._drawn: dict[str, dict[str, Any]] = {}
        self._map_drawn_at = 0.0
        self._status_filter: str | None = None
        self._tiles: dict[str, ui.html] = {}
        with div("tiles eight"):
            self._tile("batteries", "Batteries")
            self._counts = {status: self._filter(status) for status in _FILTERS}
            self._tile("soh", "Mean SoH", _WITHOUT_STALE)
            self._tile("hottest", "Hottest", _WITHOUT_STALE)
            self._tile("lowest", "Lowest SoC", _WITHOUT_STALE)
        self._empty = empty(
            "No data yet",
            "The live simulator (make run) first simulates the history of its batteries, which takes a moment. "
            "Batteries of any source that writes to the telemetry store appear here automatically.",
        ).classes("panel")
        self._body = div("fleet")
        with self._body:
            with panel("State of health and temperature", "click opens a battery; dashed: alert thresholds") as box:
                box.classes("map-panel")
                self._map = ui.echart(charts.health_map(), on_point_click=_open_point).classes("chart map")
                charts.paint(self._map, charts.MAP_COLOURS)
            with panel("What to do next", "most urgent first") as box:
                box.classes("next-panel")
                self._next = div("entries")
            with panel("What changed today", "last 24 hours") as box:
                box.classes("changed-panel")
                self._changed = div("entries")
            with panel("Batteries", "click or Enter opens a battery; sort and filter in the column headers") as box:
                box.classes("table-panel")
                # Around the grid, because NiceGUI rebuilds the grid from its initial rows if its own style changes.
                self._grid_box = div("fleet-grid")
                with self._grid_box:
                    self._grid = ui.aggrid(_grid_options(), auto_size_columns=False)
            with div("stack histograms"):
                self._histograms = [_Histogram(*spec) for spec in _HISTOGRAMS]
        self._shown_actions: list[NextAction] | None = None
        self._shown_changes: object = None

    def show(self, snapshot: FleetSnapshot, changed: frozenset[str]) -> None:
        """Update the page to `snapshot`."""
        has_batteries = bool(snapshot.rows)
        self._empty.set_visibility(not has_batteries and snapshot.taken_at is not None)
        self._body.set_visibility(has_batteries)
        if not has_batteries:
            return
        self._show_rows(snapshot, changed)
        self._show_tiles(list(self._drawn.values()))
        if time.monotonic() - self._map_drawn_at > _MAP_INTERVAL_S:
            self._map_drawn_at = time.monotonic()
            self._map.run_chart_method("setOption", charts.health_points(self._drawn.values()))
            for histogram in self._histograms:
                histogram.show(self._drawn.values())
        now = snapshot.store_time or datetime.now(UTC)
        silent = {
            battery_id: now - row["created_at"]
            for battery_id, row in snapshot.rows.items()
            if row["created_at"] is not None and (now - row["created_at"]).total_seconds() > STALE_S
        }
        actions = next_actions(snapshot.rows, snapshot.alerts_of("safety", "health", "charge"), silent)
        if actions != self._shown_actions:
            self._shown_actions = actions
            self._show_actions(actions, bool(snapshot.open_alerts))
        changes = self._live.changes
        went_silent = sorted(battery_id for battery_id, elapsed in silent.items() if elapsed < DAY)
        if (changes, went_silent) != self._shown_changes:
            self._shown_changes = changes, went_silent
            self._show_changes(changes, went_silent)

    def _show_rows(self, snapshot: FleetSnapshot, changed: frozenset[str]) -> None:
        now = snapshot.store_time or datetime.now(UTC)
        lines = {battery_id: _line(row, now) for battery_id, row in snapshot.rows.items()}
        # Changed on screen: a new reading, or a battery that became stale.
        differing = [line for battery_id, line in lines.items() if self._drawn.get(battery_id) != line]
        added = [line for line in differing if line["battery_id"] not in self._drawn]
        updated = [line for line in differing if line["battery_id"] in self._drawn]
        removed = [{"battery_id": battery_id} for battery_id in self._drawn if battery_id not in lines]
        if len(lines) != len(self._drawn):
            self._grid_box.style(f"max-height:{_ROW_PX * (len(lines) + 1) + 4}px")
        if not self._drawn:
            self._grid.options["rowData"] = added
        elif added or updated or removed:
            rows_changed = {"add": added, "update": updated, "remove": removed}
            self._grid.run_grid_method("applyTransactionAsync", rows_changed)
        self._drawn = lines

    def _show_tiles(self, lines: list[dict[str, Any]]) -> None:
        counts = {status: sum(line["status"] == status for line in lines) for status in _FILTERS}
        for status, tile in self._counts.items():
            set_text(tile, str(counts[status]))
        self._put("batteries", str(len(lines)))
        # Stale values are no current extremes.
        current = [line for line in lines if line["status"] != "STALE"]
        healths = _known(current, "soh")
        self._put("soh", number(fmean(healths) if healths else None, 1, "%"))
        self._put("hottest", number(max(_known(current, "temperature"), default=None), 1, "°C"))
        self._put("lowest", number(min(_known(current, "soc"), default=None), 0, "%"))

    def _show_actions(self, actions: list[NextAction], any_open: bool) -> None:
        self._next.clear()
        with self._next:
            if not actions:
                empty(
                    "Nothing to do", "All open alerts are muted." if any_open else "No open alerts, no silent battery."
                )
            for action in actions[:_ACTIONS]:
                entry(action.urgency, action.battery_id, action.text)
            if len(actions) > _ACTIONS:
                ui.link(f"{len(actions) - _ACTIONS} more batteries", "/alerts").classes("small")

    def _show_changes(self, changes: FleetChanges | None, went_silent: list[str]) -> None:
        self._changed.clear()
        with self._changed:
            if changes is None:
                text("Loading …", "muted small")
                return
            lines = _change_lines(changes, went_silent)
            if not lines:
                empty("No changes", "No alert, no new or silent battery, no notable movement, no promotion.")
            for line in lines:
                entry(*line)

    def _tile(self, key: str, label: str, hint: str = "") -> None:
        with div("tile").props(f'title="{hint}"' if hint else ""):
            text(label, "k")
            self._tiles[key] = text("–", "v")

    def _put(self, key: str, content: str) -> None:
        set_text(self._tiles[key], content)

    def _filter(self, status: str) -> ui.html:
        with ui.element("button").classes("tile").props('type="button" aria-pressed="false"') as tile:
            text(status, f"k chip s-{status}")
            count = text("–", "v")
        tile.on("click", lambda: self._filter_by(status, tile))
        tile.props(f'data-status="{status}"')
        return count

    def _filter_by(self, status: str, tile: ui.element) -> None:
        self._status_filter = None if self._status_filter == status else status
        for count in self._counts.values():
            parent = count.parent_slot.parent if count.parent_slot else tile
            press(parent, parent is tile and self._status_filter is not None)
        ui.run_javascript(f"twin.filterStatus({self._grid.id}, {json.dumps(self._status_filter)})")


class _Histogram:
    """Panel with the distribution of one column of the table."""

    def __init__(self, title: str, column: str, rule: str, unit: str, widths: Sequence[float]) -> None:
        self._column = column
        self._options = partial(charts.histogram, rule=RULES[rule], unit=unit, widths=widths)
        self._shown: list[float] | None = None
        with panel(title, unit):
            self._chart = ui.echart(self._options(())).classes("chart histogram")
            charts.paint(self._chart, {})
            self._empty = empty("No data yet", "")

    def show(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Update the chart to the table rows `lines`."""
        values = sorted(line[self._column] for line in lines if line[self._column] is not None)
        if values != self._shown:
            self._shown = values
            self._chart.set_visibility(bool(values))
            self._empty.set_visibility(not values)
            self._chart.run_chart_method("setOption", self._options(values))


def _change_lines(changes: FleetChanges, went_silent: Sequence[str]) -> list[tuple[str, str | None, str, str]]:
    """Lines of the list of changes: symbol, battery, text and time; a few of each kind, then their number."""
    lines: list[tuple[str, str | None, str, str]] = []

    def add(found: Sequence[tuple[str, str | None, str, str]], total: int, others: str) -> None:
        lines.extend(found[:_EACH])
        if total > _EACH:
            lines.append(("MORE", None, f"{total - min(len(found), _EACH):,} {others}", ""))

    opened = [(a["severity"], a["battery_id"], a["reason"], f"{a['opened_at']:%H:%M}") for a in changes.opened]
    still_open = max(changes.opened_total, len(opened))
    add(opened, still_open, "more alerts opened")
    add([("STALE", battery_id, "went silent", "") for battery_id in went_silent], len(went_silent), "more went silent")
    if changes.champions:
        versions = ", ".join(f"{row['target']} {row['model_version']}" for row in changes.champions)
        at = max(row["followed_at"] for row in changes.champions)
        lines.append(("MODEL", None, f"new champion: {versions}", f"{at:%H:%M}"))
    for retrain in changes.retrains:
        outcome = (retrain["watch"] if retrain["watch"] == "rolled_back" else retrain["outcome"]) or "running"
        lines.append(("MODEL", None, f"retraining: {outcome.replace('_', ' ')}", f"{retrain['started_at']:%H:%M}"))
    for movements, name, unit, decimals in ((changes.soh, "SoH", "%", 1), (changes.rul, "RUL", "cycles", 0)):
        moved = [
            (
                "DOWN" if movement.change < 0 else "UP",
                movement.battery_id,
                f"{name} {movement.change:+.{decimals}f} {unit}, {movement.before:,.{decimals}f} to "
                f"{movement.now:,.{decimals}f}",
                "",
            )
            for movement in movements
        ]
        add(moved, len(moved), f"more with another {name}")
    new = [("NEW", battery_id, "new", f"{first:%H:%M}") for battery_id, first in changes.new_batteries]
    add(new, len(new), "more new batteries")
    resolved = [
        ("NORMAL", a["battery_id"], f"{RULES[a['rule']].title} resolved", f"{a['cleared_at']:%H:%M}")
        for a in changes.resolved
    ]
    add(resolved, changes.resolved_total, "more alerts resolved")
    return lines


def _known(lines: list[dict[str, Any]], column: str) -> list[float]:
    return [line[column] for line in lines if line[column] is not None]


def _open_point(event: Any) -> None:
    value = event.data.get("value") if isinstance(event.data, dict) else None
    if isinstance(value, list) and len(value) > 2:
        ui.navigate.to(f"/battery/{value[2]}")


def _line(row: StoreRow, now: datetime) -> dict[str, Any]:
    """Table row of a battery, rounded, so that changes that are not visible are not sent."""
    return {
        "battery_id": row["battery_id"],
        "status": status_of(row, now),
        "soc": _rounded(row["soc"], 1),
        "soh": _rounded(row["soh"] if row["soh"] is not None else row["soh_predicted"], 1),
        "soh_predicted": _rounded(row["soh_predicted"], 1),
        "temperature": _rounded(row["temperature"], 1),
        "forecast": _rounded(row["temperature_predicted"], 1),
        "power": _rounded(power_kw(row), 1),
        "rul": _rounded(row["rul_prediction"], 0),
        "failure": _rounded(row["failure_probability"], 3),
        "model": row["model"] or "",
        "fleet": row["fleet"] or "",
        "last_seen": None if row["created_at"] is None else _elapsed_minutes((now - row["created_at"]).total_seconds()),
    }


def _elapsed_minutes(seconds: float) -> float:
    """Elapsed minutes in growing steps, so that a row is not sent every second only because time passes."""
    step = next((step for step, below in ((10, 60), (60, 3600), (3600, 86400)) if seconds < below), 86400)
    return max(seconds, 0.0) // step * step / 60


def _rounded(value: float | None, decimals: int) -> float | None:
    return None if value is None else round(value, decimals)


def _column(field: str, name: str, min_width: int, hint: str = "", **more: Any) -> dict[str, Any]:
    """Column definition; `min_width` in pixels, extra width is distributed over the columns."""
    return {
        "field": field,
        "headerName": name,
        "headerTooltip": hint or name,
        "sortable": True,
        "filter": "agTextColumnFilter",
        "minWidth": min_width,
        "flex": min_width,
        **more,
    }


def _numbers(field: str, name: str, min_width: int, decimals: int, hint: str, **more: Any) -> dict[str, Any]:
    shown = {
        "filter": "agNumberColumnFilter",
        ":valueFormatter": _NUMBER.format(decimals=decimals),
        "cellClass": "num",
        "headerClass": "ag-right-aligned-header",
    }
    return _column(field, name, min_width, hint, **{**shown, **more})


def _grid_options() -> dict[str, Any]:
    return {
        "rowData": [],
        ":getRowId": "p => p.data.battery_id",
        "columnDefs": [
            _column("battery_id", "Battery", 92, pinned="left", width=92),
            _column("status", "Status", 104, sort="asc", **_STATUS),
            _numbers("soc", "SoC %", 64, 1, "state of charge, %"),
            _numbers("soh", "SoH %", 64, 1, "state of health, %: reported by the pack, else predicted"),
            _numbers("temperature", "°C", 54, 1, "hottest probe, °C"),
            _numbers("forecast", "Forecast", 82, 1, "temperature forecast, °C"),
            _numbers("power", "kW", 56, 1, "power, kW, positive while discharging"),
            _numbers("rul", "RUL", 58, 0, "remaining useful life, equivalent full cycles"),
            _numbers("failure", "Failure", 74, 3, "failure probability"),
            _numbers("last_seen", "Seen", 64, 0, "time since the last reading; the filter is in minutes", **_ELAPSED),
            _numbers("soh_predicted", "SoH pred.", 90, 1, "predicted state of health, %"),
            _column("model", "Model", 86),
            _column("fleet", "Fleet", 82),
        ],
        "defaultColDef": {"resizable": True, "suppressHeaderMenuButton": False},
        "rowHeight": _ROW_PX,
        "headerHeight": _ROW_PX,
        "animateRows": False,
        "suppressCellFocus": False,
        "asyncTransactionWaitMillis": 100,
        ":onCellKeyDown": _OPEN_BY_KEY,
        ":onRowClicked": _OPEN_BY_CLICK,
    }
