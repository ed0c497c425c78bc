"""The live run on the terminal: a table that renews itself on a tty, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol, cast

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from simulator.live_twin import LiveTwin
from simulator.run_statistics import RunStatistics, Summary
from simulator.service_client import ANSWER_FIELDS
from telemetry.health import battery_health

_STATUS_STYLE = {"NORMAL": "green", "WARNING": "yellow", "CRITICAL": "bold red"}
_LINE_EVERY_S = 5.0
_NONE = "–"
_COLUMNS = (
    "battery",
    "SoC %",
    "voltage V",
    "current A",
    "temp °C",
    "+5 min °C",
    "SoH %",
    "RUL cycles",
    "failure",
    "status",
)


class View(Protocol):
    """What a live run shows itself on."""

    def history(self, battery_id: str, posted: int, total: int) -> None:
        """`posted` of the `total` readings of a battery's past are folded."""
        ...

    def tick(self, twins: Sequence[LiveTwin], tally: RunStatistics) -> None:
        """All batteries have a new reading."""
        ...

    def say(self, sentence: str) -> None:
        """Something that a person should know."""
        ...

    def close(self) -> None:
        """Give the terminal back."""
        ...


def view_for(console: Console) -> View:
    """The view that suits where the output goes."""
    return TableView(console) if console.is_terminal else LineView(console)


class TableView:
    """Progress bars for the past, then a live table."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._live: Live | None = None

    def history(self, battery_id: str, posted: int, total: int) -> None:
        """Move the bar of a battery."""
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._progress.start()
        if battery_id not in self._bars:
            self._bars[battery_id] = self._progress.add_task(f"folding the past of {battery_id}", total=total)
        self._progress.update(self._bars[battery_id], completed=posted)

    def tick(self, twins: Sequence[LiveTwin], tally: RunStatistics) -> None:
        """Renew the table; rich draws it at its own pace."""
        self._stop_progress()
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=4)
            self._live.start()
        self._live.update(Group(_table(twins), _footer(tally)))

    def say(self, sentence: str) -> None:
        """Above the table."""
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the last table standing."""
        self._stop_progress()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _stop_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class LineView:
    """One line for each battery's past, then one every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_line = 0.0

    def history(self, battery_id: str, posted: int, total: int) -> None:
        """Say when a battery's past is folded."""
        if posted >= total:
            self._print(f"{battery_id}: past of {total:,} readings folded")

    def tick(self, twins: Sequence[LiveTwin], tally: RunStatistics) -> None:
        """Say how it goes, now and then."""
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + _LINE_EVERY_S
            self._print(_footer(tally).plain)

    def say(self, sentence: str) -> None:
        """A line."""
        self._print(sentence)

    def close(self) -> None:
        """Nothing to give back."""

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_summary(console: Console, summary: Summary) -> None:
    """What was measured, and what was lost."""
    table = Table(title="Live run", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")
    for label, value in summary.lines():
        table.add_row(label, value)
    console.print(table)
    for heading, sentences in (("LOST", summary.lost), ("NOT FINISHED", summary.unfinished)):
        if sentences:
            console.print(Text(f"{heading}: {'; '.join(sentences)}", "bold red"))
    if any(summary.waiting.values()):
        console.print("What waits is in the spool: the next run delivers it.")
    if not summary.lost:
        console.print(Text("nothing was lost", "green"))


def _table(twins: Sequence[LiveTwin]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in ("battery", "status") else "right", no_wrap=True)
    for twin in twins:
        reading = twin.reading or {}
        predicted = {
            target: None if twin.answer is None else twin.answer.value(target) for target in ANSWER_FIELDS.values()
        }
        health = battery_health(
            _number(reading.get("soc")),
            _number(reading.get("soh")),
            _number(reading.get("temperature")),
            predicted["failure"],
        )
        table.add_row(
            twin.battery.battery_id,
            _text(reading.get("soc"), 1),
            _text(reading.get("voltage"), 1),
            _text(reading.get("current"), 1),
            _text(reading.get("temperature"), 1),
            _text(predicted["temperature"], 1),
            _text(predicted["soh"], 1),
            _text(predicted["rul"], 0),
            _text(predicted["failure"], 3),
            Text(health, _STATUS_STYLE[health]),
        )
    return table


def _footer(tally: RunStatistics) -> Text:
    event_time = _NONE if tally.last_time is None else f"{tally.last_time:%Y-%m-%d %H:%M:%S} UTC"
    text = Text(f"{event_time} · {tally.produced:,} readings · ")
    if tally.predicts:
        text.append(f"{tally.predictions:,} predictions · {tally.latency} · ")
    text.append(f"{tally.missed_ticks} missed ticks", "red" if tally.missed_ticks else "")
    text.append(" · ")
    text.append(f"{tally.errors} errors", "red" if tally.errors else "")
    if tally.last_error:
        text.append(f" (last: {tally.last_error})", "red")
    if tally.refused:
        text.append(f" · {tally.refused:,} READINGS REFUSED", "bold red")
    for name, trouble in tally.troubles.items():
        text.append(f" · {name}: {trouble}", "red")
    return text


def _number(value: object) -> float | None:
    return None if value is None or value != value else float(cast(float, value))


def _text(value: object, digits: int) -> str:
    number = _number(value)
    return _NONE if number is None else f"{number:.{digits}f}"
