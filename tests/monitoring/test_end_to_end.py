"""End-to-end test of monitoring on embedded and real servers: every metric, every panel, and an alert at a webhook.

At 120 times real time a horizon of five minutes passes in 2.5 s and a drift window, half an hour here, in 15 s; one
battery is worn to its end of life and one is overheated.  Simulator, service and monitoring are processes as in `make
run`; Prometheus and Alertmanager have the shipped configuration.  `make watch-check` runs it.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg2
import pytest
import yaml

from deploy.servers.install import DEBIAN
from deploy.servers.prometheus import alertmanager, prometheus
from features.targets import TARGETS
from monitoring.alerting_config import alertmanager_config, prometheus_config
from monitoring.grafana.panels import DASHBOARDS
from telemetry.embedded.ports import free_port
from telemetry.embedded.postgres import embedded_postgres
from telemetry.settings import Settings
from tests.monitoring.panel_data import Target, points, targets
from tests.monitoring.test_exporter import CONTRACT, Samples, samples_of
from tests.monitoring.webhook import Webhook, webhook
from tests.needs import need

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
BATTERIES = 3
LIVE_S = 75
OVERHEATED, OVERHEATED_AT_S, OVERHEATED_FOR_S = "#2", 20, 20
INJECTIONS = ("end_of_life=#1@2s+12s", f"overheating={OVERHEATED}@{OVERHEATED_AT_S}s+{OVERHEATED_FOR_S}s")
#: Gauges of the ground truth of each target.
ACTUAL = {"battery_rul_actual", "battery_failure_actual", "battery_soh_actual", "battery_temperature_actual"}
#: Short windows, so that some of them are completed.
DRIFT = {"window_s": 1800, "min_rows": 10}
QUERIES = [query for spec in DASHBOARDS for panel in spec.panels for query in panel.queries]


@dataclass
class Observed:
    """Metrics and panels that had data at some time of the run."""

    metrics: set[str] = field(default_factory=set)
    evaluated: set[str] = field(default_factory=set)
    panels: list[Target] = field(default_factory=list)

    def update(self, samples: Samples, waiting: Sequence[Target], has_data: Callable[[Target], bool]) -> None:
        self.metrics |= {name for name, _ in samples}
        self.evaluated |= {dict(labels)["metric"] for name, labels in samples if name == "prediction_accuracy"}
        self.panels += [target for target in waiting if has_data(target)]


@contextmanager
def running(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until(is_ready: Callable[[], bool], timeout_s: float, message: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_ready():
        assert time.monotonic() < deadline, message
        time.sleep(0.2)


def is_up(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(params=["embedded", "real servers"])
def store(
    request: pytest.FixtureRequest, registry: Settings, tmp_path: Path, new_database: Callable[[str], str]
) -> Iterator[tuple[dict[str, str], str]]:
    """Environment with the store and broker, and the DSN of the store."""
    var = tmp_path / "var"
    shutil.copytree(registry.var, var)
    if request.param == "embedded":
        with embedded_postgres(var / "postgres", max_future_s=math.inf) as dsn:
            yield {}, dsn
        return
    mosquitto = request.getfixturevalue("mosquitto")
    try:
        server = request.getfixturevalue("timescaledb_dsn")
    except pytest.skip.Exception:
        server = request.getfixturevalue("postgres15_dsn")
    dsn = new_database(server)
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {connection.info.dbname} SET twin.max_future_s = 'inf'")  # for the panels
    yield (
        {
            "TWIN_TELEMETRY_DSN": dsn,
            "TWIN_MQTT_HOST": HOST,
            "TWIN_MQTT_PORT": str(mosquitto.port),
            "TWIN_MQTT_USERNAME": mosquitto.username,
            "TWIN_MQTT_PASSWORD": mosquitto.password,
        },
        dsn,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_metrics_panels_and_alert_of_a_live_minute(
    store: tuple[dict[str, str], str], registry: Settings, tmp_path: Path
) -> None:
    need(DEBIAN["prometheus"], DEBIAN["prometheus-alertmanager"])
    store_environment, dsn = store
    ports = {name: free_port(HOST, near) for name, near in
             (("SERVICE", 31800), ("METRICS", 19150), ("SIMULATOR_METRICS", 19160), ("MQTT", 18900))}  # fmt: skip
    environment = {
        "TWIN_VAR": str(tmp_path / "var"),
        "TWIN_SERVICE_PORT": str(ports["SERVICE"]),
        "TWIN_SIMULATOR_METRICS_PORT": str(ports["SIMULATOR_METRICS"]),
        "TWIN_METRICS_PORT": str(ports["METRICS"]),
        "TWIN_MQTT_PORT": str(ports["MQTT"]),
        "TWIN_EVALUATION_INTERVAL_S": "1",
        "TWIN_MAX_FUTURE_S": "inf",  # the simulator runs ahead of the clock
        **store_environment,
    }
    metrics_url = f"http://{HOST}:{ports['METRICS']}/metrics"
    live = ["simulator.live", "--batteries", str(BATTERIES), "--for", str(LIVE_S), "--speed", "120"]
    live += [word for injection in INJECTIONS for word in ("--inject", injection)]
    with ExitStack() as stack:
        receiver: Webhook = stack.enter_context(webhook())
        (tmp_path / "am.yml").write_text(yaml.safe_dump(alertmanager_config(receiver.url)), encoding="utf-8")
        manager = stack.enter_context(alertmanager(tmp_path / "alertmanager", tmp_path / "am.yml"))
        config = prometheus_config(
            {
                "twin": f"{HOST}:{ports['METRICS']}",
                "prediction-service": f"{HOST}:{ports['SERVICE']}",
                "simulator": f"{HOST}:{ports['SIMULATOR_METRICS']}",
            },
            manager.url.removeprefix("http://"),
        )
        (tmp_path / "p.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        monitor = stack.enter_context(prometheus(tmp_path / "prometheus", tmp_path / "p.yml"))
        params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        params["drift"] |= DRIFT
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        monitoring = ["monitoring", "--params", str(tmp_path / "params.yaml")]
        stack.enter_context(running(monitoring, environment, tmp_path / "monitoring.log"))
        wait_until(lambda: is_up(metrics_url), 60, (tmp_path / "monitoring.log").read_text())
        stack.enter_context(running(["serving"], environment, tmp_path / "serving.log"))
        wait_until(lambda: is_up(f"http://{HOST}:{ports['SERVICE']}/readyz"), 120, "the service is not ready")
        simulator = stack.enter_context(running(live, environment, tmp_path / "simulator.log"))
        observed, first_reading, hot_since = Observed(), None, None
        while simulator.poll() is None or len(observed.panels) < len(list(targets())):
            samples = samples_of(httpx.get(metrics_url, trust_env=False).text)
            ids = sorted({dict(labels)["battery_id"] for name, labels in samples if name == "battery_voltage"})
            if ids and first_reading is None:
                first_reading = time.monotonic()
            if hot_since is None and any(v > 60 for (n, _), v in samples.items() if n == "battery_temperature_actual"):
                hot_since = time.monotonic()
            waiting = [target for target in targets() if target not in observed.panels]
            if ids:
                observed.update(samples, waiting, lambda target, ids=ids: points(target, monitor.url, dsn, ids) > 0)
            if simulator.poll() is not None and time.monotonic() > first_reading + LIVE_S + 30:
                break
            time.sleep(1.0)
        log = (tmp_path / "simulator.log").read_text()
        assert simulator.returncode == 0, log
        assert hot_since is not None
        hot = {"alertname": "ThermalExcess"}
        fired, resolved = receiver.received_at("firing", **hot), receiver.received_at("resolved", **hot)
    empty = [target for target in targets() if target not in observed.panels]
    figures = {
        "outcomes": _count(dsn, "SELECT target, count(*) FROM prediction_outcomes GROUP BY 1 ORDER BY 1"),
        "panels with data": f"{len(observed.panels)} of {len(observed.panels) + len(empty)} queries",
        "alert fired after": None if fired is None else round(fired - hot_since, 1),
        "alert resolved after": None if resolved is None or fired is None else round(resolved - hot_since, 1),
        "empty": sorted({f"{target.panel}: {target.text}" for target in empty}),
    }
    print(figures)
    assert observed.metrics >= CONTRACT | ACTUAL, CONTRACT | ACTUAL - observed.metrics
    assert observed.evaluated == set(TARGETS)
    assert fired is not None
    assert fired - hot_since <= 30.0
    assert resolved is not None
    assert [target.text for target in empty] == []


def _count(dsn: str, sql: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()
    finally:
        connection.close()
