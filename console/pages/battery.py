"""Battery page: live values, charts of all targets, pack view, alerts and charge sessions of one battery."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import quote

from nicegui import ui

from console.connection_pool import StoreRow, StoreUnavailableError
from console.history import RANGE_COLUMNS, HistorySeries, HistoryWindow
from console.live_updates import FleetSnapshot
from console.pack_layout import series_count
from console.pages import charts
from console.pages.alert_list import AlertList
from console.pages.charts import AxisSpan, ReadingRange, TargetLines, milliseconds
from console.pages.components import (
    DASH,
    STALE_S,
    action_button,
    age,
    button,
    div,
    empty,
    facts,
    facts_html,
    number,
    panel,
    power_kw,
    press,
    set_text,
    short_timestamp,
    status_of,
    table,
    text,
    timestamp,
)
from console.pages.context import PageContext, Visitor
from console.pages.events import EventPanel
from console.pages.frame import frame
from console.pages.pack import PackView
from console.reasons import described
from features.targets import TARGETS, Target
from telemetry.errors import TwinError

_POINTS = 400
#: Minimum distance between appended points: this fraction of the time span.
_POINTS_PER_SPAN = 7200
_RETRY_S = 10.0
_CYCLES = 60
_SESSIONS_LISTED = 9
_HOUR_MS = 3.6e6
_SLOW_HOURS = 720.0
_SPANS = {"1 h": 1.0, "6 h": 6.0, "24 h": 24.0, "7 d": 168.0, "30 d": 720.0}


#: Column, title, unit, decimals, smallest span of the axis: a cell of a laboratory has 1/100 of the voltage of a pack.
_ELECTRICAL: tuple[tuple[str, str, str, int, AxisSpan], ...] = (
    ("voltage", "Voltage", "V", 1, (0.05, 0.02)),
    ("current", "Current", "A", 1, (1.0, 0.2)),
    ("power", "Power", "kW", 1, (0.5, 0.2)),
)


def battery_page(context: PageContext, visitor: Visitor, battery_id: str) -> None:
    """Build the page."""
    with frame(context, visitor, battery_id, f"/battery/{quote(battery_id, safe='')}"):
        row = context.live.snapshot.rows.get(battery_id)
        if row is not None:
            _BatteryPage(context, visitor, row)
        else:
            _wait_for(context, battery_id)


def _wait_for(context: PageContext, battery_id: str) -> None:
    was_polled = context.live.snapshot.taken_at is not None
    hint = "The telemetry store has no battery with this id." if was_polled else "Waiting for the telemetry store."
    with div("panel"):
        empty(f"Unknown battery: {battery_id}" if was_polled else "Loading …", hint)
        ui.link("All batteries", "/")

    is_leaving = False

    def reload(snapshot: FleetSnapshot) -> None:
        nonlocal is_leaving
        is_known = battery_id in snapshot.rows or (snapshot.taken_at is not None and not was_polled)
        if is_known and not is_leaving:  # once only: a second reload would restart that of a slow browser
            is_leaving = True
            ui.navigate.reload()

    context.live.changed.subscribe(lambda snapshot, _: reload(snapshot))


class _BatteryPage:
    def __init__(self, context: PageContext, visitor: Visitor, row: StoreRow) -> None:
        self._context = context
        self._battery_id: str = row["battery_id"]
        self._hours = 1.0
        #: Time of the last point in the charts, by their time span in hours.
        self._last_points: dict[float, datetime] = {}
        self._appended = 0
        self._drawn_sessions: Sequence[StoreRow] | None = None
        self._is_loaded = False
        self._loading_count = 0
        self._loaded_at = time.monotonic()
        self._status = ""
        self._head(row)
        with div("tiles"):
            self._tiles = {name: self._tile(name) for name in _tiles(row, None)}
        self._loading = text("Loading history …", "muted small").props('role="status"')
        with div("quad"):
            self._cards = [_TargetCard(target, self._reasons) for target in TARGETS.values()]
        with div("trio"):
            with panel("Voltage, current and power", "positive while discharging"):
                self._electrical = [self._line_chart(title, unit, span) for _, title, unit, _, span in _ELECTRICAL]
            cells = series_count(row)
            with panel("Pack", f"{cells} cells in series" if cells else "number of cells unknown"):
                self._pack = PackView(row)
            with div("stack last-grows"):
                with panel("Data sheet"):
                    facts(_data_sheet(row))
                    self._events = EventPanel(context, visitor, self._battery_id)
                with panel("Alerts") as box:
                    box.classes("narrow")
                    self._alerts = AlertList(
                        context, visitor, battery_id=self._battery_id, page_size=10, unfolds_resolved=True
                    )
        with panel("Charge sessions", "throughput and resistance over equivalent full cycles"):
            self._session_panel = div("sessions")
        self._show(row, context.live.snapshot.store_time)
        context.live.changed.subscribe(self._update)
        ui.timer(0.05, self._load, once=True)

    def _head(self, row: StoreRow) -> None:
        with div("row-wrap"):
            text(self._battery_id, "title", "h1")
            self._chip = text("", "chip", "span")
            properties = [
                row["model"], row["chemistry"], row["fleet"],
                number(row["nominal_capacity_ah"], 0, "Ah") if row["nominal_capacity_ah"] else None,
                f"in service since {row['in_service_since']:%Y-%m}" if row["in_service_since"] else None,
            ]  # fmt: skip
            text(" · ".join(item for item in properties if item) or "no data sheet", "muted")
            div("grow")
            with div("seg").props('role="group" aria-label="time span"'):
                self._span_buttons = {
                    label: button(label, partial(self._set_span, hours), pressed=hours == self._hours, classes="")
                    for label, hours in _SPANS.items()
                }

    def _tile(self, name: str) -> ui.html:
        with div("tile"):
            text(name, "k")
            return text("–", "v")

    def _line_chart(self, title: str, unit: str, span: AxisSpan) -> ui.echart:
        text(f"{title}, {unit}", "muted small")
        chart = ui.echart(charts.line_chart([], ReadingRange(), 1, span)).classes("chart").style("height:118px")
        charts.paint(chart, charts.LINE_COLOURS)
        return chart

    def _show(self, row: StoreRow, now: datetime | None) -> None:
        status = status_of(row, now)
        if status != self._status:
            self._chip.classes(remove=f"s-{self._status}", add=f"s-{status}")
            self._status = status
        no_data = "No data" if row["created_at"] is None else f"No data for {age(row['created_at'], now)}"
        set_text(self._chip, no_data if status == "STALE" else status)
        for name, value in _tiles(row, now).items():
            set_text(self._tiles[name], value)
        for card in self._cards:
            card.show(row, now)

    async def _update(self, snapshot: FleetSnapshot, changed: frozenset[str]) -> None:
        row = snapshot.rows.get(self._battery_id)
        if row is None:
            return
        self._show(row, snapshot.store_time)
        if self._battery_id in changed and row["time"] is not None:
            self._pack.show(row)
            if self._is_loaded:
                self._append(row)
        if self._loading_count == 0 and snapshot.problem is None and self._needs_reload():
            await self._load()

    def _append(self, row: StoreRow) -> None:
        if self._is_new_pixel(row["time"], _SLOW_HOURS):
            for card in self._cards:
                card.append(row, _SLOW_HOURS, is_slow=True)
        if not self._is_new_pixel(row["time"], self._hours):
            return
        self._appended += 1
        for card in self._cards:
            card.append(row, self._hours, is_slow=False)
        for (column, *_), chart in zip(_ELECTRICAL, self._electrical, strict=True):
            charts.append(chart, {charts.ACTUAL: [_point(row, column)]}, self._hours * _HOUR_MS)

    def _is_new_pixel(self, time: datetime, hours: float) -> bool:
        """Whether a point at `time` is not closer than one pixel to the last one in charts of `hours`; remembers it."""
        last = self._last_points.get(hours)
        if last is not None and time - last < timedelta(hours=hours) / _POINTS_PER_SPAN:
            return False
        self._last_points[hours] = time
        return True

    def _needs_reload(self) -> bool:
        """Whether the history failed to load, or so many points were appended that it should be downsampled again."""
        is_due = not self._is_loaded or self._appended >= _POINTS
        return is_due and time.monotonic() - self._loaded_at > _RETRY_S

    async def _set_span(self, hours: float) -> None:
        self._hours = hours
        for label, choice in self._span_buttons.items():
            press(choice, _SPANS[label] == hours)
        await self._load()

    async def _load(self) -> None:
        self._loading_count += 1
        try:
            await self._read()
        finally:
            self._loading_count -= 1

    async def _read(self) -> None:
        self._loaded_at = time.monotonic()
        hours = self._hours
        row = self._context.live.snapshot.rows[self._battery_id]
        until = row["time"] or datetime.now(UTC)
        window, slow = (
            HistoryWindow(self._battery_id, until - timedelta(hours=span), until, _POINTS)
            for span in (hours, _SLOW_HOURS)
        )
        histories, queries = self._context.histories, self._context.queries
        try:
            readings, predictions, slow_readings, slow_predictions, cycles, events = await asyncio.gather(
                asyncio.to_thread(histories.readings, window),
                asyncio.to_thread(histories.predictions, window),
                asyncio.to_thread(histories.readings, slow),
                asyncio.to_thread(histories.predictions, slow),
                asyncio.to_thread(queries.cycles, self._battery_id, _CYCLES),
                asyncio.to_thread(self._events.read),
            )
        except StoreUnavailableError as error:
            set_text(self._loading, error.sentence)
            return
        if hours != self._hours:
            return  # another time span was chosen in the meantime
        for card in self._cards:
            if card.is_slow:
                card.draw(slow_readings.rows, slow_predictions.rows)
            else:
                card.draw(readings.rows, predictions.rows)
        self._draw_electrical(readings)
        self._draw_sessions(cycles)
        self._events.draw(events)
        set_text(self._loading, _description(readings, until))
        self._last_points, self._appended, self._is_loaded = {hours: until, _SLOW_HOURS: until}, 0, True

    async def _reasons(self, target: str) -> str:
        """The reasons of the target's prediction as text, or why there are none."""
        try:
            reasons = await asyncio.to_thread(self._context.reasons.of, self._battery_id)
        except TwinError as error:
            return error.sentence
        return described(reasons[target]) or "The model gives no reasons, or the prediction is withheld."

    def _draw_electrical(self, readings: HistorySeries) -> None:
        for (column, _, _, decimals, span), chart in zip(_ELECTRICAL, self._electrical, strict=True):
            points = [_point(row, column) for row in readings.rows]
            chart.options.clear()
            chart.options.update(charts.line_chart(points, _reading_range(readings.rows, column), decimals, span))
            charts.paint(chart, charts.LINE_COLOURS)

    def _draw_sessions(self, cycles: Sequence[StoreRow]) -> None:
        if cycles == self._drawn_sessions:
            return  # unchanged; replacing a chart while it is being created is an error in the browser
        self._drawn_sessions = cycles
        self._session_panel.clear()
        with self._session_panel:
            if not cycles:
                empty("No charge sessions yet", "A session is stored when the battery stops charging or discharging.")
                return
            with div():
                chart = ui.echart(charts.sessions_chart(cycles)).classes("chart sessions-chart")
                charts.paint(chart, charts.SESSION_COLOURS)
                with div("legend"):
                    text("charged, Ah", "c", "span")
                    text("discharged, Ah", "d", "span")
                    text("resistance, mΩ", "r", "span")
            table(
                ("Type", "End", "Cycles", "Ah", "mΩ", "Temp. rise °C"),
                [
                    (
                        cycle["kind"], timestamp(cycle["end_time"]), number(cycle["cycle_index"]),
                        number(cycle["throughput_ah"]),
                        number(None if cycle["resistance_ohm"] is None else cycle["resistance_ohm"] * 1e3, 2),
                        number(cycle["temperature_rise_c"]),
                    )
                    for cycle in cycles[:_SESSIONS_LISTED]
                ],
                numeric=(2, 3, 4, 5),
            )  # fmt: skip


class _TargetCard:
    """Card of one target: newest prediction, measured value, and chart of both."""

    def __init__(self, target: Target, reasons: Callable[[str], Awaitable[str]]) -> None:
        self._target = target
        self._is_withheld = True
        self.is_slow = not target.is_forecast  # health and life hardly move within hours
        with panel(target.title, f"{_SLOW_HOURS / 24:.0f} days" if self.is_slow else ""):
            with div("row-wrap").style("align-items:baseline;gap:2px 10px"):
                self._value = text("–", "big")
                self._interval = text("", "muted small")
            self._facts = ui.html("", tag="dl", sanitize=False).classes("facts")
            if target.explained:
                self._add_why(reasons)
            self._chart = ui.echart(self._options(TargetLines())).classes("chart")
            charts.paint(self._chart, charts.TARGET_COLOURS)
            with div("legend"):
                if target.signal is not None:
                    text("actual", tag="span")
                text("predicted", "p", "span")
                self._band = text("interval", "b", "span")
            self._band.set_visibility(False)

    def _add_why(self, reasons: Callable[[str], Awaitable[str]]) -> None:
        """A button that shows the reasons: they are asked for only then, because the service computes them anew."""

        async def show() -> None:
            if self._is_withheld:  # by the newest reading, which the service is not sent
                set_text(line, "There is no prediction to explain.")
                return
            set_text(line, "asking the prediction service …")
            set_text(line, await reasons(self._target.name))

        with div("row-wrap"):
            action_button("Why?", show)
            line = text("", "muted small").props('role="status"')

    def show(self, row: StoreRow, now: datetime | None) -> None:
        """Update the numbers; `now` is the database clock."""
        target, shown = self._target, self._target.shown
        value = row[target.predicted_column]
        self._is_withheld = value is None
        set_text(self._value, number(value, shown.decimals, shown.symbol))
        lower, upper = row[f"{target.name}_lower"], row[f"{target.name}_upper"]
        if value is None:
            interval = "no prediction yet, or withheld"
        elif lower is None or upper is None:
            interval = "no prediction interval"
        else:
            interval = f"{number(lower, shown.decimals)} to {number(upper, shown.decimals)}"
        made = row["prediction_timestamp"]
        is_old = False
        if value is not None and made is not None and now is not None:
            is_old = (now - made).total_seconds() > STALE_S
        self._value.classes(add="muted" if is_old else "", remove="" if is_old else "muted")
        set_text(self._interval, f"{interval}; {age(made, now)} old" if is_old else interval)
        actual = None if target.signal is None else row[target.signal]
        pairs = [("actual", shown.no_truth if actual is None else number(actual, shown.decimals, shown.symbol))]
        if target.is_forecast:
            pairs.append(("due", short_timestamp(row[f"{target.name}_due"], now)))
        else:
            pairs.append(("predicted at", short_timestamp(made, now)))
        self._facts.set_content(facts_html(pairs))

    def draw(self, readings: Sequence[StoreRow], predictions: Sequence[StoreRow]) -> None:
        """Redraw the chart from a history."""
        lines = TargetLines()
        if (signal := self._target.signal) is not None:
            lines = TargetLines(
                actual=[_point(row, signal) for row in readings], reading_range=_reading_range(readings, signal)
            )
        for row in predictions:
            self._add_prediction(lines, row, self._target.name)
        self._chart.options.clear()
        self._chart.options.update(self._options(lines))
        charts.paint(self._chart, charts.TARGET_COLOURS)
        self._band.set_visibility(lines.has_interval)

    def append(self, row: StoreRow, hours: float, *, is_slow: bool) -> None:
        """Append the newest values to the chart, which covers `hours`, if it is slow or not as said."""
        if self.is_slow != is_slow:
            return
        signal = self._target.signal
        lines = TargetLines(actual=[] if signal is None else [_point(row, signal)])
        self._add_prediction(lines, row, self._target.predicted_column)
        charts.append(self._chart, lines.by_id(), hours * _HOUR_MS)

    def _options(self, lines: TargetLines) -> dict[str, Any]:
        return charts.target_chart(lines, self._target.shown.decimals, self._target.shown.axis_span)

    def _add_prediction(self, lines: TargetLines, row: StoreRow, column: str) -> None:
        name = self._target.name
        at, value = row[f"{name}_due" if self._target.is_forecast else "time"], row[column]
        if at is None or value is None:
            return
        at_ms, lower, upper = milliseconds(at), row[f"{name}_lower"], row[f"{name}_upper"]
        lines.predicted.append([at_ms, value])
        lines.lower.append([at_ms, lower])
        lines.width.append([at_ms, None if lower is None or upper is None else upper - lower])


def _point(row: StoreRow, column: str) -> list[float | None]:
    if column == "power":
        return [milliseconds(row["time"]), power_kw(row)]
    return [milliseconds(row["time"]), row[column]]


def _reading_range(rows: Sequence[StoreRow], column: str) -> ReadingRange:
    lowest, highest = f"{column}_lowest", f"{column}_highest"
    if column not in RANGE_COLUMNS:
        return ReadingRange()
    known = [row for row in rows if row[lowest] is not None]
    return ReadingRange([_point(row, lowest) for row in known], [_point(row, highest) for row in known])


def _tiles(row: StoreRow, now: datetime | None) -> dict[str, str]:
    return {
        "State of charge": number(row["soc"], 1, "%"),
        "Voltage": number(row["voltage"], 1, "V"),
        "Current": number(row["current"], 1, "A"),
        "Power": number(power_kw(row), 1, "kW"),
        "Hottest probe": number(row["temperature"], 1, "°C"),
        "Ambient": number(row["ambient_temperature"], 1, "°C"),
        "Cycles": number(row["charge_cycles"], 1),
        "Speed": number(row["speed_kmh"], 0, "km/h"),
        "Last seen": "–" if row["created_at"] is None else f"{age(row['created_at'], now)} ago",
    }


def _data_sheet(row: StoreRow) -> list[tuple[str, str]]:
    """Names and values of what is known about the pack besides its readings."""
    in_series, in_parallel = series_count(row), row["cells_in_parallel"]
    since = row["in_service_since"]
    pairs = [
        ("model", row["model"]),
        ("fleet", row["fleet"]),
        ("chemistry", row["chemistry"]),
        ("nominal capacity", number(row["nominal_capacity_ah"], 0, "Ah")),
        ("nominal voltage", number(row["nominal_voltage"], 0, "V")),
        (
            "cells",
            f"{in_series} in series" + (f", {in_parallel:.0f} in parallel" if in_parallel else "")
            if in_series
            else None,
        ),
        ("in service since", f"{since:%Y-%m-%d}" if since else None),
        ("odometer", number(row["odometer_km"], 0, "km")),
    ]
    return [(name, value) for name, value in pairs if value and value != DASH]


def _description(series: HistorySeries, until: datetime) -> str:
    method = {
        "every row": "all readings",
        "mean": f"means over {series.interval_s or 0:g} s, minimum to maximum in grey",
        "mean of hourly means": f"means over {(series.interval_s or 0) / 3600:g} h, without minimum and maximum",
        "newest in each interval": f"one reading per {series.interval_s or 0:g} s",
    }[series.method]
    return f"{len(series.rows)} points, {method}; until {timestamp(until)} UTC, event time."
