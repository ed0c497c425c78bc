"""The front page: every battery in a live table, and the fleet as a map of health against temperature."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from nicegui import ui

from monitoring.console.alerts.life import Key
from monitoring.console.alerts.rules import Severity
from monitoring.console.database import StoreRow
from monitoring.console.live import Snapshot
from monitoring.console.pages import charts
from monitoring.console.pages.context import Context, Visitor
from monitoring.console.pages.frame import frame
from monitoring.console.pages.parts import (
    age,
    div,
    empty,
    number,
    panel,
    press,
    set_text,
    status_of,
    text,
)

#: The map is drawn anew at most so often: it is for the shape of the fleet, the table for the moment.
_MAP_EVERY_S = 3.0
_ROW_PX = 32
_ALERTS = 8
_FILTERS = ("CRITICAL", "WARNING", "NORMAL", "SILENT")
_NUMBER = "p => p.value == null ? '–' : p.value.toFixed({decimals})"
_OPEN = "location.assign('/battery/' + encodeURIComponent(e.data.battery_id))"
_OPEN_BY_KEY = f"e => {{ if (e.event.key === 'Enter') {_OPEN} }}"
_OPEN_BY_CLICK = f"e => {_OPEN}"
_SHAPES = "({NORMAL: '● ', WARNING: '▲ ', CRITICAL: '■ ', SILENT: '○ '})"
#: Worst first, whatever the alphabet says.
_RANK = "({CRITICAL: 0, WARNING: 1, SILENT: 2, NORMAL: 3})"
_STATUS = {
    ":valueFormatter": f"p => {_SHAPES}[p.value] + p.value",
    ":cellClass": "p => 'chip-cell s-' + p.value",
    ":comparator": f"(a, b) => {_RANK}[a] - {_RANK}[b]",
}


def fleet_page(context: Context, visitor: Visitor) -> None:
    """Draw it."""
    with frame(context, visitor, "Fleet", "/"):
        page = _Fleet(context)
        page.show(context.live.snapshot, frozenset(context.live.snapshot.rows))
        context.live.changed.subscribe(page.show)


class _Fleet:
    def __init__(self, context: Context) -> None:
        self._drawn: dict[str, dict[str, Any]] = {}
        self._map_drawn_at = 0.0
        self._only: str | None = None
        self._tiles: dict[str, ui.html] = {}
        with div("tiles eight"):
            self._tile("batteries", "Batteries")
            self._chips = {status: self._filter(status) for status in _FILTERS}
            self._tile("soh", "Mean health")
            self._tile("hottest", "Hottest")
            self._tile("lowest", "Lowest charge")
        self._empty = empty(
            "No battery has sent anything yet",
            "The live simulator (make run) lives through the past of its batteries first, which takes a moment; "
            "any other source that writes to the store does, too: batteries appear by themselves.",
        ).classes("panel")
        self._body = div("split")
        with self._body:
            with panel("Batteries", "Enter or a click opens one; filter and sort by the heads"):
                self._grid = ui.aggrid(_grid_options(), auto_size_columns=False).classes("fleet-grid")
            with div("stack"):
                with panel("Health against temperature", "a click opens the battery"):
                    self._map = ui.echart(charts.health_map(), on_point_click=_open_point).classes("chart map")
                    charts.paint(self._map, {})
                with panel("Open alerts"):
                    self._alerts = div()
        self._shown_alerts: list[tuple[Key, Severity]] | None = None

    def show(self, snapshot: Snapshot, changed: frozenset[str]) -> None:
        """Bring the page up to `snapshot`."""
        has_batteries = bool(snapshot.rows)
        self._empty.set_visibility(not has_batteries and snapshot.taken_at is not None)
        self._body.set_visibility(has_batteries)
        if not has_batteries:
            return
        self._show_rows(snapshot, changed)
        self._show_tiles(list(self._drawn.values()))
        if time.monotonic() - self._map_drawn_at > _MAP_EVERY_S:
            self._map_drawn_at = time.monotonic()
            self._map.run_chart_method("setOption", charts.health_points(self._drawn.values()))
        # Heat and wear before empty batteries, however many of those there are.
        alerts = [*snapshot.alerts_of("safety", "health").items(), *snapshot.alerts_of("charge").items()]
        if alerts != self._shown_alerts:
            self._shown_alerts = alerts
            self._show_alerts(alerts, bool(snapshot.open_alerts))

    def _show_rows(self, snapshot: Snapshot, changed: frozenset[str]) -> None:
        now = snapshot.store_time or datetime.now(UTC)
        lines = {battery_id: _line(row, now) for battery_id, row in snapshot.rows.items()}
        # What differs on the screen: a changed reading, or a battery that has fallen silent.
        differing = [line for battery_id, line in lines.items() if self._drawn.get(battery_id) != line]
        added = [line for line in differing if line["battery_id"] not in self._drawn]
        updated = [line for line in differing if line["battery_id"] in self._drawn]
        if len(lines) != len(self._drawn):
            self._grid.style(f"max-height:{_ROW_PX * (len(lines) + 2) + 6}px")
        if not self._drawn:
            self._grid.options["rowData"] = added
        elif added or updated:
            self._grid.run_grid_method("applyTransactionAsync", {"add": added, "update": updated})
        self._drawn = lines

    def _show_tiles(self, lines: list[dict[str, Any]]) -> None:
        counts = {status: sum(line["status"] == status for line in lines) for status in _FILTERS}
        for status, tile in self._chips.items():
            set_text(tile, str(counts[status]))
        self._put("batteries", str(len(lines)))
        known = [line["soh"] for line in lines if line["soh"] is not None]
        self._put("soh", number(fmean(known), 1, "%") if known else "–")
        hottest = max((line for line in lines if line["temperature"] is not None), key=_temperature, default=None)
        self._put("hottest", number(hottest["temperature"], 1, "°C") if hottest else "–")
        charges = [line["soc"] for line in lines if line["soc"] is not None]
        self._put("lowest", number(min(charges), 0, "%") if charges else "–")

    def _show_alerts(self, alerts: list[tuple[Key, Severity]], any_open: bool) -> None:
        self._alerts.clear()
        with self._alerts:
            if not alerts:
                empty("All quiet", "Only muted alerts are open." if any_open else "No rule holds for any battery.")
            for (battery_id, rule), severity in alerts[:_ALERTS]:
                with div("row-wrap small"):
                    text(severity, f"chip s-{severity}", "span")
                    ui.link(battery_id, f"/battery/{battery_id}")
                    text(rule.replace("_", " "), "muted", "span")
            if len(alerts) > _ALERTS:
                ui.link(f"and {len(alerts) - _ALERTS} more", "/alerts").classes("small")

    def _tile(self, key: str, label: str) -> None:
        with div("tile"):
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
        self._only = None if self._only == status else status
        for count in self._chips.values():
            parent = count.parent_slot.parent if count.parent_slot else tile
            press(parent, parent is tile and self._only is not None)
        model = {"status": {"filterType": "text", "type": "equals", "filter": self._only}} if self._only else None
        self._grid.run_grid_method("setFilterModel", model)


def _temperature(line: dict[str, Any]) -> float:
    return float(line["temperature"])


def _open_point(event: Any) -> None:
    value = event.data.get("value") if isinstance(event.data, dict) else None
    if isinstance(value, list) and len(value) > 2:
        ui.navigate.to(f"/battery/{value[2]}")


def _line(row: StoreRow, now: datetime) -> dict[str, Any]:
    """What the table shows of a battery; rounded, so that what looks the same is not sent again."""
    heard = row["created_at"]
    return {
        "battery_id": row["battery_id"],
        "status": status_of(row, now),
        "soc": _rounded(row["soc"], 1),
        "soh": _rounded(row["soh"] if row["soh"] is not None else row["soh_predicted"], 1),
        "soh_predicted": _rounded(row["soh_predicted"], 1),
        "temperature": _rounded(row["temperature"], 1),
        "forecast": _rounded(row["temperature_predicted"], 1),
        "power": None if row["voltage"] is None else _rounded(row["voltage"] * row["current"] / 1e3, 1),
        "rul": _rounded(row["rul_prediction"], 0),
        "failure": _rounded(row["failure_probability"], 3),
        "model": row["model"] or "",
        "fleet": row["fleet"] or "",
        "heard": "–" if heard is None else "now" if (now - heard).total_seconds() < 10 else age(heard, now),
    }


def _rounded(value: float | None, decimals: int) -> float | None:
    return None if value is None else round(value, decimals)


def _column(field: str, name: str, decimals: int | None = None, **more: Any) -> dict[str, Any]:
    column: dict[str, Any] = {"field": field, "headerName": name, "sortable": True, "filter": True, **more}
    if decimals is not None:
        column |= {
            "filter": "agNumberColumnFilter",
            ":valueFormatter": _NUMBER.format(decimals=decimals),
            "cellClass": "num",
            "headerClass": "ag-right-aligned-header",
            "width": 92,
        }
        column |= more
    return column


def _grid_options() -> dict[str, Any]:
    return {
        "rowData": [],
        ":getRowId": "p => p.data.battery_id",
        "columnDefs": [
            _column("battery_id", "Battery", pinned="left", width=112, filter="agTextColumnFilter"),
            {**_column("status", "Status", width=118, filter="agTextColumnFilter", sort="asc"), **_STATUS},
            _column("soc", "Charge %", 1),
            _column("soh", "Health %", 1),
            _column("temperature", "°C", 1, width=74),
            _column("forecast", "°C ahead", 1),
            _column("power", "Power kW", 1),
            _column("rul", "Life left", 0),
            _column("failure", "Failure", 3, width=84),
            _column("soh_predicted", "Health pred.", 1, width=104),
            _column("model", "Model", width=120),
            _column("fleet", "Use", width=96),
            _column("heard", "Heard", width=80, sortable=False, filter=False),
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
