"""Grafana dashboards: committed JSON equals the specification, and every query returns data."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from deploy.servers.install import DEBIAN
from deploy.servers.process import unused_port
from deploy.servers.prometheus import prometheus
from features.targets import TARGET_NAMES
from monitoring.__main__ import run_monitoring
from monitoring.alerting_config import prometheus_config
from monitoring.exporter import _READING_GAUGES
from monitoring.grafana.panels import DASHBOARDS, FLEET
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from tests.monitoring import store_rows as rows
from tests.monitoring.panel_data import DASHBOARDS as FOLDER
from tests.monitoring.panel_data import points, targets
from tests.needs import need

PROVISIONING = FOLDER.parent / "provisioning"
#: The contract's panels -> metrics that one panel must query.
CONTRACT = {
    "SoH actual/predicted": {"battery_soh_actual", "battery_soh_predicted"},
    "SoH gauge": {"battery_soh_predicted"},
    "SoC gauge": {"battery_soc_actual"},
    "temperature actual/predicted": {"battery_temperature_actual", "battery_temperature_predicted"},
    "RUL actual/predicted with interval": {
        "battery_rul_actual",
        "battery_rul_predicted",
        "battery_rul_predicted_interval",
    },
    "voltage, current and power": {"battery_voltage", "battery_current", "battery_power"},
    "failure probability gauge": {"battery_failure_predicted"},
    "prediction accuracy over time": {"prediction_accuracy"},
    "predictions made": {"predictions_total"},
    "retraining events": {"model_training_total"},
    "alert list": {"ALERTS"},
}


def test_committed_dashboards_equal_the_specification() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk is absent")
    from monitoring.grafana.build import dashboard_json

    generated = {f"{spec.uid}.json": dashboard_json(spec) for spec in DASHBOARDS}
    committed = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.json")}
    assert generated == committed, "run `python -m monitoring.grafana` and commit what it writes"


def test_panels_of_the_contract_exist() -> None:
    queried = [(panel.kind, {word for query in panel.queries for word in re.findall(r"\w+", query.expression)})
             for panel in FLEET.panels]  # fmt: skip
    for name, metrics in CONTRACT.items():
        kinds = {"gauge"} if "gauge" in name else {"timeseries", "table"}
        assert any(kind in kinds and metrics <= words for kind, words in queried), name
    assert len(FLEET.panels) >= len(CONTRACT)


def test_dashboards_have_a_valid_layout_and_known_data_sources() -> None:
    sources = [yaml.safe_load(file.read_text()) for file in (PROVISIONING / "datasources").glob("*.yml")]
    uids = {source["uid"] for file in sources for source in file["datasources"]}
    for file in FOLDER.glob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        used = {target["datasource"]["uid"] for panel in content["panels"] for target in panel.get("targets", [])}
        assert used <= uids
        assert content["uid"]
        for panel in content["panels"]:
            position = panel["gridPos"]
            assert position["x"] + position["w"] <= 24, panel["title"]
            assert len({target["refId"] for target in panel.get("targets", [])}) == len(panel.get("targets", []))


def test_provisioning_contains_no_password() -> None:
    text = (PROVISIONING / "datasources" / "timescaledb.yml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["datasources"][0]["secureJsonData"] == {"password": "$TWIN_READER_DB_PASSWORD"}


def write_fleet(dsn: str) -> None:
    """Fill a store as a running twin does: one battery at its end of life and one that is too hot now."""
    now = datetime.now(UTC).replace(microsecond=0).timestamp() - rows.START.timestamp()
    seconds = [now - 1200 + s for s in rows.every(20, 1200)]
    for battery_id, end, heat in (("EV-1", 79.5, 25.0), ("EV-2", 90.0, 70.0)):
        rows.write(
            dsn,
            readings=[
                rows.reading(
                    battery_id,
                    s,
                    charge_cycles=100 + n / 10,
                    soh=90.0 if n < 50 else end,
                    temperature=heat if n == 60 else 25.0,
                )
                for n, s in enumerate(seconds)
            ],
            predictions=[
                rows.prediction(
                    battery_id, s, target, value, cycle_index=100 + n / 10, lower=value * 0.9, upper=value * 1.1
                )
                for n, s in enumerate(seconds)
                for target, value in (("soh", 89.0), ("temperature", 26.0), ("rul", 4.0), ("failure", 0.4))
            ],
        )
    rows.query(dsn, "INSERT INTO drift_status VALUES ('rul', 'errors', 0.4, 0.2, true)")


#: Metrics of other processes: the service and the simulator are not running.
OTHER_PROCESSES = ('job!="twin"', "spool_", "prediction_request_duration", "model_registry_events")


def test_every_query_returns_data(postgres_server: str, new_database: Callable[[str], str], tmp_path: Path) -> None:
    need(DEBIAN["prometheus"])
    dsn = new_database(postgres_server)
    migrate(dsn)
    write_fleet(dsn)
    settings = Settings(var=tmp_path, telemetry_dsn=dsn, metrics_port=unused_port())
    wanted = [target for target in targets() if not any(word in target.text for word in OTHER_PROCESSES)]
    assert len(wanted) >= 20
    with run_monitoring(settings, tmp_path / "none.yaml", threading.Event()):
        config = prometheus_config({"twin": f"127.0.0.1:{settings.metrics_port}"})
        config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        with prometheus(tmp_path / "prometheus", tmp_path / "prometheus.yml") as monitor:
            deadline = time.monotonic() + 45
            while empty := [t for t in wanted if not points(t, monitor.url, dsn, ["EV-1", "EV-2"])]:
                assert time.monotonic() < deadline, [(target.panel, target.text) for target in empty]
                time.sleep(0.5)
            # Negative control: an unknown battery has no data.
            unexpected = [t for t in wanted if "$battery" in t.text and points(t, monitor.url, dsn, ["EV-9"])]
            assert unexpected == []


def test_queried_metrics_exist_in_the_exporter() -> None:
    gauges = {*_READING_GAUGES, "battery_temperature_forecast"}
    gauges |= {f"battery_{target}_{kind}" for target in TARGET_NAMES for kind in ("actual", "predicted")}
    queried = {
        name for target in targets() for name in re.findall(r"\bbattery_(?!id\b)\w+", target.query.get("expr", ""))
    }
    assert {name.removesuffix("_interval") for name in queried} <= gauges
