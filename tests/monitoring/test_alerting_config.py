"""Alert rules and configuration: accepted by Prometheus and Alertmanager, rule tests, and one alert end to end."""

from __future__ import annotations

import subprocess
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import yaml

from deploy.servers.install import DEBIAN
from deploy.servers.process import unused_port
from deploy.servers.prometheus import alertmanager, prometheus
from monitoring.__main__ import run_monitoring
from monitoring.alerting_config import (
    ALERTS_FILE,
    FOLDER,
    PROMETHEUS_FILE,
    alertmanager_config,
    main,
    prometheus_config,
)
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from tests.monitoring.store_rows import reading, write
from tests.monitoring.webhook import webhook
from tests.needs import need

TESTS = Path(__file__).with_name("alerts.test.yml")


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    need(DEBIAN["prometheus"])
    program = str(DEBIAN["prometheus"].program("promtool"))
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_prometheus_accepts_the_configuration_and_rules() -> None:
    done = promtool("check", "config", str(PROMETHEUS_FILE))
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_pass_their_promtool_tests() -> None:
    done = promtool("test", "rules", str(TESTS))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("battery_temperature_confirmed > 60", "battery_temperature_confirmed > 62"),
        ("battery_soc_confirmed < 20", "battery_soc_confirmed <= 20"),
        ("keep_firing_for: 10s", "keep_firing_for: 0s"),
        ("prediction_interval_outcomes >= 100", "prediction_interval_outcomes >= 10"),
        ("unless on() (twin_store_up == 1)", "unless on() (twin_store_up >= 0)"),
        ('and on (battery_id) ALERTS{alertname="ThermalExcess"}', ""),
        ("spool_producers_max_bytes > 0.9", "spool_producers_max_bytes > 0.95"),
    ],
)
def test_promtool_tests_fail_for_a_changed_rule(tmp_path: Path, right: str, wrong: str) -> None:
    rules = ALERTS_FILE.read_text(encoding="utf-8")
    assert right in rules
    (tmp_path / "alerts.yml").write_text(rules.replace(right, wrong, 1), encoding="utf-8")
    tests = yaml.safe_load(TESTS.read_text(encoding="utf-8")) | {"rule_files": ["alerts.yml"]}
    (tmp_path / "alerts.test.yml").write_text(yaml.safe_dump(tests), encoding="utf-8")
    assert promtool("test", "rules", str(tmp_path / "alerts.test.yml")).returncode != 0


def test_every_alert_has_a_promtool_test() -> None:
    rules = yaml.safe_load(ALERTS_FILE.read_text(encoding="utf-8"))
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    cases = yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]
    fired = {case["alertname"] for test in cases for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == alerts


def test_alertmanager_accepts_the_configuration_with_and_without_a_webhook(tmp_path: Path) -> None:
    need(DEBIAN["prometheus-alertmanager"])
    with_webhook = tmp_path / "with_webhook.yml"
    with_webhook.write_text(yaml.safe_dump(alertmanager_config("http://127.0.0.1:1/x")), encoding="utf-8")
    for file in (FOLDER / "alertmanager" / "alertmanager.yml", with_webhook):
        done = subprocess.run(["amtool", "check-config", str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_command_prints_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prometheus", "--target", "twin=127.0.0.1:9091"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:9091"]}]
    assert main(["alertmanager", "--webhook", "http://x/"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["receivers"][0]["webhook_configs"][0]["url"] == "http://x/"
    assert main(["prometheus", "--target", "twins=127.0.0.1:9091"]) == 2
    assert "Unknown job twins" in capsys.readouterr().err
    assert main(["prometheus", "--target", "twin"]) == 2
    assert "is not JOB=HOST:PORT" in capsys.readouterr().err


@pytest.mark.parametrize("webhook", ["nonsense", "ftp://127.0.0.1/x", "http://", "127.0.0.1:5002/alerts"])
def test_invalid_webhook_url_is_refused(webhook: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alertmanager", "--webhook", webhook]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{webhook!r} is not an http or https URL" in captured.err


def test_overheating_alert_reaches_the_webhook_within_30_seconds_and_resolves(
    postgres_dsn: str, tmp_path: Path
) -> None:
    """From a reading in the store over exporter, Prometheus and Alertmanager to a webhook, with the shipped files."""
    need(DEBIAN["prometheus"], DEBIAN["prometheus-alertmanager"])
    migrate(postgres_dsn)
    port = unused_port()
    settings = Settings(var=tmp_path, telemetry_dsn=postgres_dsn, metrics_port=port)
    started = time.time()

    def write_temperature(temperature: float) -> None:
        now = datetime.now(UTC)
        write(postgres_dsn, readings=[reading(name, 0, time=now, temperature=heat) for name, heat in
                                      (("EV-1", temperature), ("EV-2", 25.0))])  # fmt: skip

    write_temperature(25.0)
    with webhook() as receiver, run_monitoring(settings, tmp_path / "none.yaml", threading.Event()):
        (tmp_path / "am.yml").write_text(yaml.safe_dump(alertmanager_config(receiver.url)), encoding="utf-8")
        with alertmanager(tmp_path / "alertmanager", tmp_path / "am.yml") as manager:
            config = prometheus_config({"twin": f"127.0.0.1:{port}"}, manager.url.removeprefix("http://"))
            (tmp_path / "p.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
            with prometheus(tmp_path / "prometheus", tmp_path / "p.yml") as monitor:

                def has_result(query: str) -> bool:
                    response = httpx.get(f"{monitor.url}/api/v1/query", params={"query": query}, trust_env=False).json()
                    return bool(response["data"]["result"])

                deadline = time.monotonic() + 30
                while not has_result("battery_temperature_actual == 25"):
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
                write_temperature(70.0)
                hot = {"alertname": "ThermalExcess", "battery_id": "EV-1"}
                fired_s = receiver.wait("firing", 30.0, **hot)
                write_temperature(30.0)
                resolved_s = receiver.wait("resolved", 60.0, **hot)
    print(f"firing after {fired_s:.1f} s, resolved after {resolved_s:.1f} s, {time.time() - started:.0f} s in all")
    assert receiver.received_at("firing", battery_id="EV-2") is None
