"""The pages in Debian's Chromium, on a real store and a real registry, while somebody writes.

Takes the pictures of the README too: TWIN_SCREENSHOTS names their folder (`make screenshots`).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psycopg2
import pytest
from PIL import Image

from deploy.servers.process import unused_port
from features.state import STATE_VERSION
from features.targets import TARGET_NAMES
from monitoring.drift.drift_params import DriftParams
from monitoring.drift.drift_store import DriftStore, MonitoredModel, DriftWindow
from monitoring.drift.drift_monitor import NO_REFERENCE
from telemetry.batch import Batch
from telemetry.settings import Settings
from telemetry.sources.base import REJECTED_COLUMNS
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.training.small_models import GATE, ModelFiles
from training.gate import GateThresholds
from training.registry.registration import Provenance, register_all
from training.registry.registry_store import RegistryStore

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is absent")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is absent: apt-get install chromium")

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a token of the browser tests"
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]  # fmt: skip
BATTERIES = 12
#: Chromium on a processor says so of its own screenshots.
HARMLESS = ("GPU stall due to ReadPixels",)
SHOTS = os.environ.get("TWIN_SCREENSHOTS")


@dataclass
class Site:
    """A running console, and what its browser pages said."""

    url: str
    shots: Path
    dsn: str
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)


def moment(time: datetime, k: int) -> Batch:
    """One reading and one set of predictions of each battery: number 3 is hot, number 7 worn, number 9 nearly empty."""
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
        ahead = 21 + 0.9 * index + 4 * math.sin((phase + 2) / 5) + (28 if index == 3 else 0)
        values = {
            "soh": soh + 0.3 * math.sin(phase),
            "temperature": ahead,
            "rul": 900.0 - 60 * index,
            "failure": 0.01 * (1 + index),
        }
        for target, value in values.items():
            for role in ("champion", "challenger"):
                shown = value * (1.0 if role == "champion" else 1.01)
                predictions.append(
                    {
                        "battery_id": battery_id, "time": time, "target": target, "value": shown,
                        # Half of the models give no interval.
                        "lower": shown * 0.98 if index % 2 else None, "upper": shown * 1.02 if index % 2 else None,
                        "due": time + timedelta(seconds=300) if target == "temperature" else None,
                        "model_name": f"battery-{target}", "model_version": "1" if role == "champion" else "2",
                        "role": role, "predicted_at": time,
                    }
                )  # fmt: skip
    return Batch(readings=readings, predictions=predictions)


def past(now: datetime) -> Batch:
    """Data sheets and sessions."""
    batteries = [
        {"battery_id": f"EV-{i:04d}", "nominal_capacity_ah": 150.0, "chemistry": "NMC", "cells_in_series": 96.0,
         "cells_in_parallel": 2.0, "model": "hatchback-52", "fleet": ("private", "delivery", "taxi")[i % 3],
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
    """Live readings, two a second, after an hour of the past."""
    store, stop, now = PostgresStore(dsn), threading.Event(), datetime.now(UTC)
    store.write(past(now))
    for seconds in range(3600, 0, -20):
        store.write(moment(now - timedelta(seconds=seconds), 0))

    def write() -> None:
        count = 0
        while not stop.wait(0.5):
            count += 1
            store.write(moment(datetime.now(UTC), count))

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        store.close()


def drifting(dsn: str, now: datetime) -> None:
    """Errors of the health model that have left their bounds, features of the temperature model that have not."""
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
            window = DriftWindow(kind, start, start + day, 120, BATTERIES, score, 1.5 if kind == "errors" else 0.15, detail)
            store.write(champion, [window], window.end, params)
    store.start_monitoring(MonitoredModel("rul", "battery-rul", "1", since, since, NO_REFERENCE))
    store.close()


def registry_with_a_challenger(var: Path, folder: Path, empty: Path) -> None:
    """A champion release, and a better challenger for the state of health that nobody has promoted yet."""
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
    # A gate that nobody passes: what is better than the champion waits for the console's, which is that of params.yaml.
    strict = GateThresholds(dict.fromkeys(TARGET_NAMES, 0.9999))
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
    shots = ROOT / SHOTS if SHOTS else folder
    shots.mkdir(parents=True, exist_ok=True)
    drifting(dsn, datetime.now(UTC))
    with writing(dsn), console(dsn, folder, "/api/health") as url:
        yield Site(url, shots, dsn)


@contextmanager
def console(dsn: str, folder: Path, ready: str, *arguments: str) -> Iterator[str]:
    """The address of a console on `dsn`, once `ready` answers 200; it must not have failed in the end."""
    port = unused_port()
    environment = os.environ | {
        "TWIN_VAR": str(folder / "var"),
        "TWIN_TELEMETRY_DSN": dsn,
        "TWIN_CONSOLE_PORT": str(port),
        "TWIN_CONSOLE_TOKEN": TOKEN,
    }
    log = folder / "console.log"
    command = [sys.executable, "-m", "console", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait(f"http://127.0.0.1:{port}{ready}", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            code = process.wait(20)
    assert code == 0
    assert "Traceback" not in log.read_text(), log.read_text()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(site: Site, browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a path of the console in a browser of its own; complaints and foreign requests fail the test."""
    contexts = []

    def open_page(path: str, *, dark: bool = False, phone: bool = False, log_in: bool = False) -> Any:
        size = {"width": 390, "height": 844} if phone else {"width": 1440, "height": 960}
        context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light")
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: m.type in ("error", "warning") and site.complaints.append(m.text))
        page.on("pageerror", lambda error: site.complaints.append(str(error)))
        page.on("request", lambda request: _is_ours(request.url) or site.elsewhere.append(request.url))
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
    assert [text for text in site.complaints if not any(known in text for known in HARMLESS)] == []
    assert site.elsewhere == []


def _is_ours(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:"))


def colours(page: Any, selector: str, site: Site) -> int:
    """How many different colours the picture of an element has, coarsely: what was not drawn has one."""
    path = site.shots / "part.png"
    page.locator(selector).first.screenshot(path=path)
    with Image.open(path) as image:
        count = colours_of(image)
    path.unlink()
    return count


def colours_of(image: Image.Image) -> int:
    """How many different colours it has, coarsely."""
    found = image.convert("RGB").quantize(64).convert("RGB").getcolors(1 << 20) or []
    return sum(count > 20 for count, _ in found)


def shoot_whole(page: Any, path: Path) -> None:
    """A picture of the whole page in a window as high as it is.

    Chromium's own pictures of a whole page lose what WebGL has drawn.
    """
    page.set_viewport_size({"width": 1440, "height": page.evaluate("() => document.documentElement.scrollHeight")})
    page.wait_for_timeout(1500)
    page.screenshot(path=path)


def changes(read: Callable[[], str], within_s: float = 6.0) -> bool:
    """Whether what `read` gives becomes another by itself."""
    first, deadline = read(), time.monotonic() + within_s
    while time.monotonic() < deadline:
        if read() != first:
            return True
        time.sleep(0.2)
    return False


def test_the_fleet_lives(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/")
    page.wait_for_selector(".ag-row")
    assert page.locator(".ag-center-cols-container .ag-row").count() == BATTERIES
    assert changes(lambda: page.locator(".ag-center-cols-container").inner_text())
    page.wait_for_timeout(3500)
    assert colours(page, ".map canvas", site) >= 3
    page.screenshot(path=site.shots / "console-fleet.png")
    page.locator('button[data-status="CRITICAL"]').click()
    page.wait_for_function(
        "n => document.querySelectorAll('.ag-center-cols-container .ag-row').length < n", arg=BATTERIES
    )
    page.locator(".ag-pinned-left-cols-container .ag-row .ag-cell").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/battery/EV-*")


def test_the_page_is_at_most_two_seconds_behind(visit: Callable[..., Any]) -> None:
    page = visit("/battery/EV-0001")
    page.wait_for_selector("text=event time.")
    behind = []
    for _ in range(8):
        shown = page.evaluate(
            """() => Math.max(...[...document.querySelectorAll('.chart')].slice(0, 1).map(e => {
                 const chart = getElement(parseInt(e.id.slice(1))).chart;
                 const data = chart.getOption().series.find(s => s.id === 'actual').data;
                 return Date.now() - data[data.length - 1][0]; }))"""
        )
        behind.append(shown / 1000)
        page.wait_for_timeout(400)
    assert sorted(behind)[len(behind) // 2] <= 2.0, behind


def test_a_battery_with_its_pack(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/battery/EV-0001")
    page.wait_for_selector("text=event time.")
    page.wait_for_timeout(1500)
    assert changes(lambda: page.locator(".tiles").inner_text())
    assert "this model gives no interval" not in page.locator(".quad").inner_text()
    for chart in range(4):
        assert colours(page, f".quad section:nth-child({chart + 1}) .chart canvas", site) >= 2
    assert colours(page, ".scene-box canvas", site) >= 8
    assert "interpolated" in page.locator(".twin").inner_text()
    box = page.locator(".scene-box canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function("() => document.querySelector('.scene-tip').textContent.startsWith('group ')")
    before = page.locator(".scene-box").screenshot()
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 120, box["y"] + box["height"] / 2 - 40, steps=6)
    page.mouse.up()
    page.wait_for_timeout(400)
    assert page.locator(".scene-box").screenshot() != before  # it turned
    page.get_by_role("button", name="Voltage").click()
    page.wait_for_function("() => document.querySelector('.scale').textContent.includes('V')")
    page.get_by_role("button", name="Temperature").click()
    page.get_by_role("button", name="Tilt").click()
    page.wait_for_timeout(800)
    page.evaluate("() => scrollTo(0, 0)")
    shoot_whole(page, site.shots / "console-battery.png")
    box = page.locator(".scene-box canvas").bounding_box()
    with Image.open(site.shots / "console-battery.png") as image:
        pack = image.crop((box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]))
    assert colours_of(pack) >= 8  # in the picture of the README, too


def test_where_a_model_gives_no_interval_it_is_said(visit: Callable[..., Any]) -> None:
    page = visit("/battery/EV-0002")
    page.wait_for_selector("text=this model gives no interval")


def test_an_alert_is_acknowledged_and_muted(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/alerts")
    page.wait_for_selector(".alert")
    assert page.get_by_role("button", name="Acknowledge").count() == 0  # nobody has logged in
    page = visit("/alerts", log_in=True)
    page.wait_for_selector(".alert")
    charge = page.locator('section[aria-label="Low charge"]')
    safety = page.locator('section[aria-label="Safety and health"]')
    assert "EV-0009" in charge.inner_text()
    assert "when it became CRITICAL:" in charge.inner_text()
    assert "charge 12.0 %" in charge.inner_text()
    assert "State of charge" not in safety.inner_text()
    assert changes(lambda: safety.inner_text())  # the value now, not the one it began with
    charge.get_by_role("button", name="Acknowledge").click()
    page.get_by_label("Note: what is being done").fill("is on its way to a charger")
    page.locator(".q-dialog").get_by_role("button", name="Acknowledge").click()
    page.wait_for_selector("text=ada is_authorized since")
    page.locator(".q-dialog").wait_for(state="hidden")
    page.wait_for_timeout(500)  # its shade goes slowly
    page.screenshot(path=site.shots / "console-alerts.png")
    safety.get_by_role("button", name="Acknowledge all of these").click()
    page.locator(".q-dialog").get_by_role("button", name="Acknowledge").click()
    page.wait_for_function("() => ![...document.querySelectorAll('button')].some(e => e.textContent == 'Acknowledge')")
    charge.get_by_role("button", name="Mute").click()
    page.locator(".q-dialog").get_by_label("Of").click()
    page.get_by_role("option", name="every battery").click()
    page.get_by_label("Reason").fill("at the charger")
    page.locator(".q-dialog").get_by_role("button", name="Mute").click()
    page.wait_for_selector("text=Muted (1)")
    charge.locator("summary").first.click()
    page.wait_for_selector("text=State of charge of every battery muted by ada")
    page.get_by_label("Battery or fleet").fill("0009")
    safety.get_by_text("No alert is open of such a battery").wait_for()
    assert "State of charge" in charge.locator("details[open]").inner_text()  # still unfolded
    page.locator('section[aria-label="Mutes"]').get_by_role("button", name="End").click()
    charge.get_by_text("Muted (1)").wait_for(state="hidden")
    assert "State of charge" in charge.inner_text()


def test_a_challenger_is_promoted_and_rolled_back(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/models", log_in=True)
    page.wait_for_selector("text=battery-twin/", timeout=60_000)
    page.wait_for_selector("section[aria-label='In the shadow'] td")
    page.wait_for_selector("text=battery-twin/1 serves")
    drift = page.locator("section[aria-label='Drift'] tbody tr").all_inner_texts()
    assert [row.split("\t")[:3] for row in drift] == [
        ["rul 1", "–", "no data yet"],
        ["soh 1", "errors", "drifting"],
        ["temperature 1", "features", "in bounds"],
    ]
    assert "no reference" in drift[0]
    assert "3 of 5" in drift[1]
    assert "107%!" in drift[2]
    assert "moved most: temperature_c, c_rate" in drift[2]
    shoot_whole(page, site.shots / "console-models.png")
    page.get_by_role("button", name="Promote version").click()
    page.get_by_label("Reason, kept in the history").fill("better on the gate")
    page.locator(".q-dialog").get_by_role("button", name="Promote", exact=True).click()
    page.wait_for_selector("text=Release 2 is champion.", timeout=60_000)
    page.wait_for_selector("text=better on the gate", timeout=30_000)
    page.wait_for_selector("text=battery-twin/2 serves")
    page.get_by_role("button", name="Roll back").click()
    page.locator(".q-dialog").get_by_role("button", name="Roll back").click()
    page.wait_for_selector("text=A reason is needed")
    page.get_by_label("Reason, kept in the history").fill("alarms at night")
    page.locator(".q-dialog").get_by_role("button", name="Roll back").dblclick()
    page.wait_for_selector("text=is champion again", timeout=60_000)
    page.wait_for_selector("text=alarms at night", timeout=30_000)
    page.wait_for_selector("text=battery-twin/1 serves")
    said = page.locator(".q-notification").all_inner_texts()
    assert not any("release" in one for one in said), said  # the second click asked for nothing


def test_data_and_documentation(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/data")
    page.wait_for_selector("text=Every rule")
    page.screenshot(path=site.shots / "console-data.png")
    page = visit("/docs")
    page.wait_for_selector('[data-path="/api/battery/history"]')


@pytest.mark.parametrize("path", ["/", "/battery/EV-0003"])
def test_dark_and_on_a_phone(path: str, visit: Callable[..., Any], site: Site) -> None:
    name = "battery" if "battery" in path else "fleet"
    page = visit(path, dark=True)
    page.wait_for_selector(".tile .v")
    page.wait_for_timeout(4500)
    assert page.evaluate("() => document.body.classList.contains('body--dark')")
    page.screenshot(path=site.shots / f"console-{name}-dark.png")
    page.get_by_role("button", name="Theme").or_(page.get_by_label("light or dark")).first.click()
    assert not page.evaluate("() => document.body.classList.contains('body--dark')")
    page = visit(path, phone=True)
    page.wait_for_selector(".tile .v")
    page.wait_for_timeout(2500)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out
    page.screenshot(path=site.shots / f"console-{name}-phone.png")


_GRID = "const api = getElement(+document.querySelector('.fleet-grid .nicegui-aggrid').id.slice(1)).api;"
_DATA = "getElement(+document.querySelector('.quad .chart').id.slice(1)).chart.getOption().series.at(-1).data"


def test_the_fleet_grows_while_somebody_filters_and_sorts(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/")
    page.wait_for_selector(".ag-row")
    shown = f"() => {{ {_GRID} return api.getDisplayedRowCount(); }}"
    model = f"() => {{ {_GRID} return Object.keys(api.getFilterModel()).sort(); }}"
    page.evaluate(
        f"""() => {{ {_GRID}
          api.setFilterModel({{soc: {{filterType: 'number', type: 'greaterThan', filter: 13}}}});
          api.applyColumnState({{state: [{{colId: 'temperature', sort: 'desc'}}]}}); }}"""
    )
    assert page.evaluate(shown) == BATTERIES - 1  # without the empty one
    page.locator('button[data-status="WARNING"]').click()
    page.wait_for_function(f"() => {{ {_GRID} return api.getFilterModel().status?.filter === 'WARNING'; }}")
    assert page.evaluate(model) == ["soc", "status"]
    page.locator('button[data-status="WARNING"]').click()
    page.wait_for_function(f"() => {{ {_GRID} return !api.getFilterModel().status; }}")
    assert page.evaluate(model) == ["soc"]
    # A laboratory cell of which little is known, and whose ammeter failed.
    new = {"battery_id": "CELL-1", "time": datetime.now(UTC), "voltage": 3.7, "current": 1.0, "temperature": 70.0}
    store = PostgresStore(site.dsn)
    silent = {**new, "battery_id": "CELL-2", "temperature": 90.0, "soc": 1.0}
    store.write(Batch(readings=[{**new, "temperature_min": 68.0, "soc": 50.0}, silent]))
    store.close()
    with closing(psycopg2.connect(site.dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE ev_telemetry SET current = 'NaN' WHERE battery_id = 'CELL-1'")
        cursor.execute("UPDATE ev_telemetry SET created_at = now() - interval '1 year' WHERE battery_id = 'CELL-2'")
    page.wait_for_function(f"n => {{ {_GRID} return api.getDisplayedRowCount() === n; }}", arg=BATTERIES)
    first = f"() => {{ {_GRID} return api.getDisplayedRowAtIndex(0).data.battery_id; }}"
    assert page.evaluate(first) == "CELL-1"  # the hottest: it is still sorted
    assert page.evaluate(model) == ["soc"]
    page.wait_for_function("() => document.querySelector('button[data-status=SILENT] .v').textContent === '1'")
    # What was measured a year ago is neither the hottest nor the emptiest now.
    tiles = dict(text.split("\n") for text in page.locator(".tiles .tile").all_inner_texts())
    assert (tiles["Hottest"], tiles["Lowest charge"]) == ("70.0 °C", "12 %")
    page = visit("/battery/CELL-1")
    page.wait_for_selector("text=Sent: hottest and coldest probe.")
    page.get_by_role("button", name="Voltage").click()
    page.wait_for_selector("text=It sends no cell voltages, so none is known.")


def test_a_minute_of_heat_is_seen_among_means(visit: Callable[..., Any], site: Site) -> None:
    with closing(psycopg2.connect(site.dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO ev_telemetry (battery_id, time, voltage, current, temperature)
               SELECT 'EV-0005', now() - interval '2 h' - n * interval '20 s', 350, 1,
                      CASE n WHEN 250 THEN 62 ELSE -9 END
               FROM generate_series(1, 500) n"""
        )
    page = visit("/battery/EV-0005")
    page.get_by_role("button", name="6 h").click()
    page.wait_for_selector("text=in grey from the lowest reading to the highest")
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


def test_who_logs_in_from_a_battery_comes_back_to_it(visit: Callable[..., Any]) -> None:
    page = visit("/battery/EV-0001")
    page.get_by_role("link", name="Log in").click()
    page.fill("input[name=name]", "ada")
    page.fill("input[name=token]", TOKEN)
    page.click("button")
    page.wait_for_url("**/battery/EV-0001")
    page.wait_for_selector("text=Log out ada")
    # A wide window gets no point with each reading: nobody would see it, and the page would grow for days.
    page.get_by_role("button", name="24 h").click()
    page.wait_for_function("() => /every|means|each/.test(document.querySelector('[role=status].muted').textContent)")
    page.wait_for_timeout(1500)
    before = page.evaluate(f"() => {_DATA}.length")
    page.wait_for_timeout(5000)
    assert page.evaluate(f"() => {_DATA}.length") <= before + 1
    # The band reaches from the lower end to the upper one where both are below zero.
    upper = page.evaluate(
        """() => {
          const chart = getElement(+document.querySelector('.quad .chart').id.slice(1)).chart;
          chart.setOption({series: [{id: 'lower', data: [[1e12, -5], [1.1e12, -5]]},
                                    {id: 'width', data: [[1e12, 3], [1.1e12, 3]]}]});
          const data = chart.getModel().getSeries().find(s => s.id === 'width').getData();
          return data.get(data.getCalculationInfo('stackResultDimension'), 0); }"""
    )
    assert upper == -2


def test_a_battery_that_does_not_exist(visit: Callable[..., Any]) -> None:
    page = visit("/battery/nobody")
    page.wait_for_selector("text=No battery is called nobody")


@pytest.mark.parametrize("path", ["/", "/alerts", "/battery/EV-0001"])
def test_while_the_store_is_away_it_is_said(path: str, visit: Callable[..., Any], away: str) -> None:
    page = visit(away + path)
    page.wait_for_selector("text=The telemetry store cannot be reached.")
    assert "store away" in page.locator(".pulse").inner_text()


def test_rows_that_were_set_aside_are_shown(visit: Callable[..., Any], away: str) -> None:
    page = visit(away + "/data")
    page.get_by_text("voltage: not from 0 to 2000 V").click()
    page.wait_for_selector("text=fleet.csv")
    assert "9000.5" in page.locator("details[open]").inner_text()
    assert "Nothing was learned from it: the sign" in page.locator(".twin").inner_text()
    assert "ev_battery_telemetry_dead_letter" in page.locator(".twin").inner_text()


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("away")
    report = {"source": "csv", "rows_read": 9, "rows_kept": 8, "rows_quarantined": 1, "refused": "the sign is wrong"}
    (folder / "validation.json").write_text(json.dumps(report))
    row = ("readings", "fleet.csv", 7, "voltage", "9000.5", "voltage: not from 0 to 2000 V", '{"voltage": 9000.5}')
    pd.DataFrame([row], columns=list(REJECTED_COLUMNS)).to_parquet(folder / "quarantine.parquet")
    dsn, here = f"postgresql://me:hunter2@/telemetry?host={folder}", ("--reports", folder, "--quarantine", folder)
    with console(dsn, folder, "/health", *map(str, here)) as url:
        yield url
