"""One battery: what it reports, what is predicted of it, its cells, its alerts and its sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from nicegui import ui

from monitoring.console.database import StoreAwayError, StoreRow
from monitoring.console.history import Series, Window
from monitoring.console.live import Snapshot
from monitoring.console.pages import charts
from monitoring.console.pages.alerts import AlertList
from monitoring.console.pages.charts import Lines, milliseconds
from monitoring.console.pages.context import Context, Visitor
from monitoring.console.pages.frame import frame
from monitoring.console.pages.pack import PackView
from monitoring.console.pages.parts import (
    age,
    button,
    clock,
    div,
    empty,
    facts_html,
    number,
    panel,
    press,
    set_text,
    status_of,
    table,
    text,
)

_POINTS = 400
_CYCLES = 60
_SPANS = {"1 h": 1.0, "6 h": 6.0, "24 h": 24.0, "7 d": 168.0, "30 d": 720.0}


@dataclass(frozen=True)
class Card:
    """How one target is shown.

    Attributes:
        prefix: of its columns in a snapshot (`<prefix>_lower`) and in a history (`<prefix>`).
        actual: column of a reading that holds the truth, None where there is none in a reading.
        value: column of a snapshot that holds the prediction.
    """

    title: str
    prefix: str
    value: str
    unit: str
    decimals: int
    actual: str | None
    until_then: str


CARDS: tuple[Card, ...] = (
    Card("State of health", "soh", "soh_predicted", "%", 1, "soh", "not reported by this pack"),
    Card("Temperature ahead", "temperature", "temperature_predicted", "°C", 1, "temperature", "not reported"),
    Card("Remaining life", "rul", "rul_prediction", "cycles", 0, None, "known at its end of life"),
    Card("Failure probability", "failure", "failure_probability", "", 3, None, "known at its horizon"),
)
#: Column, title, unit, decimals, share of the stored unit.
_ELECTRICAL = (("voltage", "Voltage", "V", 1), ("current", "Current", "A", 1), ("power", "Power", "kW", 1))


def battery_page(context: Context, visitor: Visitor, battery_id: str) -> None:
    """Draw it."""
    with frame(context, visitor, battery_id, "/battery"):
        row = context.live.snapshot.rows.get(battery_id)
        if row is not None:
            _Battery(context, visitor, row)
        else:
            _wait_for(context, battery_id)


def _wait_for(context: Context, battery_id: str) -> None:
    is_there = context.live.snapshot.taken_at is not None
    what = "It is in no table of the store." if is_there else "The store has not been looked at yet."
    with div("panel"):
        empty(f"No battery is called {battery_id}" if is_there else "Looking …", what)
        ui.link("All batteries", "/")

    def reload(snapshot: Snapshot) -> None:
        if battery_id in snapshot.rows:
            ui.navigate.reload()

    context.live.changed.subscribe(lambda snapshot, _: reload(snapshot))


class _Battery:
    def __init__(self, context: Context, visitor: Visitor, row: StoreRow) -> None:
        self._context = context
        self._battery_id: str = row["battery_id"]
        self._hours = 1.0
        self._newest: datetime | None = None
        self._loaded = False
        self._status = ""
        self._head(row)
        with div("tiles"):
            self._tiles = {name: self._tile(name) for name in _tiles(row, None)}
        self._loading = text("Loading the past …", "muted small").props('role="status"')
        with div("quad"):
            self._cards = [_TargetCard(card) for card in CARDS]
        with div("half"):
            with div("stack"):
                with panel("Voltage, current and power", "positive while discharging"):
                    self._electrical = [self._line(title, unit) for _, title, unit, _ in _ELECTRICAL]
                with panel("Alerts of this battery"):
                    self._alerts = AlertList(context, visitor, battery_id=self._battery_id, cleared=10)
            with div("stack"):
                cells = int(row["cells_in_series"]) if row["cells_in_series"] else None
                with panel("Pack", f"{cells} groups of cells in series" if cells else "number of cells not known"):
                    self._pack = PackView(row)
                with panel("Sessions", "charge moved and resistance over the battery's age"):
                    self._cycles = div()
        self._show(row, context.live.snapshot.store_time)
        context.live.changed.subscribe(self._update)
        ui.timer(0.05, self._load, once=True)

    def _head(self, row: StoreRow) -> None:
        with div("row-wrap"):
            text(self._battery_id, "title", "h1")
            self._chip = text("", "chip", "span")
            known = [
                row["model"], row["chemistry"], row["fleet"],
                number(row["nominal_capacity_ah"], 0, "Ah") if row["nominal_capacity_ah"] else None,
                f"in service since {row['in_service_since']:%Y-%m}" if row["in_service_since"] else None,
            ]  # fmt: skip
            text(" · ".join(item for item in known if item) or "nothing is known of its make", "muted")
            div("grow")
            with div("seg").props('role="group" aria-label="how far back"'):
                self._spans = {
                    label: button(label, partial(self._look_back, hours), pressed=hours == self._hours, classes="")
                    for label, hours in _SPANS.items()
                }

    def _tile(self, name: str) -> ui.html:
        with div("tile"):
            text(name, "k")
            return text("–", "v")

    def _line(self, title: str, unit: str) -> ui.echart:
        text(f"{title}, {unit}", "muted small")
        chart = ui.echart(charts.line_chart(charts.ACTUAL, [], 1)).classes("chart").style("height:112px")
        charts.paint(chart, {charts.ACTUAL: {"line": "ink"}})
        return chart

    def _show(self, row: StoreRow, now: datetime | None) -> None:
        status = status_of(row, now)
        if status != self._status:
            self._chip.classes(remove=f"s-{self._status}", add=f"s-{status}")
            self._status = status
            set_text(self._chip, status)
        for name, value in _tiles(row, now).items():
            set_text(self._tiles[name], value)
        for card in self._cards:
            card.show(row)

    def _update(self, snapshot: Snapshot, changed: frozenset[str]) -> None:
        row = snapshot.rows.get(self._battery_id)
        if row is None:
            return
        self._show(row, snapshot.store_time)
        if self._battery_id not in changed or row["time"] is None:
            return
        self._pack.show(row)
        if self._loaded and row["time"] != self._newest:
            self._newest = row["time"]
            window_ms = self._hours * 3.6e6
            for card in self._cards:
                card.append(row, window_ms)
            for (column, _, _, _), chart in zip(_ELECTRICAL, self._electrical, strict=True):
                charts.append(chart, {charts.ACTUAL: [_point(row, column)]}, window_ms)

    async def _look_back(self, hours: float) -> None:
        self._hours = hours
        for label, choice in self._spans.items():
            press(choice, _SPANS[label] == hours)
        await self._load()

    async def _load(self) -> None:
        hours = self._hours
        row = self._context.live.snapshot.rows[self._battery_id]
        until = row["time"] or datetime.now(UTC)
        window = Window(self._battery_id, until - timedelta(hours=hours), until, _POINTS)
        histories, queries = self._context.histories, self._context.queries
        try:
            readings, predictions, cycles = await asyncio.gather(
                asyncio.to_thread(histories.readings, window),
                asyncio.to_thread(histories.predictions, window),
                asyncio.to_thread(queries.cycles, self._battery_id, _CYCLES),
            )
        except StoreAwayError as error:
            set_text(self._loading, error.sentence)
            return
        if hours != self._hours:
            return  # another span was chosen meanwhile
        self._draw(readings, predictions)
        self._draw_cycles(cycles)
        set_text(self._loading, _said(readings, until))
        self._newest, self._loaded = until, True

    def _draw(self, readings: Series, predictions: Series) -> None:
        for card in self._cards:
            card.draw(readings.rows, predictions.rows)
        for (column, _, _, decimals), chart in zip(_ELECTRICAL, self._electrical, strict=True):
            points = [_point(row, column) for row in readings.rows]
            chart.options.clear()
            chart.options.update(charts.line_chart(charts.ACTUAL, points, decimals))
            charts.paint(chart, {charts.ACTUAL: {"line": "ink"}})

    def _draw_cycles(self, cycles: Sequence[StoreRow]) -> None:
        self._cycles.clear()
        with self._cycles:
            if not cycles:
                empty("No session has ended yet", "A row is written when the battery stops charging or discharging.")
                return
            chart = ui.echart(charts.cycles_chart(cycles)).classes("chart")
            charts.paint(chart, {"throughput": {"line": "muted"}, "resistance": {"line": "predicted"}})
            table(
                ("Session", "Ended", "Cycles", "Ah", "mΩ", "Rise °C"),
                [
                    (
                        cycle["kind"], clock(cycle["end_time"]), number(cycle["cycle_index"]),
                        number(cycle["throughput_ah"]),
                        number(None if cycle["resistance_ohm"] is None else cycle["resistance_ohm"] * 1e3, 2),
                        number(cycle["temperature_rise_c"]),
                    )
                    for cycle in cycles[:8]
                ],
                numeric=(2, 3, 4, 5),
            )  # fmt: skip


class _TargetCard:
    """One target: its newest prediction large, what is true beside it, and both over time."""

    def __init__(self, card: Card) -> None:
        self._card = card
        with panel(card.title):
            with div("row-wrap").style("align-items:baseline;gap:2px 10px"):
                self._value = text("–", "big")
                self._interval = text("", "muted small")
            self._facts = ui.html("", tag="dl", sanitize=False).classes("facts")
            self._chart = ui.echart(charts.target_chart(Lines(), card.decimals)).classes("chart")
            charts.paint(self._chart, charts.TARGET_COLOURS)
            with div("legend"):
                if card.actual is not None:
                    text("actual", tag="span")
                text("predicted", "p", "span")
                self._band = text("interval", "b", "span")
            self._band.set_visibility(False)

    def show(self, row: StoreRow) -> None:
        """The numbers."""
        card = self._card
        set_text(self._value, number(row[card.value], card.decimals, card.unit))
        lower, upper = row[f"{card.prefix}_lower"], row[f"{card.prefix}_upper"]
        if row[card.value] is None:
            said = "withheld or not predicted yet"
        elif lower is None or upper is None:
            said = "this model gives no interval"
        else:
            said = f"{number(lower, card.decimals)} to {number(upper, card.decimals)}"
        set_text(self._interval, said)
        actual = None if card.actual is None else row[card.actual]
        pairs = [("actual now", card.until_then if actual is None else number(actual, card.decimals, card.unit))]
        if card.prefix == "temperature":
            due = row["temperature_due"]
            pairs.append(("for", "–" if due is None else f"{due:%H:%M:%S} UTC"))
        else:
            made = row["prediction_timestamp"]
            pairs.append(("made", "–" if made is None else f"{made:%H:%M:%S} UTC"))
        self._facts.set_content(facts_html(pairs))

    def draw(self, readings: Sequence[StoreRow], predictions: Sequence[StoreRow]) -> None:
        """The past."""
        card = self._card
        lines = Lines(actual=[] if card.actual is None else [_point(row, card.actual) for row in readings])
        for row in predictions:
            time = row["temperature_due"] if card.prefix == "temperature" else row["time"]
            if time is not None and row[card.prefix] is not None:
                _extend(lines, time, row[card.prefix], row[f"{card.prefix}_lower"], row[f"{card.prefix}_upper"])
        self._chart.options.clear()
        self._chart.options.update(charts.target_chart(lines, card.decimals))
        charts.paint(self._chart, charts.TARGET_COLOURS)
        self._band.set_visibility(lines.has_interval)

    def append(self, row: StoreRow, window_ms: float) -> None:
        """The present."""
        card = self._card
        lines = Lines(actual=[] if card.actual is None else [_point(row, card.actual)])
        time = row["temperature_due"] if card.prefix == "temperature" else row["time"]
        if time is not None and row[card.value] is not None:
            _extend(lines, time, row[card.value], row[f"{card.prefix}_lower"], row[f"{card.prefix}_upper"])
        charts.append(self._chart, lines.by_id(), window_ms)


def _extend(lines: Lines, time: datetime, value: float, lower: float | None, upper: float | None) -> None:
    moment = milliseconds(time)
    lines.predicted.append([moment, value])
    lines.lower.append([moment, lower])
    lines.width.append([moment, None if lower is None or upper is None else upper - lower])


def _point(row: StoreRow, column: str) -> list[float | None]:
    if column == "power":
        known = row["voltage"] is not None and row["current"] is not None
        return [milliseconds(row["time"]), row["voltage"] * row["current"] / 1e3 if known else None]
    return [milliseconds(row["time"]), row[column]]


def _tiles(row: StoreRow, now: datetime | None) -> dict[str, str]:
    power = None if row["voltage"] is None else row["voltage"] * row["current"] / 1e3
    return {
        "Charge": number(row["soc"], 1, "%"),
        "Voltage": number(row["voltage"], 1, "V"),
        "Current": number(row["current"], 1, "A"),
        "Power": number(power, 1, "kW"),
        "Hottest probe": number(row["temperature"], 1, "°C"),
        "Ambient": number(row["ambient_temperature"], 1, "°C"),
        "Cycles": number(row["charge_cycles"], 1),
        "Speed": number(row["speed_kmh"], 0, "km/h"),
        "Heard": "–" if row["created_at"] is None else f"{age(row['created_at'], now)} ago",
    }


def _said(series: Series, until: datetime) -> str:
    how = {
        "every row": "every reading",
        "mean": f"means over {series.interval_s or 0:g} s",
        "mean of hourly means": f"means over {(series.interval_s or 0) / 3600:g} h",
        "newest in each interval": f"one reading each {series.interval_s or 0:g} s",
    }[series.method]
    return f"{len(series.rows)} points, {how}; until {clock(until)} UTC, event time."
