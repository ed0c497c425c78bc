"""Delay of ten open fleet pages with a hundred live batteries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from telemetry.batch import Batch
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.console.test_browser import ARGUMENTS, CHROMIUM, console

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is absent")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is absent: apt-get install chromium"),
]

BATTERIES, CONSOLES, ROUNDS = 100, 10, 12
#: The state of charge encodes the time of a reading: it rises by 1 % per second and wraps around after a minute.
LOWEST_SOC, PERIOD_S = 35.0, 60.0
#: The state of charge shown on the page, and the clock of the browser, which is that of the writer.
SHOWN = """id => {
    const cell = document.querySelector(`.ag-center-cols-container [row-id="${id}"] [col-id="soc"]`);
    return [parseFloat(cell.innerText), Date.now() / 1000];
}"""


def batch_at(time: datetime) -> Batch:
    """A reading and the predictions of each battery."""
    seconds = time.timestamp()
    soc = LOWEST_SOC + seconds % PERIOD_S
    readings, predictions = [], []
    for number in range(BATTERIES):
        name = f"EV-{number:04d}"
        temperature = 22.0 + 6.0 * np.sin(seconds / 40.0 + number)
        readings.append({"battery_id": name, "time": time, "voltage": 355.0, "current": 20.0, "soh": 95.0, "soc": soc,
                         "temperature": float(temperature)})  # fmt: skip
        values = {"soh": 95.2, "temperature": float(temperature), "rul": 800.0, "failure": 0.02}
        predictions += [
            {"battery_id": name, "time": time, "target": target, "value": value, "role": "champion",
             "due": time + timedelta(seconds=300) if target == "temperature" else None,
             "model_name": f"battery-{target}", "model_version": "1", "predicted_at": time}
            for target, value in values.items()
        ]  # fmt: skip
    return Batch(readings=readings, predictions=predictions)


@contextmanager
def live_batteries(dsn: str) -> Iterator[list[float]]:
    """Write a reading of each battery twice a second; yields the durations of the writes, s."""
    store, stop, taken = PostgresStore(dsn), threading.Event(), list[float]()
    store.write(Batch(batteries=[{"battery_id": f"EV-{number:04d}"} for number in range(BATTERIES)]))

    def write() -> None:
        due = time.monotonic()
        while not stop.wait(max(due - time.monotonic(), 0.0)):
            due += 0.5
            began = time.monotonic()
            store.write(batch_at(datetime.now(UTC)))
            taken.append(time.monotonic() - began)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield taken
    finally:
        stop.set()
        thread.join(30)
        store.close()


def test_ten_open_pages_are_at_most_two_seconds_behind(
    postgres_server: str, new_database: Callable[[str], str], tmp_path: Path
) -> None:
    dsn = new_database(postgres_server)
    migrate(dsn)
    with ExitStack() as stack:
        taken = stack.enter_context(live_batteries(dsn))
        url = stack.enter_context(console(dsn, tmp_path, "/health"))
        started = stack.enter_context(playwright.sync_playwright())
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        stack.callback(browser.close)
        pages: list[Any] = [browser.new_context(viewport={"width": 1280, "height": 800}) for _ in range(CONSOLES)]
        pages = [context.new_page() for context in pages]
        for page in pages:
            page.goto(url)
            page.wait_for_selector('.ag-center-cols-container [row-id="EV-0000"] [col-id="soc"]')
        pages[0].wait_for_timeout(3000)
        delays = []
        for _ in range(ROUNDS):
            for page in pages:
                shown, now = page.evaluate(SHOWN, "EV-0000")
                # Plus half of the last digit that is shown.
                delays.append((now - (shown - LOWEST_SOC) + 0.05) % PERIOD_S - 0.05)
            pages[0].wait_for_timeout(777)
    figures = np.percentile(delays, [50, 95, 100])
    print({"delays, s (p50, p95, most)": figures.round(2).tolist(), "a write, s, at most": round(max(taken), 2)})
    assert figures[-1] <= 2.0
