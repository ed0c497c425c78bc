"""One bad row, whatever is in it, costs no other battery its metrics, alerts, outcomes or drift windows."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.servers.process import unused_port
from features.labels import LabelParams
from monitoring.__main__ import run_monitoring
from monitoring.evaluation.evaluator import Evaluator
from monitoring.fleet_queries import FleetReader
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from telemetry.stores.newest import TIME_LIMIT
from tests.hostile import drop_checks, insert_hostile, stored_rows
from tests.monitoring.store_rows import at, every, outcomes, prediction, query, reading, write
from tests.monitoring.test_exporter import Scraper, samples_of, value_of

YEARS = timedelta(days=3653)
NEWEST = "SELECT battery_id, temperature FROM latest_battery_status ORDER BY battery_id"


@pytest.fixture
def dsn(postgres_dsn: str) -> str:
    migrate(postgres_dsn)
    return postgres_dsn


@pytest.fixture
def unconstrained(dsn: str) -> str:
    """A store whose constraints keep nothing out."""
    drop_checks(dsn)
    return dsn


@pytest.fixture
def scraper(dsn: str, tmp_path: Path) -> Iterator[Scraper]:
    opened = Scraper(dsn, tmp_path)
    opened.scrape()
    yield opened
    opened.reader.close()


def evaluate(dsn: str, max_future_s: float | None = None) -> None:
    evaluator = Evaluator(dsn, lambda _name, _version: LabelParams(), max_future_s=max_future_s)
    try:
        evaluator.catch_up()
    finally:
        evaluator.close()


def test_row_of_the_future_hides_nothing_from_metrics_and_alerts(dsn: str, scraper: Scraper) -> None:
    now = datetime.now(UTC)
    write(dsn, readings=[reading("EV-1", 0, time=now + YEARS, temperature=20.0, soc=90.0)])
    query(dsn, "UPDATE ev_telemetry SET created_at = now() - interval '1 hour'")
    samples = scraper.scrape()
    assert value_of(samples, "battery_temperature_actual", battery_id="EV-1") is None
    hot = [reading("EV-1", 0, time=now - timedelta(seconds=s), temperature=70.0) for s in (2, 1)]
    write(dsn, readings=hot, predictions=[prediction("EV-1", 0, "soh", 90.0, time=hot[1]["time"])])
    samples = scraper.scrape()
    assert value_of(samples, "battery_temperature_actual", battery_id="EV-1") == 70.0
    assert value_of(samples, "battery_temperature_confirmed", battery_id="EV-1") == 70.0  # ThermalExcess
    stored = value_of(samples, "battery_last_reading_timestamp_seconds", battery_id="EV-1")
    assert stored == pytest.approx(time.time(), abs=30)  # DataStopped
    # The predictors leave the row out too, so it does not wait for its prediction.
    assert value_of(samples, "prediction_lag_seconds", battery_id="EV-1") == 0.0
    assert query(dsn, NEWEST) == [("EV-1", 70.0)]
    # Negative control: without a limit the row is the newest, as for a simulator that runs ahead of the clock.
    ahead = FleetReader(dsn, math.inf)
    (newest,) = ahead.read().readings
    ahead.close()
    assert newest.signals["temperature"] == 20.0
    assert query(dsn, f"SET twin.max_future_s = 'inf'; {NEWEST}") == [("EV-1", 20.0)]


def test_limit_is_that_of_the_connection_then_of_the_database(dsn: str) -> None:
    ahead = f"SELECT extract(epoch FROM {TIME_LIMIT} - now())::float8"
    assert query(dsn, ahead) == [(300.0,)]
    assert query(dsn, f"SET twin.max_future_s = '20'; {ahead}") == [(20.0,)]
    assert query(dsn, f"SET twin.max_future_s = 'inf'; {ahead}")[0][0] > 9e8
    reader = FleetReader(dsn, 7.5)
    with reader.transaction() as cursor:
        cursor.execute(ahead)
        assert cursor.fetchone() == (7.5,)
    reader.close()


def write_life(dsn: str, battery_id: str, since_s: float = 0.0) -> None:
    """Readings and forecasts of ten minutes, which reach the end of life."""
    seconds = [since_s + s for s in every(20, 620)]
    write(
        dsn,
        readings=[
            reading(battery_id, s, soh=80.1 if s < since_s + 600 else 79.9, charge_cycles=500 + s / 100)
            for s in seconds
        ],
        predictions=[
            prediction(battery_id, s, target, value, cycle_index=500 + s / 100)
            for s in seconds
            for target, value in (("temperature", 25.5), ("rul", 10.0))
        ],
    )


def test_row_of_the_future_does_not_end_the_evaluation_of_its_battery(dsn: str) -> None:
    for battery_id in ("EV-1", "EV-2"):
        write(dsn, readings=[reading(battery_id, -60, charge_cycles=499.0)])
    future = datetime.now(UTC) + YEARS
    write(
        dsn,
        readings=[reading("EV-1", 0, time=future, charge_cycles=499.0)],
        predictions=[prediction("EV-1", 0, t, 1.0, time=future, due=future) for t in ("temperature", "rul")],
    )
    evaluate(dsn)
    # A version without the limit moved its cursor to the future.
    query(dsn, "UPDATE evaluation_batteries SET observed_until = %s WHERE battery_id = 'EV-1'", (future,))
    for battery_id in ("EV-1", "EV-2"):
        write_life(dsn, battery_id)
    evaluate(dsn)
    for target in ("temperature", "rul"):
        of = {name: [row[1:] for row in outcomes(dsn, target) if row[0] == name] for name in ("EV-1", "EV-2")}
        assert len(of["EV-1"]) > 1
        assert of["EV-1"] == of["EV-2"], target


HOSTILE: dict[str, str] = {
    "time before Python's calendar": "UPDATE ev_telemetry SET time = '4000-01-01 BC' WHERE battery_id = 'BAD'",
    "time at its beginning": "UPDATE ev_telemetry SET time = '0001-01-01 00:00:00+14' WHERE battery_id = 'BAD'",
    "time at its end": "UPDATE ev_telemetry SET time = '9999-12-31 23:59:59-14' WHERE battery_id = 'BAD'",
    "time after it": "UPDATE ev_telemetry SET time = '10000-01-01' WHERE battery_id = 'BAD'",
    "time infinity": "UPDATE ev_telemetry SET time = 'infinity' WHERE battery_id = 'BAD'",
    "time -infinity": "UPDATE ev_telemetry SET time = '-infinity' WHERE battery_id = 'BAD'",
    "stored at infinity": "UPDATE ev_telemetry SET created_at = 'infinity' WHERE battery_id = 'BAD'",
    "in service since .NET's zero": "UPDATE batteries SET in_service_since = '0001-01-01 00:00:00+01' "
    "WHERE battery_id = 'BAD'",
    "due before Python's calendar": "UPDATE battery_predictions SET due = '4000-01-01 BC' WHERE battery_id = 'BAD'",
    "no capacity": "UPDATE batteries SET nominal_capacity_ah = 0, cells_in_series = 0 WHERE battery_id = 'BAD'",
    "NaN in every column": "UPDATE ev_telemetry SET voltage = 'NaN', current = 'NaN', temperature = 'NaN', "
    "soc = 'NaN', soh = 'NaN', charge_cycles = 'NaN', warning_level = 'NaN' WHERE battery_id = 'BAD'",
    "infinity in every column": "UPDATE ev_telemetry SET voltage = 'inf', current = '-inf', temperature = 'inf', "
    "soc = '-inf', soh = 'inf', charge_cycles = 'inf', warning_level = 'inf' WHERE battery_id = 'BAD'",
    "predictions of NaN": "UPDATE battery_predictions SET value = 'NaN', lower = '-inf', upper = 'NaN', "
    "cycle_index = 'NaN' WHERE battery_id = 'BAD'",
    "predictions of infinity": "UPDATE battery_predictions SET value = 'inf', cycle_index = 'inf' "
    "WHERE battery_id = 'BAD'",
    "due at infinity": "UPDATE battery_predictions SET due = 'infinity' WHERE battery_id = 'BAD'",
    "cycles of NaN": "UPDATE battery_cycles SET cycle_index = 'NaN', soh = 'NaN', capacity_ah = 'inf' "
    "WHERE battery_id = 'BAD'",
    "cycles that end at infinity": "UPDATE battery_cycles SET end_time = 'infinity', start_time = '-infinity' "
    "WHERE battery_id = 'BAD'",
}


@pytest.mark.parametrize("damage", HOSTILE.values(), ids=HOSTILE)
def test_good_batteries_keep_metrics_and_outcomes(
    unconstrained: str, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = unconstrained
    good = [f"EV-{k}" for k in range(3)]
    names = ["BAD", *good]
    write(
        dsn, batteries=[{"battery_id": name, "nominal_capacity_ah": 150.0, "cells_in_series": 96.0} for name in names]
    )
    scraper = Scraper(dsn, tmp_path)
    scraper.scrape()
    for name in names:
        write(
            dsn,
            cycles=[
                {"battery_id": name, "cycle_index": 499.0, "kind": "cycle", "start_time": at(-900),
                 "end_time": at(-600), "capacity_ah": 122.0, "soh": 81.0}
            ],
        )  # fmt: skip
        write_life(dsn, name)
    write(dsn, readings=[reading("BAD", 640, charge_cycles=507.0)])
    keep_one = "DELETE FROM ev_telemetry WHERE battery_id = 'BAD' AND time < (SELECT max(time) FROM ev_telemetry)"
    if "SET time" in damage:
        query(dsn, keep_one)
    query(dsn, damage)
    evaluate(dsn)
    samples = scraper.scrape()
    scraper.reader.close()
    assert value_of(samples, "twin_store_up") == 1
    assert "NaN" not in scraper.text
    # Bucket limits aside, no sample is infinite.
    assert all(math.isfinite(value) for value in samples.values())
    for name in good:
        for metric in ("battery_temperature_actual", "battery_soc_actual", "battery_power", "battery_rul_predicted",
                       "battery_rul_actual", "battery_temperature_predicted", "predictions_total"):  # fmt: skip
            assert value_of(samples, metric, battery_id=name) is not None, (metric, name)
        assert {row[0] for row in outcomes(dsn, "temperature")} >= set(good)
        assert {row[0] for row in outcomes(dsn, "rul")} >= set(good)
    assert not [record for record in caplog.records if record.exc_info], caplog.text


def test_program_serves_on_with_every_hostile_row(unconstrained: str, tmp_path: Path) -> None:
    """All of them at once, while evaluation, drift detection and exporter run; a battery that overheats is seen."""
    dsn = unconstrained
    for number, damage in enumerate(HOSTILE.values()):
        name = f"BAD-{number}"
        write(dsn, batteries=[{"battery_id": name, "nominal_capacity_ah": 150.0}])
        write(
            dsn,
            readings=[reading(name, 640, charge_cycles=507.0)],
            predictions=[prediction(name, 640, target, 1.0) for target in ("temperature", "rul")],
            cycles=[{"battery_id": name, "cycle_index": 499.0, "kind": "cycle", "end_time": at(-600), "soh": 81.0}],
        )
        query(dsn, damage.replace("'BAD'", f"'{name}'"))
    settings = Settings(var=tmp_path, telemetry_dsn=dsn, metrics_port=unused_port(), evaluation_interval_s=0.2)
    stop = threading.Event()
    with run_monitoring(settings, tmp_path / "none.yaml", stop) as url:
        for _ in range(3):
            now = datetime.now(UTC)
            write(dsn, readings=[reading("EV-1", 0, time=now - timedelta(seconds=s), temperature=80.0) for s in (1, 0)])
            wait_for(lambda: _hot(url))
            time.sleep(0.5)
        assert not stop.is_set()  # a thread that ends sets it
        text = httpx.get(url, trust_env=False).text
    assert value_of(samples_of(text), "monitoring_unreadable_total", step="newest prediction") is not None


def test_program_serves_on_with_generated_rows(unconstrained: str, tmp_path: Path) -> None:
    """Rows with any combination of hostile values arrive while all parts run; each good battery is followed on."""
    dsn = unconstrained
    good = [f"EV-{k}" for k in range(3)]
    for name in good:
        write_life(dsn, name)
    settings = Settings(var=tmp_path, telemetry_dsn=dsn, metrics_port=unused_port(), evaluation_interval_s=0.1)
    stop, numbers = threading.Event(), itertools.count()

    with run_monitoring(settings, tmp_path / "none.yaml", stop) as url:

        @hypothesis.settings(max_examples=20, deadline=None, phases=(hypothesis.Phase.generate,))
        @given(rows=st.lists(stored_rows(), min_size=1, max_size=20))
        def arrive(rows: list[tuple[str, dict[str, Any]]]) -> None:
            number = next(numbers)
            for position, (table, values) in enumerate(rows):
                insert_hostile(dsn, f"BAD-{position % 5}", table, values)
            now, hot_c = datetime.now(UTC), 60.0 + number % 20
            for name in good:
                write(dsn, readings=[reading(name, 0, time=now + timedelta(milliseconds=10 * number + k),
                                             temperature=hot_c) for k in (1, 2)])  # fmt: skip
            wait_for(lambda: all(_is_confirmed(url, name, hot_c) for name in good))
            assert not stop.is_set()  # a thread that ends sets it

        arrive()
        wait_for(lambda: {row[0] for row in outcomes(dsn, "rul")} >= set(good))
        assert not stop.is_set()


def _is_confirmed(url: str, battery_id: str, temperature_c: float) -> bool:
    samples = samples_of(httpx.get(url, trust_env=False).text)
    return value_of(samples, "battery_temperature_confirmed", battery_id=battery_id) == temperature_c


def _hot(url: str) -> bool:
    return _is_confirmed(url, "EV-1", 80.0)


def wait_for(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_single_reading_is_not_confirmed_until_the_next_is_overdue(dsn: str, scraper: Scraper) -> None:
    now = datetime.now(UTC)

    def confirmed(*values: tuple[float, float]) -> tuple[float | None, float | None]:
        """Confirmed temperature and SoC after readings of these, a second apart."""
        query(dsn, "TRUNCATE ev_telemetry")
        times = [now - timedelta(seconds=len(values) - k) for k in range(len(values))]
        write(dsn, readings=[reading("EV-1", 0, time=t, temperature=c, soc=soc)
                             for t, (c, soc) in zip(times, values, strict=True)])  # fmt: skip
        samples = scraper.scrape()
        names = ("battery_temperature_confirmed", "battery_soc_confirmed")
        return value_of(samples, names[0], battery_id="EV-1"), value_of(samples, names[1], battery_id="EV-1")

    assert confirmed((25.0, 68.0), (85.0, 0.0)) == (25.0, 68.0)
    assert confirmed((25.0, 68.0), (85.0, 0.0), (26.0, 67.0)) == (26.0, 67.0)
    assert confirmed((25.0, 68.0), (85.0, 0.0), (84.0, 1.0)) == (84.0, 1.0)
    assert confirmed((85.0, 0.0)) == (None, None)
    # It stays the last: the battery fell silent.
    query(dsn, "UPDATE ev_telemetry SET created_at = now() - interval '11 seconds'")
    samples = scraper.scrape()
    assert value_of(samples, "battery_temperature_confirmed", battery_id="EV-1") == 85.0
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation):  # a limit that is no number is not ignored
        query(dsn, f"SET twin.max_future_s = 'soon'; SELECT {TIME_LIMIT}")
