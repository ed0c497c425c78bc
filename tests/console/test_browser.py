"""Pages of the console in Debian's Chromium, on a real telemetry store with live writes and a real model registry.

Also takes the screenshots of the documentation: TWIN_SCREENSHOTS is their folder (`make screenshots`).
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg2
import pytest
from fastapi import FastAPI
from PIL import Image

from features.state import STATE_VERSION
from features.targets import TARGET_NAMES
from monitoring.drift.drift_monitor import NO_REFERENCE
from monitoring.drift.drift_params import DriftParams
from monitoring.drift.drift_store import DriftStore, DriftWindow, MonitoredModel
from telemetry.batch import Batch
from telemetry.settings import Settings
from telemetry.sources.base import REJECTED_COLUMNS
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.console.conftest import served
from tests.console.console_process import TOKEN, console
from tests.hostile import drop_checks
from tests.training.small_models import GATE, ModelFiles
from training.gate import GateThresholds
from training.registry.registration import Provenance, register_all
from training.registry.registry_store import RegistryStore

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is absent")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is absent: apt-get install chromium")

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]  # fmt: skip
BATTERIES = 12
#: Console warnings of Chromium's software rendering.
IGNORED_WARNINGS = ("GPU stall due to ReadPixels",)
SCREENSHOT_FOLDER = os.environ.get("TWIN_SCREENSHOTS")


@dataclass
class Site:
    """A running console, and the browser console messages and foreign requests of its pages."""

    url: str
    screenshots: Path
    dsn: str
    console_messages: list[str] = field(default_factory=list)
    foreign_requests: list[str] = field(default_factory=list)


def batch_at(time: datetime, k: int) -> Batch:
    """A reading and predictions of each battery: number 3 is hot, number 7 has poor health, number 9 low charge."""
    readings, predictions = [], []
    for index in range(BATTERIES):
        phase = time.timestamp() / 90 * (0.6 + 0.05 * index) + index
        current = 60 * math.sin(phase) + 18 * math.sin(3.1 * phase) + 12
        voltage = 358 + 9 * math.sin(phase / 7 + index) - 0.12 * current
        temperature = 21 + 0.9 * index + 4 * math.sin(phase / 5) + (28 if index == 3 else 0)
        soh = 97 - 0.8 * index - (14 if index == 7 else 0)
        battery_id = f"EV-{index:04d}"
        readings.append(
            {
                "battery_id": battery_id, "time": time, "voltage": voltage, "current": current, "soh": soh,
                "temperature": temperature, "temperature_min": temperature - 3 - 0.2 * index,
                "ambient_temperature": 14.0,
                "soc": 12.0 if index == 9 else 55 + 18 * math.sin(phase / 11), "charge_cycles": 240.0 + 60 * index,
                "power_consumption": voltage * current, "is_charging": current < 0, "speed_kmh": max(current, 0.0),
                "cell_voltage_min": voltage / 96 - 0.021, "cell_voltage_max": voltage / 96 + 0.013,
                "cell_voltage_median": voltage / 96, "odometer_km": 52_000.0 + k,
            }
        )  # fmt: skip
        forecast = 21 + 0.9 * index + 4 * math.sin((phase + 2) / 5) + (28 if index == 3 else 0)
        values = {
            "soh": soh + 0.3 * math.sin(phase),
            "temperature": forecast,
            "rul": 900.0 - 60 * index,
            "failure": 0.01 * (1 + index),
        }
        for target, value in values.items():
            for role in ("champion", "challenger"):
                shown = value * (1.0 if role == "champion" else 1.01)
                predictions.append(
                    {
                        "battery_id": battery_id, "time": time, "target": target, "value": shown,
                        # Only every second battery has prediction intervals.
                        "lower": shown * 0.98 if index % 2 else None, "upper": shown * 1.02 if index % 2 else None,
                        "due": time + timedelta(seconds=300) if target == "temperature" else None,
                        "model_name": f"battery-{target}", "model_version": "1" if role == "champion" else "2",
                        "role": role, "predicted_at": time,
                    }
                )  # fmt: skip
    return Batch(readings=readings, predictions=predictions)


def data_sheets_and_sessions(now: datetime) -> Batch:
    """Data sheets and charge sessions."""
    batteries = [
        {"battery_id": f"EV-{i:04d}", "nominal_capacity_ah": 150.0, "chemistry": "NMC", "cells_in_series": 96.0,
         "cells_in_parallel": 2.0, "model": "zoe-52", "fleet": ("private", "delivery", "taxi")[i % 3],
         "in_service_since": now - timedelta(days=900)} for i in range(BATTERIES)
    ]  # fmt: skip
    cycles = [
        {"battery_id": f"EV-{i:04d}", "cycle_index": 200.0 + 2 * j, "kind": "charge" if j % 2 else "discharge",
         "start_time": now - timedelta(days=30 - j, hours=2), "end_time": now - timedelta(days=30 - j),
         "throughput_ah": 70 + 25 * math.sin(j), "resistance_ohm": 6e-4 + 2e-6 * j, "temperature_rise_c": 3.0}
        for i in range(BATTERIES) for j in range(24)
    ]  # fmt: skip
    return Batch(batteries=batteries, cycles=cycles)


@contextmanager
def writing(dsn: str) -> Iterator[None]:
    """Write an hour of history, then live readings twice a second."""
    store, stop, now = PostgresStore(dsn), threading.Event(), datetime.now(UTC)
    store.write(data_sheets_and_sessions(now))
    for seconds in range(3600, 0, -20):
        store.write(batch_at(now - timedelta(seconds=seconds), 0))

    def write() -> None:
        count = 0
        while not stop.wait(0.5):
            count += 1
            store.write(batch_at(datetime.now(UTC), count))

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        store.close()


def write_drift(dsn: str, now: datetime) -> None:
    """Drift windows: errors of the SoH model above their threshold, features of the temperature model below."""
    store, params, day = DriftStore(dsn), DriftParams(), timedelta(days=1)
    since = now.replace(hour=0, minute=0, second=0, microsecond=0) - 8 * day
    for target, kind, scores in (
        ("soh", "errors", (0.9, 1.0, 1.1, 1.2, 1.7, 1.8, 2.1)),
        ("temperature", "features", (0.09, 0.11, 0.1, 0.1, 0.16, 0.12, 0.1)),
    ):
        champion = MonitoredModel(target, f"battery-{target}", "1", since, since)
        store.start_monitoring(champion)
        for number, score in enumerate(scores):
            start = since + number * day
            detail = {"moved": [("temperature_c", 0.21), ("c_rate", 0.13)]} if kind == "features" else {}
            window = DriftWindow(
                kind, start, start + day, 120, BATTERIES, score, 1.5 if kind == "errors" else 0.15, detail
            )
            store.write(champion, [window], window.end, params)
    store.start_monitoring(MonitoredModel("rul", "battery-rul", "1", since, since, NO_REFERENCE))
    store.close()


def registry_with_a_challenger(var: Path, folder: Path, empty: Path) -> None:
    """Create a registry with a champion release and a better SoH challenger."""
    settings = Settings(var=var)
    settings.var.mkdir()
    shutil.copy(empty, var / "mlflow.db")
    store = RegistryStore.open(settings, settings.domain)
    models = ModelFiles(folder)
    provenance = Provenance(source="made_up", data_sha256=dict.fromkeys(TARGET_NAMES, "ab" * 32))
    for target in TARGET_NAMES:
        models.train(target, state_version=STATE_VERSION, noise=0.4)
    register_all(store, models.folder, models.metrics, GATE, provenance, by="the tests")
    models.train("soh", state_version=STATE_VERSION, noise=0.05)
    # A gate that no model passes, so that the better model stays challenger; the console uses the gate of params.yaml.
    strict = GateThresholds(min_skill=dict.fromkeys(TARGET_NAMES, 0.9999))
    register_all(store, models.folder, models.metrics, strict, provenance, by="the tests")


@pytest.fixture(scope="module")
def site(
    postgres_server: str,
    new_database: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
    empty_registry: Path,
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("browser")
    dsn = new_database(postgres_server)
    migrate(dsn)
    registry_with_a_challenger(folder / "var", folder / "models", empty_registry)
    screenshots = ROOT / SCREENSHOT_FOLDER if SCREENSHOT_FOLDER else folder
    screenshots.mkdir(parents=True, exist_ok=True)
    write_drift(dsn, datetime.now(UTC))
    with (
        writing(dsn),
        served(service_with_reasons()) as service,
        console(dsn, folder, "/api/health", TWIN_PREDICTION_URL=str(service.base_url)) as url,
    ):
        yield Site(url, screenshots, dsn)


def service_with_reasons() -> FastAPI:
    """A prediction service that gives the same reasons to every battery that has sessions."""
    app = FastAPI()

    @app.post("/predict")
    async def predict(body: dict[str, Any]) -> dict[str, Any]:
        (battery,) = body["batteries"]
        assert body["reasons"] is True
        if not battery["cycles"]:
            return {"predictions": [{"rul": {"value": None}, "failure_probability": {"value": None}}]}
        reasons = [
            {"signal": "resistance_ohm", "feature": "resistance_ohm__last", "value": 0.12, "contribution": -80.0},
            {"signal": "cycles", "feature": "cycles", "value": 412.0, "contribution": 25.0},
        ]
        return {"predictions": [{"rul": {"value": 1.0, "reasons": reasons}, "failure_probability": {"value": None}}]}

    return app


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(site: Site, browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a path in a new browser context; warnings in the browser console and foreign requests fail the test."""
    contexts = []

    def open_page(path: str, *, dark: bool = False, phone: bool = False, log_in: bool = False) -> Any:
        size = {"width": 390, "height": 844} if phone else {"width": 1440, "height": 960}
        context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light")
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: m.type in ("error", "warning") and site.console_messages.append(m.text))
        page.on("pageerror", lambda error: site.console_messages.append(str(error)))
        page.on("request", lambda request: _is_local(request.url) or site.foreign_requests.append(request.url))
        if log_in:
            page.goto(f"{site.url}/login?next={path}")
            page.fill("input[name=name]", "ada")
            page.fill("input[name=token]", TOKEN)
            page.click("button")
        else:
            page.goto(path if "://" in path else site.url + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [text for text in site.console_messages if not any(known in text for known in IGNORED_WARNINGS)] == []
    assert site.foreign_requests == []


def _is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:"))


def count_colours(page: Any, selector: str, site: Site) -> int:
    """Approximate number of colours in a screenshot of an element; an empty canvas has one."""
    path = site.screenshots / "part.png"
    page.locator(selector).first.screenshot(path=path)
    with Image.open(path) as image:
        count = count_image_colours(image)
    path.unlink()
    return count


def count_image_colours(image: Image.Image) -> int:
    """Approximate number of colours of an image."""
    found = image.convert("RGB").quantize(64).convert("RGB").getcolors(1 << 20) or []
    return sum(count > 20 for count, _ in found)


def screenshot_full_page(page: Any, path: Path) -> None:
    """Screenshot of the whole page in a viewport of its height.

    Chromium's own full-page screenshots lose WebGL content.
    """
    page.set_viewport_size({"width": 1440, "height": page.evaluate("() => document.documentElement.scrollHeight")})
    page.wait_for_timeout(1500)
    page.screenshot(path=path)


def changes(read: Callable[[], str], within_s: float = 6.0) -> bool:
    """Whether the result of `read` changes within the time."""
    first, deadline = read(), time.monotonic() + within_s
    while time.monotonic() < deadline:
        if read() != first:
            return True
        time.sleep(0.2)
    return False


def test_fleet_page_updates_live_and_filters_by_status(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/")
    page.wait_for_selector(".ag-row")
    assert page.locator(".ag-center-cols-container .ag-row").count() == BATTERIES
    assert changes(lambda: page.locator(".ag-center-cols-container").inner_text())
    page.wait_for_timeout(3500)
    assert count_colours(page, ".map canvas", site) >= 3
    page.screenshot(path=site.screenshots / "console-fleet.png")
    page.locator('button[data-status="CRITICAL"]').click()
    page.wait_for_function(
        "n => document.querySelectorAll('.ag-center-cols-container .ag-row').length < n", arg=BATTERIES
    )
    page.locator(".ag-pinned-left-cols-container .ag-row .ag-cell").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/battery/EV-*")


def test_battery_page_is_at_most_two_seconds_behind(visit: Callable[..., Any]) -> None:
    page = visit("/battery/EV-0001")
    page.wait_for_selector("text=event time.")
    delays = []
    for _ in range(8):
        shown = page.evaluate(
            """() => Math.max(...[...document.querySelectorAll('.quad .chart')].slice(1, 2).map(e => {
                 const chart = getElement(parseInt(e.id.slice(1))).chart;
                 const data = chart.getOption().series.find(s => s.id === 'actual').data;
                 return Date.now() - data[data.length - 1][0]; }))"""
        )
        delays.append(shown / 1000)
        page.wait_for_timeout(400)
    assert sorted(delays)[len(delays) // 2] <= 2.0, delays


def test_battery_page_with_charts_and_pack_view(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/battery/EV-0001")
    page.wait_for_selector("text=event time.")
    page.wait_for_timeout(1500)
    assert changes(lambda: page.locator(".tiles").inner_text())
    assert "no prediction interval" not in page.locator(".quad").inner_text()
    for chart in range(4):
        assert count_colours(page, f".quad section:nth-child({chart + 1}) .chart canvas", site) >= 2
    assert count_colours(page, ".scene-box canvas", site) >= 8
    assert "interpolated" in page.locator(".twin").inner_text()
    box = page.locator(".scene-box canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function("() => document.querySelector('.scene-tip').textContent.startsWith('group ')")
    before = page.locator(".scene-box").screenshot()
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 120, box["y"] + box["height"] / 2 - 40, steps=6)
    page.mouse.up()
    page.wait_for_timeout(400)
    assert page.locator(".scene-box").screenshot() != before  # rotated
    page.get_by_role("button", name="Voltage").click()
    page.wait_for_function("() => document.querySelector('.scale').textContent.includes('V')")
    page.get_by_role("button", name="Temperature").click()
    page.get_by_role("button", name="Tilt").click()
    page.wait_for_timeout(800)
    page.evaluate("() => scrollTo(0, 0)")
    screenshot_full_page(page, site.screenshots / "console-battery.png")
    box = page.locator(".scene-box canvas").bounding_box()
    with Image.open(site.screenshots / "console-battery.png") as image:
        pack = image.crop((box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]))
    assert count_image_colours(pack) >= 8  # also in the full-page screenshot


def test_reasons_are_shown_on_demand(visit: Callable[..., Any]) -> None:
    page = visit("/battery/EV-0001")
    assert page.get_by_role("button", name="Why?").count() == 2
    life = page.get_by_role("region", name="Remaining useful life")
    life.get_by_role("button", name="Why?").click()
    life.get_by_text("▼ resistance_ohm (last 0.12) · ▲ cycles (412)").wait_for()
    failure = page.get_by_role("region", name="Failure probability")
    failure.get_by_role("button", name="Why?").click()
    failure.get_by_text("The model gives no reasons, or the prediction is withheld.").wait_for()


def test_missing_prediction_interval_is_shown(visit: Callable[..., Any]) -> None:
    page = visit("/battery/EV-0002")
    page.wait_for_selector("text=no prediction interval")


def test_alert_is_acknowledged_muted_and_unmuted(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/alerts")
    page.wait_for_selector(".alert")
    assert page.get_by_role("button", name="Acknowledge").count() == 0  # not logged in
    page = visit("/alerts", log_in=True)
    page.wait_for_selector(".alert")
    charge = page.locator('section[aria-label="Low charge"]')
    safety = page.locator('section[aria-label="Safety and health"]')
    assert "EV-0009" in charge.inner_text()
    assert "values when it became CRITICAL:" in charge.inner_text()
    assert "SoC 12.0 %" in charge.inner_text()
    assert "State of charge" not in safety.inner_text()
    assert changes(lambda: safety.inner_text())  # the current value
    charge.get_by_role("button", name="Acknowledge").click()
    page.get_by_label("Comment (optional)").fill("driving to a charger")
    page.locator(".q-dialog").get_by_role("button", name="Acknowledge").click()
    page.wait_for_selector("text=Acknowledged by ada at")
    page.locator(".q-dialog").wait_for(state="hidden")
    page.wait_for_timeout(500)  # fade-out of the dialog
    page.screenshot(path=site.screenshots / "console-alerts.png")
    safety.get_by_role("button", name="Acknowledge all").click()
    page.locator(".q-dialog").get_by_role("button", name="Acknowledge").click()
    page.wait_for_function("() => ![...document.querySelectorAll('button')].some(e => e.textContent == 'Acknowledge')")
    charge.get_by_role("button", name="Mute").click()
    page.locator(".q-dialog").get_by_role("button", name="Mute").click()
    page.locator(".q-dialog").get_by_text("reason is empty").wait_for()  # the dialog stays open
    page.get_by_role("radio", name="All batteries").click()
    page.get_by_role("radio", name="1 day").click()
    page.get_by_label("Reason").fill("at the charger")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Muted (1)")
    charge.locator("summary").first.click()
    page.wait_for_selector("text=State of charge, all batteries: muted by ada")
    page.get_by_label("Battery or fleet").fill("0009")
    safety.get_by_text("No battery matches the search.").wait_for()
    assert "State of charge" in charge.locator("details[open]").inner_text()  # still expanded
    page.locator('section[aria-label="Active mutes"]').get_by_role("button", name="Unmute").click()
    charge.get_by_text("Muted (1)").wait_for(state="hidden")
    assert "State of charge" in charge.inner_text()


def test_challenger_is_promoted_and_rolled_back(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/models", log_in=True)
    page.wait_for_selector("text=battery-twin/", timeout=60_000)
    page.wait_for_selector("section[aria-label='Shadow mode'] td")
    page.wait_for_selector("text=Champion: battery-twin/1")
    drift = page.locator("section[aria-label='Drift'] tbody tr").all_inner_texts()
    assert [row.split("\t")[:3] for row in drift] == [
        ["rul 1", "–", "no data yet"],
        ["soh 1", "errors", "drift"],
        ["temperature 1", "features", "no drift"],
    ]
    assert "no reference" in drift[0]
    assert "3 of 5" in drift[1]
    assert "107%!" in drift[2]
    assert "moved most: temperature_c, c_rate" in drift[2]
    screenshot_full_page(page, site.screenshots / "console-models.png")
    soh = page.locator("section[aria-label='State of health']").inner_text()
    assert re.search(r"MAE, out of fold\s+[\d.]+ %", soh), soh  # in the unit of the predictions
    assert re.search(r"skill, gate\s+\d+ %", soh), soh
    versions = page.locator(".versions tbody tr")
    assert versions.count() == len(TARGET_NAMES) + 1
    assert "failed" in versions.first.inner_text()
    page.get_by_text("No retraining yet").wait_for()
    page.get_by_role("button", name="Promote state of health version 2").click()
    page.get_by_label("Reason").fill("better on the gate")
    page.locator(".q-dialog").get_by_role("button", name="Promote", exact=True).click()
    page.wait_for_selector("text=Release 2 is champion.", timeout=60_000)
    page.wait_for_selector("text=better on the gate", timeout=30_000)
    page.wait_for_selector("text=Champion: battery-twin/2")
    page.get_by_role("button", name="Roll back").click()
    page.locator(".q-dialog").get_by_role("button", name="Roll back").click()
    page.wait_for_selector("text=A reason is required")
    page.get_by_label("Reason").fill("alarms at night")
    page.locator(".q-dialog").get_by_role("button", name="Roll back").dblclick()
    page.wait_for_selector("text=is champion again", timeout=60_000)
    page.wait_for_selector("text=alarms at night", timeout=30_000)
    page.wait_for_selector("text=Champion: battery-twin/1")
    page.get_by_role("button", name="Promote state of health version 2").wait_for()  # also after a rollback
    notifications = page.locator(".q-notification").all_inner_texts()
    assert not any("release" in one for one in notifications), notifications  # the second click had no effect


def test_event_of_a_battery_is_entered(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/battery/EV-0002")
    page.wait_for_selector("text=event time.")
    assert page.get_by_role("button", name="Enter event").count() == 0  # not logged in
    page = visit("/battery/EV-0002", log_in=True)
    page.get_by_role("button", name="Enter event").click()
    dialog = page.locator(".q-dialog")
    dialog.get_by_role("radio", name="capacity test").click()
    time_field = dialog.get_by_label("Time (UTC)")
    for written, sentence in (("yesterday", "write it in UTC"), ("2199-01-01 00:00", "between 1970 and now")):
        time_field.fill(written)
        dialog.get_by_role("button", name="Enter", exact=True).click()
        dialog.get_by_text(sentence).wait_for()  # the dialog stays open
    time_field.fill("2026-01-02 03:04")
    dialog.get_by_role("button", name="Enter", exact=True).click()
    dialog.get_by_text("a capacity_test has the measured capacity").wait_for()
    value = dialog.get_by_label("Measured capacity, Ah")
    for written in ("much", "nan", "-3"):
        value.fill(written)
        dialog.get_by_role("button", name="Enter", exact=True).click()
        dialog.get_by_text(re.compile("write a number of Ah|0.001 to 100000 Ah|0.001 to 1e\\+05 Ah")).wait_for()
    value.fill("131.5")
    page.keyboard.press("Enter")
    dialog.wait_for(state="hidden")
    page.wait_for_selector("text=2026-01-02, 131.5 Ah")
    with closing(psycopg2.connect(site.dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT time, event, value, source FROM battery_events WHERE battery_id = 'EV-0002'")
        assert cursor.fetchall() == [(datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "capacity_test", 131.5, "ada")]


def test_data_page_and_api_documentation(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/data")
    page.wait_for_selector("text=All validation rules")
    page.screenshot(path=site.screenshots / "console-data.png")
    page = visit("/docs")
    page.wait_for_selector('[data-path="/api/battery/history"]')


@pytest.mark.parametrize("path", ["/", "/battery/EV-0003"])
def test_dark_theme_and_phone_viewport(path: str, visit: Callable[..., Any], site: Site) -> None:
    name = "battery" if "battery" in path else "fleet"
    page = visit(path, dark=True)
    page.wait_for_selector(".tile .v")
    page.wait_for_timeout(4500)
    assert page.evaluate("() => document.body.classList.contains('body--dark')")
    page.screenshot(path=site.screenshots / f"console-{name}-dark.png")
    page.get_by_role("button", name="Theme").or_(page.get_by_label("Switch between light and dark theme")).first.click()
    assert not page.evaluate("() => document.body.classList.contains('body--dark')")
    page = visit(path, phone=True)
    page.wait_for_selector(".tile .v")
    page.wait_for_timeout(2500)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")  # no horizontal overflow
    page.screenshot(path=site.screenshots / f"console-{name}-phone.png")


_GRID = "const api = getElement(+document.querySelector('.fleet-grid .nicegui-aggrid').id.slice(1)).api;"
_DATA = "getElement(+document.querySelectorAll('.quad .chart')[1].id.slice(1)).chart.getOption().series.at(-1).data"


def test_new_batteries_appear_under_active_filters_and_sorting(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/")
    page.wait_for_selector(".ag-row")
    shown = f"() => {{ {_GRID} return api.getDisplayedRowCount(); }}"
    model = f"() => {{ {_GRID} return Object.keys(api.getFilterModel()).sort(); }}"
    page.evaluate(
        f"""() => {{ {_GRID}
          api.setFilterModel({{soc: {{filterType: 'number', type: 'greaterThan', filter: 13}}}});
          api.applyColumnState({{state: [{{colId: 'temperature', sort: 'desc'}}]}}); }}"""
    )
    assert page.evaluate(shown) == BATTERIES - 1  # without the battery with low charge
    page.locator('button[data-status="WARNING"]').click()
    page.wait_for_function(f"() => {{ {_GRID} return api.getFilterModel().status?.filter === 'WARNING'; }}")
    assert page.evaluate(model) == ["soc", "status"]
    page.locator('button[data-status="WARNING"]').click()
    page.wait_for_function(f"() => {{ {_GRID} return !api.getFilterModel().status; }}")
    assert page.evaluate(model) == ["soc"]
    # A laboratory cell without a data sheet, whose current sensor fails.
    new = {"battery_id": "CELL-1", "time": datetime.now(UTC), "voltage": 3.7, "current": 1.0, "temperature": 70.0}
    store = PostgresStore(site.dsn)
    stale = {**new, "battery_id": "CELL-2", "temperature": 90.0, "soc": 1.0}
    store.write(Batch(readings=[{**new, "temperature_min": 68.0, "soc": 50.0}, stale]))
    store.close()
    drop_checks(site.dsn)
    with closing(psycopg2.connect(site.dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE ev_telemetry SET current = 'NaN' WHERE battery_id = 'CELL-1'")
        cursor.execute("UPDATE ev_telemetry SET created_at = now() - interval '1 year' WHERE battery_id = 'CELL-2'")
    page.wait_for_function(f"n => {{ {_GRID} return api.getDisplayedRowCount() === n; }}", arg=BATTERIES)
    first = f"() => {{ {_GRID} return api.getDisplayedRowAtIndex(0).data.battery_id; }}"
    assert page.evaluate(first) == "CELL-1"  # the hottest: sorting is still active
    assert page.evaluate(model) == ["soc"]
    page.wait_for_function("() => document.querySelector('button[data-status=STALE] .v').textContent === '1'")
    # Stale readings do not count for the extremes.
    tiles = dict(text.split("\n") for text in page.locator(".tiles .tile").all_inner_texts())
    assert (tiles["Hottest"], tiles["Lowest SoC"]) == ("70.0 °C", "12 %")
    page = visit("/battery/CELL-1")
    page.wait_for_selector("text=Reported: hottest and coldest probe.")
    page.get_by_role("button", name="Voltage").click()
    page.wait_for_selector("text=No cell voltages are reported.")


def test_short_peak_is_visible_in_a_downsampled_chart(visit: Callable[..., Any], site: Site) -> None:
    with closing(psycopg2.connect(site.dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO ev_telemetry (battery_id, time, voltage, current, temperature)
               SELECT 'EV-0005', now() - interval '2 h' - n * interval '20 s', 350, 1,
                      CASE n WHEN 250 THEN 62 ELSE -9 END
               FROM generate_series(1, 500) n"""
        )
    page = visit("/battery/EV-0005")
    page.get_by_role("button", name="6 h").click()
    page.wait_for_selector("text=minimum to maximum in grey")
    page.wait_for_timeout(500)
    hottest = page.evaluate(
        """() => {
          const chart = getElement(+document.querySelectorAll('.quad .chart')[1].id.slice(1)).chart;
          const data = (id) => chart.getOption().series.find(s => s.id === id).data.map(point => point[1]);
          return {highest: Math.max(...data('highest')), lowest: Math.min(...data('lowest')),
                  mean: Math.max(...data('actual'))}; }"""
    )
    assert (hottest["lowest"], hottest["highest"]) == (-9, 62)
    assert hottest["mean"] < 45


def test_login_returns_to_the_page_and_wide_spans_append_few_points(visit: Callable[..., Any]) -> None:
    page = visit("/battery/EV-0001")
    page.get_by_role("link", name="Log in").click()
    page.fill("input[name=name]", "ada")
    page.fill("input[name=token]", TOKEN)
    page.click("button")
    page.wait_for_url("**/battery/EV-0001")
    page.wait_for_selector("text=Log out ada")
    # With a wide time span not every reading is appended: points closer than a pixel would only use memory.
    page.get_by_role("button", name="24 h").click()
    page.wait_for_function(
        "() => /all readings|means|one reading/.test(document.querySelector('[role=status].muted').textContent)"
    )
    page.wait_for_timeout(1500)
    before = page.evaluate(f"() => {_DATA}.length")
    page.wait_for_timeout(5000)
    assert page.evaluate(f"() => {_DATA}.length") <= before + 1
    # The band spans from the lower to the upper bound also if both are negative.
    upper = page.evaluate(
        """() => {
          const chart = getElement(+document.querySelector('.quad .chart').id.slice(1)).chart;
          chart.setOption({series: [{id: 'lower', data: [[1e12, -5], [1.1e12, -5]]},
                                    {id: 'width', data: [[1e12, 3], [1.1e12, 3]]}]});
          const data = chart.getModel().getSeries().find(s => s.id === 'width').getData();
          return data.get(data.getCalculationInfo('stackResultDimension'), 0); }"""
    )
    assert upper == -2


def test_unknown_battery(visit: Callable[..., Any]) -> None:
    page = visit("/battery/EV-404")
    page.wait_for_selector("text=Unknown battery: EV-404")


@pytest.mark.parametrize("path", ["/", "/alerts", "/battery/EV-0001"])
def test_unavailable_store_is_reported(path: str, visit: Callable[..., Any], console_without_store: str) -> None:
    page = visit(console_without_store + path)
    page.wait_for_selector("text=Telemetry store unavailable: the connection failed.")
    assert "Telemetry store unavailable" in page.locator(".connection").inner_text()


def test_quarantined_rows_are_shown(visit: Callable[..., Any], console_without_store: str) -> None:
    page = visit(console_without_store + "/data")
    page.get_by_text("voltage: not from 0 to 2000 V").click()
    page.wait_for_selector("text=fleet.csv")
    assert "9000.5" in page.locator("details[open]").inner_text()
    assert "Not used for training: the sign" in page.locator(".twin").inner_text()
    assert "ev_battery_telemetry_dead_letter" in page.locator(".twin").inner_text()


@pytest.fixture(scope="module")
def console_without_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("no store")
    report = {"source": "csv", "rows_read": 9, "rows_kept": 8, "rows_quarantined": 1, "refused": "the sign is wrong"}
    (folder / "validation.json").write_text(json.dumps(report))
    row = ("readings", "fleet.csv", 7, "voltage", "9000.5", "voltage: not from 0 to 2000 V", '{"voltage": 9000.5}')
    pd.DataFrame([row], columns=list(REJECTED_COLUMNS)).to_parquet(folder / "quarantine.parquet")
    dsn, folders = f"postgresql://me:hunter2@/telemetry?host={folder}", ("--reports", folder, "--quarantine", folder)
    with console(dsn, folder, "/health", *map(str, folders)) as url:
        yield url
