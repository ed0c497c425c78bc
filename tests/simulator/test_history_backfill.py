"""Backfill of histories: rows in the store within the retention, never stored twice, and an unavailable store."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from pydantic import SecretStr

from simulator.history_backfill import CONSUMER, backfill_histories
from simulator.live import LiveOptions, run_live
from simulator.live_twin import LiveTwin
from simulator.service_client import PredictionClient
from telemetry.settings import Settings
from telemetry.spool.spool import MIN_BYTES, Spool
from telemetry.stores.migrate import migrate
from tests.simulator.counting_battery import CountingBattery
from tests.simulator.test_live_loop import RecordingView, StubService, query

#: The fixtures of the live loop.
from tests.simulator.test_live_loop import service as service
from tests.simulator.test_live_loop import settings as settings

DAYS = 40
READINGS_A_DAY = 96


class RecentBattery(CountingBattery):
    """Battery whose history of forty days, one reading in 15 min, ends a minute ago."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.last_time = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
        self._end = self.last_time

    def history(self) -> pd.DataFrame:
        steps = reversed(range(DAYS * READINGS_A_DAY))
        return pd.DataFrame([self._reading(self._end - timedelta(minutes=15 * step)) for step in steps])


def backfill(settings: Settings, spool_path: Path, batteries: list[RecentBattery], dsn: str) -> tuple[str | None, int]:
    """The error of the store, and how many states are in the spool."""
    spool = Spool(spool_path, {CONSUMER: ("reading",)}, max_bytes=MIN_BYTES)
    with PredictionClient(settings.service_url) as client:
        twins = [LiveTwin.of(battery) for battery in batteries]
        error = backfill_histories(twins, client, spool, dsn, lambda *_: None, threading.Event())
    states = len(spool.states(CONSUMER))
    spool.close()
    return error, states


def test_a_history_is_stored_once_and_within_the_retention(settings: Settings, postgres_dsn: str) -> None:
    migrate(postgres_dsn)
    batteries = [RecentBattery(1), RecentBattery(2)]
    assert backfill(settings, settings.var / "one.db", batteries, postgres_dsn) == (None, 2)
    counted = "SELECT battery_id, count(*), count(prediction_timestamp), count(failure_probability) FROM ev_telemetry"
    stored = query(settings, f"{counted} GROUP BY 1 ORDER BY 1")
    readings = 30 * READINGS_A_DAY - 4
    # Readings are further apart than predictions are stored, so each of them has one.
    assert stored == [(f"EV-{number}", readings, readings, readings) for number in (1, 2)]
    ((oldest, newest, arrived),) = query(
        settings, "SELECT min(time), max(time), max(created_at) FILTER (WHERE time = created_at) FROM ev_telemetry"
    )
    assert datetime.now(UTC) - timedelta(days=30) < oldest
    assert newest == arrived == batteries[-1].last_time, "a silent battery is silent since its newest reading"
    cycles = query(settings, "SELECT count(*) FROM battery_cycles")
    # The stub ends a session with each response: one for the part before the stored readings, one for each of them.
    assert cycles == [(2 * (readings + 1),)]

    # Without the spool, as after its loss: states again, but no second history from the later clock.
    batteries = [RecentBattery(1), RecentBattery(2)]
    batteries[0]._end += timedelta(seconds=7)
    assert backfill(settings, settings.var / "two.db", batteries, postgres_dsn) == (None, 2)
    assert query(settings, f"{counted} GROUP BY 1 ORDER BY 1") == stored


def test_predictions_are_thinned(settings: Settings, service: StubService, postgres_dsn: str) -> None:
    migrate(postgres_dsn)
    battery = RecentBattery(1)
    times = pd.date_range(end=battery.last_time, periods=4000, freq="30s")
    battery.history = lambda: pd.DataFrame([battery._reading(time) for time in times])  # type: ignore[method-assign]
    backfill(settings, settings.var / "spool.db", [battery], postgres_dsn)
    ((readings, predictions),) = query(settings, "SELECT count(*), count(prediction_timestamp) FROM ev_telemetry")
    assert readings == 4000
    minutes = 4000 * 30 // 60
    assert predictions == pytest.approx(6 * 60 + (minutes - 6 * 60) / 5, abs=4)
    ((last,),) = query(settings, "SELECT max(time) FROM battery_predictions")
    assert last == battery.last_time


def test_an_unavailable_store_is_reported_and_the_states_are_kept(settings: Settings) -> None:
    error, states = backfill(settings, settings.var / "spool.db", [RecentBattery(1)], "postgresql://x@127.0.0.1:1/none")
    assert states == 1
    assert error is not None
    assert "127.0.0.1" in error


def test_the_live_run_stores_the_history_before_its_readings(settings: Settings, service: StubService) -> None:
    batteries = [RecentBattery(number) for number in range(2)]
    began = datetime.now(UTC)
    summary = run_live(batteries, settings, LiveOptions(0.1, for_s=0.5), RecordingView(), threading.Event())
    assert summary is not None
    assert (summary.lost, summary.unfinished) == ([], [])
    assert summary.stored == 10
    ((before,),) = query(settings, f"SELECT count(*) FROM ev_telemetry WHERE time < '{began.isoformat()}'")
    assert before == 2 * (30 * READINGS_A_DAY - 4)
    run_live([RecentBattery(1)], settings, LiveOptions(0.1, for_s=0.2), RecordingView(), threading.Event())
    assert query(settings, f"SELECT count(*) FROM ev_telemetry WHERE time < '{began.isoformat()}'") == [(before,)]


def test_nothing_is_stored_where_the_service_does_not_predict(settings: Settings, postgres_dsn: str) -> None:
    options = LiveOptions(0.1, for_s=0.2, predicts=False)
    named = settings.model_copy(update={"telemetry_dsn": SecretStr(postgres_dsn)})
    run_live([RecentBattery(1)], named, options, RecordingView(), threading.Event())
    assert query(named, "SELECT count(*) FROM ev_telemetry") == [(2,)]
