"""One battery: what it reports, what is predicted of it, its cells, its alerts and its sessions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import quote

from nicegui import ui

from console.connection_pool import StoreRow, StoreUnavailableError
from console.history import RANGE_COLUMNS, Series, Window
from console.live_updates import Snapshot
from console.pack_layout import count_of
from console.pages import charts
from console.pages.alert_list import AlertList
from console.pages.charts import Ends, Lines, milliseconds
from console.pages.components import (
    SILENT_S,
    age,
    button,
    clock,
    div,
    empty,
    facts_html,
    moment,
    number,
    panel,
    power_kw,
    press,
    set_text,
    status_of,
    table,
    text,
)
from console.pages.context import Context, Visitor
from console.pages.frame import frame
from console.pages.pack import PackView

_POINTS = 400
#: Readings closer than this part of what is shown are one point.
_STEPS = 7200
_RETRY_S = 10.0
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
    with frame(context, visitor, battery_id, f"/battery/{quote(battery_id, safe='')}"):
        row = context.live.snapshot.rows.get(battery_id)
        if row is not None:
            _Battery(context, visitor, row)
        else:
            _wait_for(context, battery_id)


def _wait_for(context: Context, battery_id: str) -> None:
    was_looked = context.live.snapshot.taken_at is not None
    what = "It is in no table of the store." if was_looked else "The store has not been looked at yet."
    with div("panel"):
        empty(f"No battery is called {battery_id}" if was_looked else "Looking …", what)
        ui.link("All batteries", "/")

    is_leaving = False

    def reload(snapshot: Snapshot) -> None:
        nonlocal is_leaving
        is_known = battery_id in snapshot.rows or (snapshot.taken_at is not None and not was_looked)
        if is_known and not is_leaving:  # asked again, a slow browser would begin again
            is_leaving = True
            ui.navigate.reload()

    context.live.changed.subscribe(lambda snapshot, _: reload(snapshot))


class _Battery:
    def __init__(self, context: Context, visitor: Visitor, row: StoreRow) -> None:
        self._context = context
        self._battery_id: str = row["battery_id"]
        self._hours = 1.0
        self._newest: datetime | None = None
        self._appended = 0
        self._sessions: Sequence[StoreRow] | None = None
        self._is_loaded = False
        self._loading_count = 0
        self._read_at = time.monotonic()
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
                    self._alerts = AlertList(context, visitor, battery_id=self._battery_id, most=10)
            with div("stack"):
                cells = count_of(row)
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
        chart = ui.echart(charts.line_chart([], Ends(), 1)).classes("chart").style("height:112px")
        charts.paint(chart, charts.LINE_COLOURS)
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
            card.show(row, now)

    async def _update(self, snapshot: Snapshot, changed: frozenset[str]) -> None:
        row = snapshot.rows.get(self._battery_id)
        if row is None:
            return
        self._show(row, snapshot.store_time)
        if self._battery_id in changed and row["time"] is not None:
            self._pack.show(row)
            if self._is_loaded:
                self._append(row)
        if self._loading_count == 0 and snapshot.problem is None and self._wants_past():
            await self._load()

    def _append(self, row: StoreRow) -> None:
        window = timedelta(hours=self._hours)
        if self._newest is not None and row["time"] - self._newest < window / _STEPS:
            return  # no pixel further
        self._newest = row["time"]
        self._appended += 1
        window_ms = window.total_seconds() * 1e3
        for card in self._cards:
            card.append(row, window_ms)
        for (column, _, _, _), chart in zip(_ELECTRICAL, self._electrical, strict=True):
            charts.append(chart, {charts.ACTUAL: [_point(row, column)]}, window_ms)

    def _wants_past(self) -> bool:
        """Whether it was not there yet, or has grown by so many points that it is better read anew, as means."""
        is_wanted = not self._is_loaded or self._appended >= _POINTS
        return is_wanted and time.monotonic() - self._read_at > _RETRY_S

    async def _look_back(self, hours: float) -> None:
        self._hours = hours
        for label, choice in self._spans.items():
            press(choice, _SPANS[label] == hours)
        await self._load()

    async def _load(self) -> None:
        self._loading_count += 1
        try:
            await self._read()
        finally:
            self._loading_count -= 1

    async def _read(self) -> None:
        self._read_at = time.monotonic()
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
        except StoreUnavailableError as error:
            set_text(self._loading, error.sentence)
            return
        if hours != self._hours:
            return  # another span was chosen meanwhile
        self._draw(readings, predictions)
        self._draw_cycles(cycles)
        set_text(self._loading, _said(readings, until))
        self._newest, self._appended, self._is_loaded = until, 0, True

    def _draw(self, readings: Series, predictions: Series) -> None:
        for card in self._cards:
            card.draw(readings.rows, predictions.rows)
        for (column, _, _, decimals), chart in zip(_ELECTRICAL, self._electrical, strict=True):
            points = [_point(row, column) for row in readings.rows]
            chart.options.clear()
            chart.options.update(charts.line_chart(points, _ends(readings.rows, column), decimals))
            charts.paint(chart, charts.LINE_COLOURS)

    def _draw_cycles(self, cycles: Sequence[StoreRow]) -> None:
        if cycles == self._sessions:
            return  # another span has the same, and a chart that goes as it comes is an error in the browser
        self._sessions = cycles
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

    def show(self, row: StoreRow, now: datetime | None) -> None:
        """The numbers, as of `now`, the store's clock."""
        card = self._card
        set_text(self._value, number(row[card.value], card.decimals, card.unit))
        lower, upper = row[f"{card.prefix}_lower"], row[f"{card.prefix}_upper"]
        if row[card.value] is None:
            said = "withheld or not predicted yet"
        elif lower is None or upper is None:
            said = "this model gives no interval"
        else:
            said = f"{number(lower, card.decimals)} to {number(upper, card.decimals)}"
        made = row["prediction_timestamp"]
        is_old = False
        if row[card.value] is not None and made is not None and now is not None:
            is_old = (now - made).total_seconds() > SILENT_S
        self._value.classes(add="muted" if is_old else "", remove="" if is_old else "muted")
        set_text(self._interval, f"{said}; {age(made, now)} old" if is_old else said)
        actual = None if card.actual is None else row[card.actual]
        pairs = [("actual now", card.until_then if actual is None else number(actual, card.decimals, card.unit))]
        if card.prefix == "temperature":
            pairs.append(("for", moment(row["temperature_due"], now)))
        else:
            pairs.append(("made", moment(made, now)))
        self._facts.set_content(facts_html(pairs))

    def draw(self, readings: Sequence[StoreRow], predictions: Sequence[StoreRow]) -> None:
        """The past."""
        card = self._card
        lines = Lines()
        if card.actual is not None:
            lines = Lines(actual=[_point(row, card.actual) for row in readings], ends=_ends(readings, card.actual))
        for row in predictions:
            at = row["temperature_due"] if card.prefix == "temperature" else row["time"]
            if at is not None and row[card.prefix] is not None:
                _extend(lines, at, row[card.prefix], row[f"{card.prefix}_lower"], row[f"{card.prefix}_upper"])
        self._chart.options.clear()
        self._chart.options.update(charts.target_chart(lines, card.decimals))
        charts.paint(self._chart, charts.TARGET_COLOURS)
        self._band.set_visibility(lines.has_interval)

    def append(self, row: StoreRow, window_ms: float) -> None:
        """The present."""
        card = self._card
        lines = Lines(actual=[] if card.actual is None else [_point(row, card.actual)])
        at = row["temperature_due"] if card.prefix == "temperature" else row["time"]
        if at is not None and row[card.value] is not None:
            _extend(lines, at, row[card.value], row[f"{card.prefix}_lower"], row[f"{card.prefix}_upper"])
        charts.append(self._chart, lines.by_id(), window_ms)


def _extend(lines: Lines, at: datetime, value: float, lower: float | None, upper: float | None) -> None:
    at_ms = milliseconds(at)
    lines.predicted.append([at_ms, value])
    lines.lower.append([at_ms, lower])
    lines.width.append([at_ms, None if lower is None or upper is None else upper - lower])


def _point(row: StoreRow, column: str) -> list[float | None]:
    if column == "power":
        return [milliseconds(row["time"]), power_kw(row)]
    return [milliseconds(row["time"]), row[column]]


def _ends(rows: Sequence[StoreRow], column: str) -> Ends:
    lowest, highest = f"{column}_lowest", f"{column}_highest"
    if column not in RANGE_COLUMNS:
        return Ends()
    known = [row for row in rows if row[lowest] is not None]
    return Ends([_point(row, lowest) for row in known], [_point(row, highest) for row in known])


def _tiles(row: StoreRow, now: datetime | None) -> dict[str, str]:
    return {
        "Charge": number(row["soc"], 1, "%"),
        "Voltage": number(row["voltage"], 1, "V"),
        "Current": number(row["current"], 1, "A"),
        "Power": number(power_kw(row), 1, "kW"),
        "Hottest probe": number(row["temperature"], 1, "°C"),
        "Ambient": number(row["ambient_temperature"], 1, "°C"),
        "Cycles": number(row["charge_cycles"], 1),
        "Speed": number(row["speed_kmh"], 0, "km/h"),
        "Heard": "–" if row["created_at"] is None else f"{age(row['created_at'], now)} ago",
    }


def _said(series: Series, until: datetime) -> str:
    how = {
        "every row": "every reading",
        "mean": f"means over {series.interval_s or 0:g} s, in grey from the lowest reading to the highest",
        "mean of hourly means": f"means over {(series.interval_s or 0) / 3600:g} h, without the peaks within",
        "newest in each interval": f"one reading each {series.interval_s or 0:g} s, without what lies between",
    }[series.method]
    return f"{len(series.rows)} points, {how}; until {clock(until)} UTC, event time."
