"""Tests of the live run's output: table on a terminal, lines elsewhere, and the final summary."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pandas as pd
import pytest
from rich.console import Console

from simulator.live_twin import LiveTwin
from simulator.run_statistics import RunStatistics, Summary
from simulator.service_client import BatteryPredictions
from simulator.terminal import LineView, TableView, print_summary, view_for

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class IdleBattery:
    """Battery with an id only."""

    battery_id = "EV-1"
    last_time = NOW

    def history(self) -> pd.DataFrame:
        return pd.DataFrame()

    def batteries_row(self) -> pd.DataFrame:
        return pd.DataFrame([{"battery_id": "EV-1"}])

    def read(self, time: datetime) -> dict[str, object]:
        return {}

    def save_state(self) -> bytes:
        return b""

    def restore_state(self, saved: bytes) -> bool:
        return True


def twin() -> LiveTwin:
    made = LiveTwin.of(IdleBattery())
    made.reading = {"soc": 12.0, "voltage": 351.25, "current": -40.0, "temperature": 25.5}
    made.predictions = BatteryPredictions(
        {"soh": {"value": 93.4}, "rul": {"value": None}, "failure_probability": {"value": 0.021}}
    )
    return made


def run_statistics() -> RunStatistics:
    counted = RunStatistics(ticks=10, produced=10, last_time=NOW, first_time=NOW)
    for position in range(10):
        counted.count_spooled(position, 0, NOW)
        counted.count_predicted(position, 1)
    return counted


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=160, color_system=None)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def test_output_on_a_terminal_is_a_table() -> None:
    screen = console(terminal=True)
    view = view_for(screen)
    assert isinstance(view, TableView)
    view.history("EV-1", 5, 10)
    view.tick([twin()], run_statistics())
    view.close()
    view.close()
    shown = text(screen)
    for part in ("EV-1", "12.0", "351.2", "-40.0", "93.4", "0.021", "CRITICAL", "10 predictions", "p50 0.0 ms"):
        assert part in shown, part


def test_output_elsewhere_is_a_line_every_few_seconds() -> None:
    screen = console(terminal=False)
    view = view_for(screen)
    assert isinstance(view, LineView)
    view.history("EV-1", 5, 10)
    view.history("EV-1", 10, 10)
    for _ in range(20):
        view.tick([twin()], run_statistics())
    view.close()
    assert len(text(screen).splitlines()) == 2


COMPLETE = {
    "stored": 10,
    "waiting": {"mqtt": 0},
    "quarantined": {"mqtt": 0},
    "unstored": 0,
    "acknowledged": {"mqtt": 20},
}


@pytest.mark.parametrize(
    ("changes", "loss"),
    [
        ({}, None),
        ({"stored": 9}, "1 readings are neither in the store nor in the spool"),
        ({"stored": 9, "unstored": 1}, None),
        ({"quarantined": {"mqtt": 3}}, "3 rows were refused by mqtt"),
        (
            {"statistics": RunStatistics(produced=10, predictions=1, refused=4)},
            "4 readings were refused: the spool was full",
        ),
    ],
)
def test_summary_lists_losses(changes: dict[str, object], loss: str | None) -> None:
    summary = Summary(**({"statistics": run_statistics()} | COMPLETE | changes))  # type: ignore[arg-type]
    assert summary.lost == ([] if loss is None else [loss])
    screen = console(terminal=False)
    print_summary(screen, summary)
    assert ("nothing was lost" if loss is None else f"LOST: {loss}") in text(screen)


@pytest.mark.parametrize(
    ("changes", "waits"),
    [
        ({}, None),
        ({"waiting": {"mqtt": 3}}, "3 readings wait for mqtt"),
        ({"stored": None}, "the telemetry store was unavailable: its readings were not counted"),
        ({"statistics": RunStatistics(produced=10)}, "no prediction was received"),
        ({"statistics": RunStatistics(produced=10, predicts=False)}, None),
    ],
)
def test_summary_lists_unfinished_deliveries(changes: dict[str, object], waits: str | None) -> None:
    summary = Summary(**({"statistics": run_statistics()} | COMPLETE | changes))  # type: ignore[arg-type]
    assert summary.lost == []
    assert summary.unfinished == ([] if waits is None else [waits])
    screen = console(terminal=False)
    print_summary(screen, summary)
    assert ("NOT FINISHED" in text(screen)) == (waits is not None)
    assert waits is None or waits in text(screen)


def test_line_shows_current_errors() -> None:
    screen = console(terminal=False)
    counted = run_statistics()
    counted.count_tick({"mqtt": "the broker is gone"})
    counted.count_refused(3, "the spool is full")
    LineView(screen).tick([twin()], counted)
    for part in ("mqtt: the broker is gone", "3 READINGS REFUSED", "1 errors"):
        assert part in text(screen), part
