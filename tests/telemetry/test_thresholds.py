"""Every place that has a threshold has the one of the table: store, status, console, Prometheus, Grafana, documents."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from console.alerts.rules import RULES
from monitoring.alerting_config import ALERTS_FILE
from monitoring.fleet_queries import CONFIRMED
from monitoring.grafana.panels import FLEET
from telemetry.health import battery_health
from telemetry.stores.migrate import migrate
from telemetry.thresholds import THRESHOLDS, Threshold, thresholds
from tests.monitoring.store_rows import query

ROOT = Path(__file__).resolve().parents[2]
#: Status by quantity, from the contract: WARNING, CRITICAL.
CONTRACT_STATUS = {
    "soc": (30.0, 15.0),
    "soh": (85.0, 75.0),
    "temperature": (45.0, 60.0),
    "failure_probability": (0.3, 0.7),
}
#: `GET /api/alerts` and the alert list of Grafana, from the contract.
CONTRACT_ALERTS = {"soc": 20.0, "temperature": 60.0, "failure_probability": 0.7, "rul": 100.0}
METRICS = {
    "temperature": "battery_temperature_confirmed",
    "soc": "battery_soc_confirmed",
    "failure_probability": "battery_failure_predicted",
    "rul": "battery_rul_predicted",
}
ALERTS: dict[str, Any] = {
    rule["alert"]: rule
    for group in yaml.safe_load(ALERTS_FILE.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}


@pytest.fixture(scope="module")
def dsn(postgres_server: str, new_database: Any) -> str:
    created: str = new_database(postgres_server)
    migrate(created)
    return created


def test_table_has_the_values_of_the_contract() -> None:
    status = {name: (row.warning, row.critical) for name, row in thresholds("status").items()}
    assert status == CONTRACT_STATUS
    alerts = {row.quantity: row.critical or row.warning for row in thresholds("prometheus").values()
              if row.name not in ("ThermalWarning", "ThermalExcessForecast")}  # fmt: skip
    assert alerts == CONTRACT_ALERTS
    for row in THRESHOLDS:
        if row.use in ("console", "grafana") and row.quantity in CONTRACT_STATUS:
            assert (row.warning, row.critical) == CONTRACT_STATUS[row.quantity], row
        assert row.is_high == (row.quantity in ("temperature", "failure_probability")), row


def around(row: Threshold) -> list[float]:
    return [
        value
        for limit in (row.warning, row.critical)
        if limit is not None
        for value in (math.nextafter(limit, -math.inf), limit, math.nextafter(limit, math.inf))
    ]


def test_status_of_store_and_simulator_follows_the_table(dsn: str) -> None:
    names = ("soc", "soh", "temperature", "failure_probability")
    for name, row in thresholds("status").items():
        for value in [*around(row), None, math.nan]:
            is_known = value is not None and not math.isnan(value)
            expected = "NORMAL"
            for level, limit in (("WARNING", row.warning), ("CRITICAL", row.critical)):
                if is_known and limit is not None and (value > limit if row.is_high else value < limit):
                    expected = level
            given = [value if name == one else None for one in names]
            assert battery_health(*given) == expected, (name, value)
            assert query(dsn, "SELECT get_battery_health(%s, %s, %s, %s)", given) == [(expected,)], (name, value)


def test_console_has_a_rule_for_each_of_its_rows() -> None:
    rows = thresholds("console")
    assert RULES.keys() == rows.keys()
    for name, rule in RULES.items():
        row = rows[name]
        assert (rule.warning, rule.critical, rule.is_high, rule.readings) == (
            row.warning, row.critical, row.is_high, row.readings
        )  # fmt: skip
        assert rule.columns[0].startswith(row.quantity), name
    safety = [rule.readings for rule in RULES.values() if rule.category == "safety"]
    others = [rule.readings for rule in RULES.values() if rule.category != "safety"]
    assert 1 < max(safety) < min(others)  # no single reading opens an alert, and safety does not wait for long


@pytest.mark.parametrize("row", thresholds("prometheus").values(), ids=lambda row: str(row.name))
def test_prometheus_rules_follow_the_table(row: Threshold) -> None:
    rule = ALERTS[row.name]
    (limit,) = [value for value in (row.warning, row.critical) if value is not None]
    metric = "battery_temperature_forecast" if row.name == "ThermalExcessForecast" else METRICS[row.quantity]
    found = re.findall(rf"{metric}(?:\[10m\]\))? ([<>]) ([0-9.]+)", rule["expr"])
    assert found == [(">" if row.is_high else "<", f"{limit:g}")] * 2, rule["expr"]
    assert rule.get("for", "0s") in ("0s" if row.for_s == 0 else f"{row.for_s:g}s", f"{row.for_s / 60:g}m")
    assert rule["labels"]["severity"] == ("critical" if row.critical is not None else "warning")
    assert f"{limit:g}" in rule["annotations"]["summary"] + rule["annotations"]["description"]
    assert (row.readings > 1) == metric.endswith("_confirmed")
    assert row.readings in (1, 2)  # *_confirmed compares two
    if row.readings > 1:
        assert CONFIRMED[row.quantity] is row.is_high


def test_upper_limit_of_the_warning_is_the_critical_one() -> None:
    assert re.findall(r"<= ([0-9.]+)", ALERTS["ThermalWarning"]["expr"]) == ["60", "60"]
    assert thresholds("prometheus")["ThermalExcess"].critical == 60.0


def test_gauges_of_grafana_follow_the_table() -> None:
    gauges = {panel.title: panel for panel in FLEET.panels if panel.kind == "gauge"}
    assert gauges.keys() == thresholds("grafana").keys()
    for title, row in thresholds("grafana").items():
        limits = {limit for limit, _ in gauges[title].steps if limit is not None}
        assert limits == {row.warning, row.critical}
        first, last = gauges[title].steps[0][1], gauges[title].steps[-1][1]
        assert (first, last) == (("#009E73", "#D55E00") if row.is_high else ("#D55E00", "#009E73")), title
        assert f"{row.warning:g}" in gauges[title].description


def test_documents_name_the_thresholds() -> None:
    console = (ROOT / "docs" / "console.md").read_text(encoding="utf-8")
    for name, rule in RULES.items():
        (line,) = [line for line in console.splitlines() if line.startswith(f"| {name}")]
        for limit in (rule.warning, rule.critical):
            assert limit is None or f"{'above' if rule.is_high else 'below'} {limit:g}" in line, line
        assert f"| {rule.readings} |" in line, line
    monitoring = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    for name, row in thresholds("prometheus").items():
        (line,) = [line for line in monitoring.splitlines() if line.startswith("|") and name in line]
        for limit in (row.warning, row.critical):
            assert limit is None or f"{limit:g}" in line, line
