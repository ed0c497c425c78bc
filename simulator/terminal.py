"""Terminal output of a live run: a live table on a tty, a line every few seconds elsewhere, and the summary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol, cast

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from features.targets import TARGETS
from simulator.live_twin import LiveTwin
from simulator.run_statistics import RunStatistics, Summary
from telemetry.health import battery_health

_STATUS_STYLE = {"NORMAL": "green", "WARNING": "yellow", "CRITICAL": "bold red"}
_LINE_EVERY_S = 5.0
_NO_VALUE = "–"
_COLUMNS = (
    "battery",
    "SoC %",
    "voltage V",
    "current A",
    "temp °C",
    *(f"{target.shown.short} {target.shown.symbol}".strip() for target in TARGETS.values()),
    "status",
)


class View(Protocol):
    """Output of a live run."""

    def history(self, battery_id: str, posted: int, total: int) -> None:
        """Show that `posted` of the `total` readings of a battery's history have been backfilled."""
        ...

    def tick(self, twins: Sequence[LiveTwin], statistics: RunStatistics) -> None:
        """Show the new readings of all batteries."""
        ...

    def notify(self, sentence: str) -> None:
        """Show a message."""
        ...

    def close(self) -> None:
        """Restore the terminal."""
        ...


def view_for(console: Console) -> View:
    """Table on a terminal, lines elsewhere."""
    return TableView(console) if console.is_terminal else LineView(console)


class TableView:
    """Progress bars for the backfill, then a live table."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._live: Live | None = None

    def history(self, battery_id: str, posted: int, total: int) -> None:
        """Advance the progress bar of a battery."""
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
            self._bars[battery_id] = self._progress.add_task(f"backfilling the history of {battery_id}", total=total)
        self._progress.update(self._bars[battery_id], completed=posted)

    def tick(self, twins: Sequence[LiveTwin], statistics: RunStatistics) -> None:
        """Update the table; rich refreshes the screen four times a second."""
        self._stop_progress()
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=4)
            self._live.start()
        self._live.update(Group(_table(twins), _footer(statistics)))

    def notify(self, sentence: str) -> None:
        """Print a message above the table."""
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Stop updating; the last table stays visible."""
        self._stop_progress()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _stop_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class LineView:
    """One line for each battery's backfill, then one every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_line = 0.0

    def history(self, battery_id: str, posted: int, total: int) -> None:
        """Print a line when a battery's backfill is complete."""
        if posted >= total:
            self._print(f"{battery_id}: history of {total:,} readings backfilled")

    def tick(self, twins: Sequence[LiveTwin], statistics: RunStatistics) -> None:
        """Print the run statistics every few seconds."""
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + _LINE_EVERY_S
            self._print(_footer(statistics).plain)

    def notify(self, sentence: str) -> None:
        """Print a message."""
        self._print(sentence)

    def close(self) -> None:
        """Nothing to restore."""

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_summary(console: Console, summary: Summary) -> None:
    """Print the statistics of the run, losses and unfinished deliveries."""
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
        console.print("Waiting readings are in the spool: the next run delivers them.")
    if not summary.lost:
        console.print(Text("nothing was lost", "green"))


def _table(twins: Sequence[LiveTwin]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in ("battery", "status") else "right", no_wrap=True)
    for twin in twins:
        reading = twin.reading or {}
        predicted = {target: None if twin.predictions is None else twin.predictions.value(target) for target in TARGETS}
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
            *(_text(predicted[target.name], target.shown.decimals) for target in TARGETS.values()),
            Text(health, _STATUS_STYLE[health]),
        )
    return table


def _footer(statistics: RunStatistics) -> Text:
    event_time = _NO_VALUE if statistics.last_time is None else f"{statistics.last_time:%Y-%m-%d %H:%M:%S} UTC"
    text = Text(f"{event_time} · {statistics.produced:,} readings · ")
    if statistics.predicts:
        text.append(f"{statistics.predictions:,} predictions · {statistics.latency} · ")
    text.append(f"{statistics.missed_ticks} missed ticks", "red" if statistics.missed_ticks else "")
    text.append(" · ")
    text.append(f"{statistics.errors} errors", "red" if statistics.errors else "")
    if statistics.last_error:
        text.append(f" (last: {statistics.last_error})", "red")
    if statistics.refused:
        text.append(f" · {statistics.refused:,} READINGS REFUSED", "bold red")
    for consumer, error in statistics.current_errors.items():
        text.append(f" · {consumer}: {error}", "red")
    return text


def _number(value: object) -> float | None:
    return None if value is None or value != value else float(cast(float, value))


def _text(value: object, digits: int) -> str:
    number = _number(value)
    return _NO_VALUE if number is None else f"{number:.{digits}f}"
