"""What a live run shows: a table on a terminal, lines elsewhere, and a summary that names every loss."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pandas as pd
import pytest
from rich.console import Console

from simulator.client import Answer, Prediction
from simulator.live_loop import LiveTwin
from simulator.tally import Summary, Tally
from simulator.terminal import LineView, TableView, print_summary, view_for

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Battery:
    """Just an identity."""

    battery_id = "EV-1"
    last_time = NOW

    def history(self) -> pd.DataFrame:
        return pd.DataFrame()

    def batteries_row(self) -> pd.DataFrame:
        return pd.DataFrame([{"battery_id": "EV-1"}])

    def read(self, time: datetime) -> dict[str, object]:
        return {}


def prediction(value: float | None) -> Prediction:
    return Prediction(value, None, None, None, None, None)


def twin() -> LiveTwin:
    made = LiveTwin.of(Battery())
    made.reading = {"soc": 12.0, "voltage": 351.25, "current": -40.0, "temperature": 25.5}
    made.answer = Answer(NOW, "", "", {"soh": prediction(93.4), "rul": prediction(None), "failure": prediction(0.021)})
    return made


def tally() -> Tally:
    counted = Tally(ticks=10, produced=10, last_time=NOW, first_time=NOW)
    for _ in range(10):
        counted.predicted(0.005)
    return counted


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=160, color_system=None)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def test_a_terminal_gets_a_table() -> None:
    screen = console(terminal=True)
    view = view_for(screen)
    assert isinstance(view, TableView)
    view.history("EV-1", 5, 10)
    view.tick([twin()], tally())
    view.close()
    view.close()
    shown = text(screen)
    for part in ("EV-1", "12.0", "351.2", "-40.0", "93.4", "0.021", "CRITICAL", "10 predictions", "p50 5.0 ms"):
        assert part in shown, part


def test_elsewhere_a_line_now_and_then() -> None:
    screen = console(terminal=False)
    view = view_for(screen)
    assert isinstance(view, LineView)
    view.history("EV-1", 5, 10)
    view.history("EV-1", 10, 10)
    for _ in range(20):
        view.tick([twin()], tally())
    view.close()
    assert len(text(screen).splitlines()) == 2


@pytest.mark.parametrize(
    ("changes", "loss"),
    [
        ({}, None),
        ({"stored": 9}, "1 readings are not in the store"),
        ({"stored": None}, "the store could not be asked what it holds"),
        ({"unpredicted": 2}, "2 readings were never predicted from"),
        ({"undelivered": {"mqtt": 3}}, "3 readings did not reach mqtt"),
        ({"tally": Tally(produced=10)}, "no prediction came"),
    ],
)
def test_the_summary_names_every_loss(changes: dict[str, object], loss: str | None) -> None:
    whole = {"tally": tally(), "stored": 10, "unpredicted": 0, "acknowledged": {"mqtt": 20}, "undelivered": {"mqtt": 0}}
    summary = Summary(**(whole | changes))  # type: ignore[arg-type]
    assert summary.lost == ([] if loss is None else [loss])
    screen = console(terminal=False)
    print_summary(screen, summary)
    assert ("nothing was lost" if loss is None else f"LOST: {loss}") in text(screen)
