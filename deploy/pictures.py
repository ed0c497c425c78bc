"""Take the pictures of the README from a run of `make run` with Chromium (`make pictures`).

    python -m deploy.pictures docs/images

Starts the twin in this folder, waits until predictions have been made for a minute, takes the pictures and stops it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from telemetry.command import exit_code
from telemetry.errors import TwinError

WIDTH, HEIGHT = 1440, 1000
CHROMIUM_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
#: Longest time until the first prediction, set-up excluded.
START_TIMEOUT_S = 900.0
#: Time between first prediction and pictures, and between opening a page and its picture.
LIVE_S, PAGE_S = 60.0, 8.0
_ADDRESS = re.compile(r"(?P<name>[\w ]+): (?P<url>http\S+)")


class Run:
    """A running `deploy.up`, whose output is printed and searched."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "deploy.up", "--train"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.addresses: dict[str, str] = {}
        self._predicts = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait_for_predictions(self) -> None:
        """Return as soon as live readings are predicted.

        Raises:
            TwinError: the run ended, or it took too long.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._predicts.wait(1.0):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise TwinError("The twin did not start: see its output above.", field="pictures")

    def stop(self) -> None:
        """Stop the run in order."""
        self.process.terminate()
        self.process.wait()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            print(line, end="", flush=True)
            if found := _ADDRESS.match(line):
                self.addresses[found["name"]] = found["url"]
            if re.search(r"[1-9][\d,]* predictions · p50", line):
                self._predicts.set()


def pages(addresses: Mapping[str, str]) -> dict[str, str]:
    """Address of each picture, by file name; the battery is the first with an alert."""
    console = addresses["console"]
    alerts = httpx.get(f"{console}/api/alerts", trust_env=False).json()
    battery_id = _hottest(alerts) or httpx.get(f"{console}/api/batteries/list", trust_env=False).json()["batteries"][0]
    return {
        "fleet": f"{console}/",
        "battery": f"{console}/battery/{battery_id}",
        "models": f"{console}/models",
        "data": f"{console}/data",
        "mlflow": addresses["MLflow"],
    }


def take_pictures(addresses: Mapping[str, str], folder: Path, chromium: str) -> None:
    """Write one PNG for each page into `folder`."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_OPTIONS))
        for name, url in addresses.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.goto(url)
            page.wait_for_timeout(PAGE_S * 1000)
            page.get_by_text("Loading the model registry").wait_for(state="hidden", timeout=60_000)
            if name == "battery":
                page.get_by_text("24 h", exact=True).first.click()
                page.wait_for_timeout(PAGE_S * 1000)
            page.screenshot(path=folder / f"run-{name}.png")
            page.close()
        browser.close()


def _hottest(alerts: Any) -> str | None:
    """Id of the hottest battery of the answer of `/api/alerts`."""
    rows = alerts.get("alerts", []) if isinstance(alerts, dict) else alerts
    rows = [row for row in rows if row.get("temperature") is not None]
    return str(max(rows, key=lambda row: row["temperature"])["battery_id"]) if rows else None


def main(argv: Sequence[str] | None = None) -> int:
    """Take the pictures.

    Raises:
        TwinError: Chromium is absent, or the twin did not start.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(argv).folder
    chromium = shutil.which("chromium")
    if chromium is None:
        raise TwinError("Chromium is absent: apt-get install chromium.", field="chromium")
    run = Run()
    try:
        run.wait_for_predictions()
        time.sleep(LIVE_S)
        take_pictures(pages(run.addresses), folder, chromium)
    finally:
        run.stop()
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
