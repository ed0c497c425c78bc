"""Prometheus exporter: every metric of the contract, no sample for unknown values, few SQL statements for any fleet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from features.labels import LabelParams
from monitoring import exporter
from monitoring.evaluation.evaluator import Evaluator
from monitoring.exporter import TwinCollector
from monitoring.fleet_queries import FleetReader
from monitoring.registry_poll import RegistryPoller, RegistryState
from telemetry.embedded.ports import free_port
from telemetry.metrics_server import metrics_server
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from tests.monitoring.store_rows import at, every, prediction, query, reading, write

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = {
    "battery_soc_actual", "battery_soh_actual", "battery_soh_predicted", "battery_temperature_actual",
    "battery_temperature_predicted", "battery_temperature_forecast", "battery_rul_actual", "battery_rul_predicted",
    "battery_failure_actual", "battery_failure_predicted", "battery_voltage", "battery_current", "battery_power",
    "prediction_accuracy", "prediction_error_bucket", "predictions_total", "model_training_total",
}  # fmt: skip
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples_of(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value_of(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


class Scraper:
    """Scrapes an exporter without an HTTP server."""

    def __init__(self, dsn: str, tmp_path: Path) -> None:
        self.reader = FleetReader(dsn)
        self.registry = RegistryPoller(Settings(var=tmp_path))
        self.now = time.time()
        self.collector = TwinCollector(self.reader, self.registry, clock=lambda: self.now)
        self.text = ""

    def scrape(self) -> Samples:
        self.collector._read_at = float("-inf")
        registry = CollectorRegistry()
        registry.register(self.collector)
        self.text = generate_latest(registry).decode()
        return samples_of(self.text)


@pytest.fixture
def dsn(postgres_dsn: str) -> str:
    migrate(postgres_dsn)
    return postgres_dsn


@pytest.fixture
def scraper(dsn: str, tmp_path: Path) -> Iterator[Scraper]:
    opened = Scraper(dsn, tmp_path)
    opened.scrape()  # counters start here
    yield opened
    opened.reader.close()


def evaluate(dsn: str) -> None:
    evaluator = Evaluator(dsn, lambda _name, _version: LabelParams())
    evaluator.catch_up()
    evaluator.close()


def write_battery(dsn: str, battery_id: str = "EV-1") -> None:
    """A battery with predictions whose forecast horizon passes and that reaches its end of life."""
    for s in every(20, 620):
        health = 80.1 if s < 600 else 79.9
        write(
            dsn,
            readings=[reading(battery_id, s, soh=health, charge_cycles=500 + s / 100, temperature=20 + s / 100)],
            predictions=[
                prediction(battery_id, s, target, value, cycle_index=500 + s / 100)
                for target, value in (("soh", 81.0), ("temperature", 24.5 + s / 100), ("rul", 10.0), ("failure", 0.75))
            ],
        )
    evaluate(dsn)


def test_every_metric_of_the_contract_is_exported(dsn: str, scraper: Scraper) -> None:
    scraper.registry.state = RegistryState(
        trainings={"soh": 3}, champions={"soh": 2}, release=7, events={"register": 3}
    )
    write_battery(dsn)
    samples = scraper.scrape()
    assert {name for name, _ in samples} >= CONTRACT
    battery = {"battery_id": "EV-1"}
    assert value_of(samples, "battery_soc_actual", **battery) == 60.0
    assert value_of(samples, "battery_soh_actual", **battery) == 79.9
    assert value_of(samples, "battery_power", **battery) == pytest.approx(14.4)
    assert value_of(samples, "battery_temperature_actual", **battery) == pytest.approx(26.2)
    # Forecast at 320 s for 620 s, and at 620 s for later.
    assert value_of(samples, "battery_temperature_predicted", **battery) == pytest.approx(27.7)
    assert value_of(samples, "battery_temperature_forecast", **battery) == pytest.approx(30.7)
    assert value_of(samples, "battery_rul_predicted", **battery) == 10.0
    # Of the newest prediction in kept_predictions before the end of life at 506 cycles, made at 505.
    assert value_of(samples, "battery_rul_actual", **battery) == pytest.approx(1.0)
    assert value_of(samples, "battery_failure_actual", **battery) == 1.0
    assert value_of(samples, "predictions_total", **battery) == 4 * 32
    assert value_of(samples, "model_training_total", metric="soh") == 3
    assert value_of(samples, "prediction_lag_seconds", **battery) == 0.0
    assert value_of(samples, "model_batteries", metric="rul", model="battery-rul", version="1") == 1.0
    # 24.5 + 0 forecast at 0 s for 300 s, where it was 23.0; and 27.5 at 300 s for 600 s, where it was 26.0.
    assert value_of(samples, "prediction_error_sum", metric="temperature") == pytest.approx(3.0)
    assert value_of(samples, "prediction_error_count", metric="temperature") == 2
    assert value_of(samples, "prediction_error_bucket", metric="temperature", le="1.0") == 0
    assert value_of(samples, "prediction_error_bucket", metric="temperature", le="2.0") == 2
    assert value_of(samples, "prediction_accuracy", metric="temperature") == pytest.approx(
        50 * (2 - 1.5 / 23 - 1.5 / 26)
    )
    # The floor of remaining life is 50 cycles: an error of 9 on 1 cycle left is not 900 %.
    errors = [10.0 - n for n in range(1, 7)]
    expected = sum(100 * (1 - error / 50) for error in errors) / len(errors)
    assert value_of(samples, "prediction_accuracy", metric="rul") == pytest.approx(expected)


def test_unknown_values_have_no_sample(dsn: str, scraper: Scraper) -> None:
    write(dsn, readings=[reading("EV-1", 0, soc=None)], predictions=[prediction("EV-1", 0, "temperature", 31.0)])
    evaluate(dsn)
    samples = scraper.scrape()
    absent = {"battery_soc_actual", "battery_soh_actual", "battery_temperature_predicted", "battery_rul_predicted",
              "battery_rul_actual", "battery_failure_actual", "prediction_accuracy", "prediction_interval_coverage",
              "model_training_total"}  # fmt: skip
    assert absent.isdisjoint(name for name, _ in samples)
    assert "NaN" not in scraper.text
    assert value_of(samples, "battery_temperature_forecast", battery_id="EV-1") == 31.0


def test_intervals_and_their_coverage_are_exported(dsn: str, scraper: Scraper) -> None:
    times = [0.0, 300.0, 600.0, 900.0, 1220.0]
    write(
        dsn,
        readings=[reading("EV-1", s) for s in every(20, 1220)],
        predictions=[
            prediction("EV-1", s, "temperature", 25.5, lower=25.2 if s == 900.0 else 24.0, upper=27.0) for s in times
        ],
    )
    evaluate(dsn)
    samples = scraper.scrape()
    assert value_of(samples, "prediction_interval_coverage", metric="temperature") == 0.75
    assert value_of(samples, "prediction_interval_outcomes", metric="temperature") == 4
    assert value_of(samples, "battery_temperature_forecast_interval", battery_id="EV-1", bound="upper") == 27.0


def test_prediction_lag_is_measured_on_the_wall_clock(dsn: str, scraper: Scraper) -> None:
    write(dsn, readings=[reading("EV-1", s) for s in (0, 20, 40)], predictions=[prediction("EV-1", 0, "soh", 90.0)])
    query(
        dsn, "UPDATE ev_telemetry SET created_at = %s WHERE time = %s", (datetime.now(UTC) - timedelta(hours=1), at(20))
    )
    assert value_of(scraper.scrape(), "prediction_lag_seconds", battery_id="EV-1") == pytest.approx(3600, abs=5)
    write(dsn, predictions=[prediction("EV-1", s, "soh", 90.0) for s in (20, 40)])
    assert value_of(scraper.scrape(), "prediction_lag_seconds", battery_id="EV-1") == 0.0


def test_predictions_since_the_start_are_counted_once(dsn: str, tmp_path: Path) -> None:
    write(dsn, readings=[reading("EV-1", 0)], predictions=[prediction("EV-1", 0, "soh", 90.0)])
    scraper = Scraper(dsn, tmp_path)
    assert value_of(scraper.scrape(), "predictions_total", battery_id="EV-1") == 0
    write(dsn, readings=[reading("EV-1", 1)], predictions=[prediction("EV-1", 1, t, 1.0) for t in ("soh", "rul")])
    write(dsn, predictions=[prediction("EV-1", 1, "soh", 90.0, role="challenger")])
    assert value_of(scraper.scrape(), "predictions_total", battery_id="EV-1") == 2
    assert value_of(scraper.scrape(), "predictions_total", battery_id="EV-1") == 2
    scraper.reader.close()


def test_drift_status_is_exported(dsn: str, scraper: Scraper) -> None:
    query(dsn, "INSERT INTO drift_status VALUES ('rul', 'errors', 0.4, 0.2, true)")
    samples = scraper.scrape()
    assert value_of(samples, "model_drifting", metric="rul", kind="errors") == 1
    assert value_of(samples, "model_drift_score", metric="rul", kind="errors") == 0.4


def test_forecasts_expire_when_due_and_other_predictions_after_a_day(dsn: str, scraper: Scraper) -> None:
    targets = {"temperature": 61.0, "soh": 90.0, "rul": 80.0, "failure": 0.9}
    write(
        dsn,
        readings=[reading("EV-1", 0)],
        predictions=[prediction("EV-1", 0, target, value) for target, value in targets.items()],
    )
    slow = "battery_soh_predicted", "battery_rul_predicted", "battery_failure_predicted"
    for seconds, forecast, valid in (
        (280, 61.0, True),
        (300, None, True),
        (86400, None, True),
        (86401, None, False),
    ):
        write(dsn, readings=[reading("EV-1", seconds)])
        samples = scraper.scrape()
        assert value_of(samples, "battery_temperature_forecast", battery_id="EV-1") == forecast
        assert all((value_of(samples, name, battery_id="EV-1") is not None) == valid for name in slow)
    assert value_of(samples, "model_batteries", metric="rul", model="battery-rul", version="1") == 1.0


def test_battery_without_predictions_has_a_lag_only_if_predictions_are_expected(dsn: str, scraper: Scraper) -> None:
    write(dsn, readings=[reading("EV-1", s) for s in (0, 3000, 4000)])
    query(dsn, "UPDATE ev_telemetry SET created_at = now() - interval '50 s' WHERE time = %s", (at(3000),))
    # Without a release and predictions, none are expected.
    assert value_of(scraper.scrape(), "prediction_lag_seconds", battery_id="EV-1") is None
    scraper.registry.state = RegistryState(trainings={}, release=1)
    assert value_of(scraper.scrape(), "prediction_lag_seconds", battery_id="EV-1") == pytest.approx(50, abs=5)
    scraper.registry.state = None
    write(dsn, readings=[reading("EV-2", 0)], predictions=[prediction("EV-2", 0, "soh", 90.0)])
    assert value_of(scraper.scrape(), "prediction_lag_seconds", battery_id="EV-1") == pytest.approx(50, abs=5)
    # A battery whose newest reading was stored long ago was imported and has no lag.
    query(dsn, "UPDATE ev_telemetry SET created_at = now() - interval '2 hours'")
    assert value_of(scraper.scrape(), "prediction_lag_seconds", battery_id="EV-1") is None
    assert value_of(scraper.scrape(), "prediction_lag_seconds", battery_id="EV-2") == 0.0


class CountingReader(FleetReader):
    """Counts statements."""

    statements = 0

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with super().transaction() as cursor:
            reader = self

            class Counting:
                def execute(self, *arguments: Any) -> None:
                    reader.statements += 1
                    cursor.execute(*arguments)

                def __getattr__(self, name: str) -> Any:
                    return getattr(cursor, name)

                def __iter__(self) -> Iterator[Any]:
                    return iter(cursor)

            yield Counting()


def test_number_of_sql_statements_does_not_depend_on_the_fleet_size(dsn: str, tmp_path: Path) -> None:
    counts = []
    for fleet in (1, 100):
        names = [f"EV-{n}" for n in range(fleet)]
        write(
            dsn,
            readings=[reading(name, fleet) for name in names],
            predictions=[prediction(name, fleet, "soh", 90.0) for name in names],
        )
        reader = CountingReader(dsn)
        reader.read()
        before = reader.statements
        write(dsn, predictions=[prediction(name, fleet + 1, "soh", 90.0) for name in names])
        assert len(reader.read().readings) == fleet
        counts.append(reader.statements - before)
        reader.close()
    assert counts[0] == counts[1] < 10


def test_unavailable_store_is_reported_without_stale_values(tmp_path: Path) -> None:
    unavailable = Scraper("postgresql://user@127.0.0.1:9/none", tmp_path)
    samples = unavailable.scrape()
    assert value_of(samples, "twin_store_up") == 0
    assert not [name for name, _ in samples if name.startswith("battery_")]


def test_unresponsive_store_is_reported_within_the_scrape_timeout(
    dsn: str, scraper: Scraper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "_READ_TIMEOUT_S", 0.2)
    write(dsn, readings=[reading("EV-1", 0)], predictions=[prediction("EV-1", 0, "soh", 90.0)])
    scraper.scrape()
    write(dsn, predictions=[prediction("EV-1", 1, "soh", 90.0)])
    blocking = psycopg2.connect(dsn)
    blocking.cursor().execute("LOCK TABLE batteries IN ACCESS EXCLUSIVE MODE")
    for _ in range(2):
        samples = scraper.scrape()
        assert value_of(samples, "twin_store_up") == 0
        assert value_of(samples, "battery_voltage", battery_id="EV-1") is None
        assert value_of(samples, "predictions_total", battery_id="EV-1") == 1  # counters are kept
    blocking.close()
    monkeypatch.undo()
    samples = scraper.scrape()
    assert value_of(samples, "twin_store_up") == 1
    assert value_of(samples, "predictions_total", battery_id="EV-1") == 2


def test_metrics_server_serves_and_stops(dsn: str, scraper: Scraper) -> None:
    port = free_port("127.0.0.1", 19110)
    with metrics_server("127.0.0.1", port, scraper.collector):
        response = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)
        assert response.status_code == 200
        assert value_of(samples_of(response.text), "twin_store_up") == 1
    assert free_port("127.0.0.1", port) == port


def test_command_runs_until_sigterm(dsn: str, tmp_path: Path) -> None:
    port = free_port("127.0.0.1", 19120)
    environment = {
        **os.environ,
        "TWIN_VAR": str(tmp_path),
        "TWIN_TELEMETRY_DSN": dsn,
        "TWIN_METRICS_PORT": str(port),
        "TWIN_EVALUATION_INTERVAL_S": "0.2",
    }
    write_battery(dsn)
    query(dsn, "DELETE FROM prediction_outcomes")
    query(dsn, "UPDATE evaluation_batteries SET has_news = true")
    process = subprocess.Popen([sys.executable, "-m", "monitoring"], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().decode().startswith("metrics http://127.0.0.1:")
        deadline = time.monotonic() + 60
        while True:
            samples = samples_of(httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text)
            done = value_of(samples, "battery_rul_actual", battery_id="EV-1") and value_of(samples, "model_registry_up")
            if done:
                break
            assert time.monotonic() < deadline, samples
            time.sleep(0.5)
        # The registry of an empty folder has no such model, so the project's label definitions apply.
        assert value_of(samples, "model_training_total", metric="soh") == 0
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        process.stdout.close()
