"""Tests of the live loop with real PostgreSQL, MQTT broker and HTTP, and a stub service that can be made to fail."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from simulator.history_backfill import CONSUMER
from simulator.live import LiveOptions, main, run_live
from simulator.run_statistics import RunStatistics, Summary
from simulator.service_client import PredictionClient, PredictionError
from telemetry.batch import Batch, RowKind
from telemetry.embedded.ports import free_port
from telemetry.errors import TwinError
from telemetry.kafka_client import client_options
from telemetry.settings import Settings
from telemetry.sinks import SINKS
from telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from telemetry.sinks.kafka import KafkaSink
from telemetry.spool.spool import MIN_BYTES, Spool, SpoolFullError
from tests.simulator.counting_battery import CountingBattery
from tests.telemetry.destinations import consumed

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class StubService:
    """Stub of the prediction service that follows the contract; its state is the number of readings received.

    Attributes:
        requests: every battery entry received, in order.
        calls: number of HTTP requests.
        fail: whether a request, by its number, gets 503.
        refuses: whether a reading gets 422.
        version: of the states; states of other versions get 409.
    """

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    calls: int = 0
    fail: Callable[[int], bool] = lambda number: False
    refuses: Callable[[dict[str, Any]], bool] = lambda reading: False
    delay_s: float = 0.0
    version: int = 1

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/readyz")
        def ready() -> str:
            return "ready"

        @app.post("/predict")
        async def predict(request: Request) -> JSONResponse:
            body = await request.json()
            self.calls += 1
            await asyncio.sleep(self.delay_s)
            if self.fail(self.calls):
                return JSONResponse({"error": "unavailable"}, 503)
            predictions = []
            for number, battery in enumerate(body["batteries"]):
                version, seen = (int(part) for part in battery.get("state", f"{self.version}:0").split(":"))
                if version != self.version:
                    return JSONResponse({"error": "another version", "field": f"batteries[{number}].state"}, 409)
                if any(self.refuses(reading) for reading in battery["readings"]):
                    return JSONResponse({"error": "violates the contract"}, 422)
                every = bool(body.get("every_reading"))
                for count, reading in enumerate(battery["readings"], 1):
                    is_last = count == len(battery["readings"])
                    if every or is_last:
                        predictions.append(
                            self.prediction(battery["battery_id"], reading["time"], seen + count, is_last)
                        )
                        if body.get("closed_cycles"):
                            predictions[-1]["closed_cycles"] = [session(battery["battery_id"], reading["time"])]
            self.requests += body["batteries"]
            return JSONResponse({"predictions": predictions})

        return app

    def prediction(self, battery_id: str, time_sent: str, seen: int, is_last: bool) -> dict[str, Any]:
        reading_time = datetime.fromisoformat(time_sent)
        return {
            "battery_id": battery_id,
            "time": reading_time.isoformat(),
            "release": "battery-twin/1",
            "cycle_index": 12.5,
            **({"state": f"{self.version}:{seen}"} if is_last else {}),
            "soh": {"value": float(seen), "unit": "%", "model": "battery-soh/9", "interval": [92.0, 94.0]},
            "temperature": {"value": 28.0, "due": (reading_time + timedelta(seconds=1)).isoformat(), "model": "t/2"},
            "rul": {"value": None, "withheld": "fewer than 10 cycles seen", "model": "battery-rul/1"},
            "failure_probability": {"value": 0.4, "horizon_cycles": 100, "model": "battery-failure/4"},
        }


def session(battery_id: str, end: str) -> dict[str, Any]:
    return {"battery_id": battery_id, "cycle_index": 3.0, "kind": "charge", "end_time": end, "throughput_ah": 1.0}


class RecordingView:
    """View that records what it is given."""

    def __init__(self) -> None:
        self.backfilled: dict[str, int] = {}
        self.ticks = 0
        self.messages: list[str] = []

    def history(self, battery_id: str, posted: int, total: int) -> None:
        self.backfilled[battery_id] = posted

    def tick(self, twins: object, statistics: RunStatistics) -> None:
        self.ticks += 1

    def notify(self, sentence: str) -> None:
        self.messages.append(sentence)

    def close(self) -> None:
        pass


@pytest.fixture
def service() -> Iterator[StubService]:
    service = StubService()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(service.app(), log_level="warning", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    service.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield service
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def settings(service: StubService, postgres_dsn: str, mqtt_broker: tuple[str, int], tmp_path: Path) -> Settings:
    host, port = mqtt_broker
    return Settings(
        var=tmp_path,
        service_port=int(service.url.rpartition(":")[2]),
        telemetry_dsn=SecretStr(postgres_dsn),
        mqtt_host=host,
        mqtt_port=port,
        simulator_metrics_port=free_port("127.0.0.1", 19_100 + os.getpid() % 800),
        spool_max_bytes=MIN_BYTES,
    )


def live(
    settings: Settings, batteries: list[CountingBattery], options: LiveOptions, view: RecordingView | None = None
) -> Summary:
    summary = run_live(batteries, settings, options, view or RecordingView(), threading.Event())
    assert summary is not None
    return summary


def live_until(settings: Settings, battery: CountingBattery, is_enough: Callable[[RunStatistics], bool]) -> Summary:
    """Run with one battery until `is_enough`, so that a busy machine takes longer instead of producing less."""
    stop = threading.Event()

    class StoppingView(RecordingView):
        def tick(self, twins: object, statistics: RunStatistics) -> None:
            if is_enough(statistics):
                stop.set()

    summary = run_live([battery], settings, LiveOptions(interval_s=0.05, for_s=60.0), StoppingView(), stop)
    assert summary is not None
    return summary


def problems(summary: Summary) -> list[str]:
    return [*summary.lost, *summary.unfinished]


def query(settings: Settings, sql: str) -> list[tuple[Any, ...]]:
    assert settings.telemetry_dsn is not None
    connection = psycopg2.connect(settings.telemetry_dsn.get_secret_value())
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()
    finally:
        connection.close()


def test_a_run_of_five_seconds_loses_nothing_and_counts_every_tick(settings: Settings, service: StubService) -> None:
    batteries = [CountingBattery(number) for number in range(10)]
    summary = live(settings, batteries, LiveOptions(interval_s=0.5, speed=2.0, for_s=5.0))
    statistics = summary.statistics
    assert problems(summary) == []
    assert statistics.ticks + statistics.missed_ticks == 10, "a busy machine may miss ticks, and counts them"
    assert (statistics.errors, statistics.refused) == (0, 0)
    produced = 10 * statistics.ticks
    assert statistics.produced == summary.stored == statistics.predictions == produced > 0
    assert summary.acknowledged["mqtt"] == 2 * produced
    assert 0 < statistics.latency_ms(50) <= statistics.latency_ms(99)
    # One request for each battery's history, then one for all batteries of a tick.
    assert service.calls <= 10 + 10

    stored = query(settings, "SELECT count(*), count(DISTINCT (battery_id, time)) FROM ev_telemetry")
    assert stored == [(produced, produced)]
    assert query(settings, "SELECT DISTINCT failure_probability, status FROM ev_telemetry") == [(0.4, "WARNING")]
    targets = query(
        settings,
        "SELECT target, model_name, model_version, lower, count(*) FROM battery_predictions GROUP BY 1,2,3,4",
    )
    assert sorted(targets) == [
        ("failure", "battery-failure", "4", None, produced),
        ("soh", "battery-soh", "9", 92.0, produced),
        ("temperature", "t", "2", None, produced),
    ], "a withheld prediction has no row"
    assert query(settings, "SELECT nominal_capacity_ah, chemistry FROM batteries LIMIT 1") == [(150.0, "NMC")]
    assert query(settings, "SELECT count(*), min(throughput_ah) FROM battery_cycles") == [(10 + produced, 1.0)]
    (first, last), *others = query(
        settings, "SELECT DISTINCT min(time), max(time) FROM ev_telemetry GROUP BY battery_id"
    )
    assert others == [], "all batteries are read at the same times"
    steps = query(
        settings,
        "SELECT DISTINCT extract(epoch FROM time - lag(time) OVER (PARTITION BY battery_id ORDER BY time))::float "
        "FROM ev_telemetry WHERE battery_id = (SELECT min(battery_id) FROM ev_telemetry) ORDER BY 1",
    )
    whole_s = [step for (step,) in steps if step is not None]
    assert all(step == int(step) >= 1 for step in whole_s), "event time passes at `speed`: 1 s a tick of 0.5 s"
    assert (last - first).total_seconds() <= 9


def test_store_mqtt_and_kafka_get_every_reading(
    settings: Settings, service: StubService, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = settings.model_copy(update={"kafka_bootstrap_servers": kafka_bootstrap})
    topic = f"live_{uuid.uuid4().hex}"
    monkeypatch.setitem(SINKS, "kafka", lambda found: KafkaSink(client_options(found), topic=topic, partitions=2))
    view = RecordingView()
    summary = live(
        named, [CountingBattery(number) for number in range(3)], LiveOptions(interval_s=0.1, for_s=1.0), view
    )
    assert view.messages == []
    assert problems(summary) == []
    ticks, produced = summary.statistics.ticks, summary.statistics.produced
    assert ticks + summary.statistics.missed_ticks == 10, "a busy machine may miss ticks, and counts them"
    assert produced == 3 * ticks > 0
    assert summary.acknowledged["kafka"] == summary.stored == produced
    stored = query(named, "SELECT count(*), count(DISTINCT (battery_id, time)) FROM ev_telemetry")
    assert stored == [(produced, produced)]
    messages = consumed(named, topic)
    assert len({(key, message["timestamp"]) for key, message in messages}) == len(messages) == produced


def test_history_is_posted_in_chunks_and_every_reading_once_in_order(settings: Settings, service: StubService) -> None:
    summary = live(settings, [CountingBattery(1, history=4100)], LiveOptions(interval_s=0.05, for_s=0.5))
    assert_every_reading_went_once_in_order(service, history=4100, produced=summary.statistics.produced)
    assert [len(request["readings"]) for request in service.requests][:3] == [2000, 2000, 100]
    sent = service.requests[0]["readings"][0]
    assert "soh" not in sent, "a measured state of health is the target, not an input"
    assert "soc" not in sent, "NaN is left out"


def assert_every_reading_went_once_in_order(service: StubService, history: int, produced: int) -> None:
    lengths = [len(request["readings"]) for request in service.requests]
    assert sum(lengths) == history + produced
    assert "state" not in service.requests[0]
    states = [int(request["state"].split(":")[1]) for request in service.requests[1:]]
    assert states == [sum(lengths[: index + 1]) for index in range(len(states))], "each call brings the newest state"
    times = [reading["time"] for request in service.requests for reading in request["readings"]]
    assert [datetime.fromisoformat(t) for t in times] == sorted(datetime.fromisoformat(t) for t in times)


def test_failed_requests_are_repeated(settings: Settings, service: StubService) -> None:
    service.fail = lambda number: number > 1 and number % 3 == 0
    summary = live_until(settings, CountingBattery(1), lambda found: found.predictions > 10 and found.errors > 0)
    assert summary.statistics.errors > 0
    assert summary.statistics.last_error is not None
    assert "503" in summary.statistics.last_error
    assert problems(summary) == []
    assert summary.stored == summary.statistics.produced == summary.statistics.predictions > 10
    assert_every_reading_went_once_in_order(service, history=5, produced=summary.statistics.produced)


def test_the_next_run_predicts_readings_that_wait_for_the_service(
    settings: Settings, service: StubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulator.live.FINISH_TIMEOUT_S", 0.5)
    service.fail = lambda number: number > 1
    first = live(settings, [CountingBattery(1)], LiveOptions(interval_s=0.05, for_s=0.3))
    assert first.stored == first.statistics.produced > 0
    assert first.lost == []
    assert first.unfinished == [f"{first.stored} readings wait for {CONSUMER}", "no prediction was received"]

    monkeypatch.undo()
    service.fail = lambda number: False
    view = RecordingView()
    second = live(settings, [CountingBattery(1)], LiveOptions(interval_s=0.05, for_s=0.3), view)
    assert problems(second) == []
    assert view.backfilled == {}, "the saved state is used, without a backfill"
    produced = first.statistics.produced + second.statistics.produced
    assert second.statistics.predictions == produced
    assert_every_reading_went_once_in_order(service, history=5, produced=produced)
    assert query(settings, "SELECT count(*) FROM ev_telemetry WHERE prediction_timestamp IS NULL") == [(0,)]


def test_overdue_predictions_and_missed_ticks_are_counted(settings: Settings, service: StubService) -> None:
    service.delay_s = 0.12
    summary = live(settings, [CountingBattery(1)], LiveOptions(interval_s=0.05, for_s=1.0))
    assert summary.statistics.overdue > 5
    assert problems(summary) == []

    service.delay_s = 0.0
    slow = CountingBattery(2)
    slow.read_delay_s = 0.12
    summary = live(settings, [slow], LiveOptions(interval_s=0.05, for_s=1.0))
    assert summary.statistics.missed_ticks > 5
    assert summary.statistics.ticks + summary.statistics.missed_ticks == 20
    assert summary.stored == summary.statistics.produced == summary.statistics.ticks


def test_a_second_run_continues_after_the_first(settings: Settings) -> None:
    first = live(settings, [CountingBattery(1)], LiveOptions(interval_s=0.05, speed=3600.0, for_s=0.5))
    battery = CountingBattery(1)
    second = live(settings, [battery], LiveOptions(interval_s=0.05, speed=3600.0, for_s=0.5))
    # In each run one reading, just before the first tick, is not produced.
    assert battery.readings == first.statistics.produced + second.statistics.produced + 2
    assert first.statistics.last_time is not None
    assert second.statistics.first_time is not None
    assert second.statistics.first_time > first.statistics.last_time
    assert query(settings, "SELECT count(*) FROM ev_telemetry") == [
        (first.statistics.produced + second.statistics.produced,)
    ]


def test_a_state_of_another_version_is_rebuilt(settings: Settings, service: StubService) -> None:
    live(settings, [CountingBattery(1), CountingBattery(2)], LiveOptions(interval_s=0.05, for_s=0.3))
    service.version = 2
    summary = live(settings, [CountingBattery(1), CountingBattery(2)], LiveOptions(interval_s=0.05, for_s=0.3))
    assert problems(summary) == []
    assert summary.statistics.predictions == summary.statistics.produced


def test_a_reading_refused_by_the_service_is_quarantined_alone(settings: Settings, service: StubService) -> None:
    class InvalidFourthReading(CountingBattery):
        def read(self, time_of_reading: datetime) -> dict[str, object]:
            self.calls = getattr(self, "calls", 0) + 1
            return super().read(time_of_reading) | ({"voltage": 999.0} if self.calls == 4 else {})

    service.refuses = lambda reading: reading["voltage"] == 999.0
    summary = live(settings, [InvalidFourthReading(1), CountingBattery(2)], LiveOptions(interval_s=0.05, for_s=0.5))
    assert summary.lost == [f"1 rows were refused by {CONSUMER}"]
    assert summary.statistics.predictions == summary.statistics.produced - 1
    assert summary.stored == summary.statistics.produced


def test_no_requests_are_sent_with_predictions_off(settings: Settings, service: StubService) -> None:
    summary = live(settings, [CountingBattery(1)], LiveOptions(interval_s=0.05, for_s=0.3, predicts=False))
    assert problems(summary) == []
    assert summary.stored == summary.statistics.produced > 0
    assert service.calls == 0
    assert "predictions made" not in dict(summary.lines())


def test_a_stopped_run_delivers_everything(settings: Settings) -> None:
    ticks: list[int] = []

    def has_predictions(statistics: RunStatistics) -> bool:
        if statistics.predictions:
            ticks.append(statistics.ticks)
        return statistics.predictions > 0

    summary = live_until(settings, CountingBattery(1), has_predictions)
    assert problems(summary) == []
    assert 0 < summary.statistics.ticks <= ticks[0] + 1, "no reading is taken after the stop"


def test_a_run_stopped_before_the_first_tick_has_no_summary(settings: Settings) -> None:
    stop = threading.Event()
    stop.set()
    assert run_live([CountingBattery(1)], settings, LiveOptions(), RecordingView(), stop) is None


def test_prometheus_metrics_of_the_simulator(settings: Settings) -> None:
    url = f"http://127.0.0.1:{settings.simulator_metrics_port}/metrics"
    samples: dict[str, str] = {}

    def has_delivered(statistics: RunStatistics) -> bool:
        page = urllib.request.urlopen(url).read().decode()
        samples.update(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
        counted = ("live_readings_total", "live_predictions_total", "spool_delivered_total")
        counts = [float(value) for name, value in samples.items() if name.startswith(counted)]
        return len(counts) == 5 and min(counts) > 5

    live_until(settings, CountingBattery(1), has_delivered)
    assert float(samples["live_readings_total"]) > 5
    assert float(samples["live_predictions_total"]) > 5
    assert float(samples["live_missed_ticks_total"]) >= 0
    assert float(samples["live_refused_readings_total"]) == 0
    for consumer in ("store", "mqtt", CONSUMER):
        assert float(samples[f'live_waiting_readings{{sink="{consumer}"}}']) >= 0
        assert float(samples[f'spool_depth{{consumer="{consumer}"}}']) >= 0
        assert float(samples[f'spool_oldest_age_seconds{{consumer="{consumer}"}}']) >= 0
        assert float(samples[f'spool_delivered_total{{consumer="{consumer}"}}']) > 5
    used, refusing, most = (float(samples[f"spool_{name}_bytes"]) for name in ("used", "producers_max", "max"))
    assert 0 < used < refusing < most
    assert not [name for name in samples if name.startswith("battery_")], "those of python -m monitoring"


class FlakySink:
    """Sink of readings that raises `error`, if set, on each write."""

    kinds: tuple[RowKind, ...] = ("reading",)

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.acknowledged = 0
        self.written: list[datetime] = []

    def setup(self) -> None: ...

    def write(self, batch: Batch) -> None:
        if self.error is not None:
            raise self.error
        self.written += [row["time"] for row in batch.readings]  # type: ignore[misc]

    def flush(self) -> None: ...

    def close(self) -> None: ...


def test_an_unavailable_sink_blocks_no_other_and_gets_everything_in_the_next_run(
    settings: Settings, service: StubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = FlakySink(SinkUnavailableError("gone"))
    monkeypatch.setitem(SINKS, "mqtt", lambda _settings: dead)
    monkeypatch.setattr("simulator.live.FINISH_TIMEOUT_S", 0.5)
    first = live(settings, [CountingBattery(1)], LiveOptions(interval_s=0.05, for_s=0.5))
    assert first.stored == first.statistics.produced == first.statistics.predictions > 0
    assert first.lost == []
    assert first.unfinished == [f"{first.stored} readings wait for mqtt"]
    dead.error = None
    second = live(settings, [CountingBattery(1)], LiveOptions(interval_s=0.05, for_s=0.3))
    assert problems(second) == []
    assert dead.written == sorted(set(dead.written))
    assert len(dead.written) == first.statistics.produced + second.statistics.produced


def test_rows_refused_by_a_sink_are_reported_as_lost(
    settings: Settings, service: StubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SINKS, "mqtt", lambda _settings: FlakySink(SinkRefusedError("never")))
    summary = live(settings, [CountingBattery(1)], LiveOptions(interval_s=0.05, for_s=0.3))
    assert summary.lost == [f"{summary.statistics.produced} rows were refused by mqtt"]


def test_an_unavailable_store_at_a_restart_gets_its_rows_in_a_later_run(
    settings: Settings, service: StubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart takes the newest event time from the spool; a first run needs the store for it."""
    unavailable = settings.model_copy(
        update={"telemetry_dsn": SecretStr(f"postgresql://twin@127.0.0.1:{free_port('127.0.0.1', 19300)}/twin")}
    )
    monkeypatch.setattr("simulator.live.FINISH_TIMEOUT_S", 0.5)
    with pytest.raises(SinkUnavailableError, match="newest reading"):
        live(unavailable, [CountingBattery(1)], LiveOptions(interval_s=0.05, speed=100.0, for_s=0.3))
    first = live(settings, [CountingBattery(1)], LiveOptions(interval_s=0.05, speed=100.0, for_s=0.3))
    view = RecordingView()
    second = live(unavailable, [CountingBattery(1)], LiveOptions(interval_s=0.05, speed=100.0, for_s=0.3), view)
    assert "store is unavailable" in view.messages[1]
    assert second.stored is None
    assert f"{second.statistics.produced} readings wait for store" in second.unfinished
    third = live(settings, [CountingBattery(1)], LiveOptions(interval_s=0.05, speed=100.0, for_s=0.3))
    assert problems(third) == []
    produced = sum(run.statistics.produced for run in (first, second, third))
    assert query(settings, "SELECT count(*), count(prediction_timestamp) FROM ev_telemetry") == [(produced, produced)]


def test_readings_refused_by_a_full_spool_are_reported(
    settings: Settings, service: StubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Spool.append
    calls = iter(range(1000))

    def full_for_a_while(spool: Spool, batch: Batch, **more: Any) -> int:
        if next(calls) in (3, 4):
            raise SpoolFullError("the spool is full")
        return append(spool, batch, **more)

    monkeypatch.setattr(Spool, "append", full_for_a_while)
    summary = live(settings, [CountingBattery(1), CountingBattery(2)], LiveOptions(interval_s=0.05, for_s=0.5))
    assert summary.statistics.refused == 4
    assert summary.statistics.produced == 2 * summary.statistics.ticks - 4 > 0
    assert summary.lost == ["4 readings were refused: the spool was full"]
    assert summary.stored == summary.statistics.predictions == summary.statistics.produced


def test_an_unavailable_service_raises_an_error() -> None:
    url = f"http://127.0.0.1:{free_port('127.0.0.1', 19200)}"
    with PredictionClient(url) as client, pytest.raises(PredictionError, match="not ready after"):
        client.wait_until_ready(0.3, threading.Event())


@pytest.mark.parametrize("option", ["interval_s", "speed", "for_s"])
def test_options_must_be_positive(option: str) -> None:
    with pytest.raises(TwinError, match=option):
        LiveOptions(**{option: 0.0})


def environment_of(settings: Settings) -> dict[str, str]:
    assert settings.telemetry_dsn is not None
    return {
        **os.environ,
        "TWIN_VAR": str(settings.var),
        "TWIN_SERVICE_PORT": str(settings.service_port),
        "TWIN_SIMULATOR_METRICS_PORT": str(settings.simulator_metrics_port),
        "TWIN_TELEMETRY_DSN": settings.telemetry_dsn.get_secret_value(),
        "TWIN_MQTT_HOST": str(settings.mqtt_host),
        "TWIN_MQTT_PORT": str(settings.mqtt_port),
    }


def test_the_command_runs_simulated_batteries_and_ends_on_sigint(settings: Settings, service: StubService) -> None:
    began = datetime.now(UTC)
    command = [sys.executable, "-m", "simulator.live", "--batteries", "2", "--interval", "0.2"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment_of(settings),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 180  # compiles the simulation after a change
    while not service.requests or len(service.requests[-1]["readings"]) > 1:  # still posting histories
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    answered = len(service.requests)
    while len(service.requests) < answered + 10:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert "kafka is off" in output
    assert "nothing was lost" in output
    ((stored, predicted, ids),) = query(
        settings,
        "SELECT count(*), count(prediction_timestamp), count(DISTINCT battery_id) FROM ev_telemetry e "
        f"WHERE time > (SELECT max(created_at) FROM ev_telemetry WHERE time < '{began.isoformat()}')",
    )
    assert stored == predicted >= 10
    assert ids == 2
    assert {entry["battery"]["chemistry"] for entry in service.requests} <= {"NMC", "NCA", "LFP"}


#: Fork server of live runs that are killed: imports once, then forks one run for each line of its input.
FORK_SERVER = """
import os, sys, threading
from telemetry.settings import Settings
from simulator.live import LiveOptions, run_live
from simulator.terminal import LineView
from rich.console import Console
from tests.telemetry.destinations import consumed
from tests.simulator.counting_battery import CountingBattery

for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        silent = Console(file=open(os.devnull, "w"))
        run_live(
            [CountingBattery(number) for number in range(3)], Settings(), LiveOptions(interval_s=0.05),
            LineView(silent), threading.Event(),
        )
        os._exit(1)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_sigkill_causes_no_loss_and_no_duplicate(settings: Settings, service: StubService) -> None:
    """The stub service predicts the number of readings in the state, so that a reading used twice would show."""
    rng = random.Random(5)
    command, pipes = [sys.executable, "-c", FORK_SERVER], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment_of(settings), text=True, **pipes) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for _ in range(4):
            print("one more", file=parent.stdin, flush=True)
            child = int(parent.stdout.readline())
            seen, deadline = service.calls, time.monotonic() + 60
            while service.calls < seen + rng.randrange(5, 30):
                assert time.monotonic() < deadline
                time.sleep(0.005)
            os.kill(child, signal.SIGKILL)
            assert int(parent.stdout.readline()) == -signal.SIGKILL, "it ran until it was killed"
    summary = live(settings, [CountingBattery(number) for number in range(3)], LiveOptions(interval_s=0.05, for_s=0.3))
    assert problems(summary) == []
    ((stored, distinct, predicted),) = query(
        settings, "SELECT count(*), count(DISTINCT (battery_id, time)), count(prediction_timestamp) FROM ev_telemetry"
    )
    assert stored == distinct == predicted > 50
    by_battery = query(
        settings,
        "SELECT battery_id, array_agg(value ORDER BY time) FROM battery_predictions WHERE target = 'soh' GROUP BY 1",
    )
    for _, counts in by_battery:
        assert counts == [6.0 + number for number in range(len(counts))], "each state has one reading more"
    assert sum(len(counts) for _, counts in by_battery) == stored


def test_the_command_prints_the_error_of_an_invalid_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--for", "-1"]) == 2
    assert "for_s is -1.0: it must be greater than 0." in capsys.readouterr().out
