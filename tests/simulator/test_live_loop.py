"""The live loop on real parts: PostgreSQL, an MQTT broker, and a service behind real HTTP that can be made to fail."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg2
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from data.batch import Batch
from data.embedded.ports import free_port
from data.errors import TwinError
from data.settings import Settings
from data.sinks import SINKS
from data.sinks.base import SinkRefusedError, SinkUnavailableError
from simulator.client import PredictionClient, PredictionError
from simulator.live import LiveOptions, main, run_live
from simulator.outbox import Outbox
from simulator.tally import Summary, Tally

ROOT = Path(__file__).resolve().parents[2]
HISTORY_END = datetime(2026, 1, 1, tzinfo=UTC)


class Battery:
    """A battery without physics: it counts its readings in `voltage`."""

    def __init__(self, number: int, past: int = 5) -> None:
        self._id = f"EV-{number}"
        self._past = past
        self.last_time = HISTORY_END
        self.read_delay_s = 0.0

    @property
    def battery_id(self) -> str:
        return self._id

    def history(self) -> pd.DataFrame:
        times = [HISTORY_END - timedelta(seconds=30 * step) for step in reversed(range(self._past))]
        rows = [self._reading(moment) | {"soh": 90.0, "soc": float("nan")} for moment in times]
        return pd.DataFrame(rows)

    def batteries_row(self) -> pd.DataFrame:
        return pd.DataFrame([{"battery_id": self._id, "nominal_capacity_ah": 150.0, "chemistry": "NMC"}])

    def read(self, time_of_reading: datetime) -> dict[str, object]:
        assert time_of_reading > self.last_time
        self.last_time = time_of_reading
        time.sleep(self.read_delay_s)
        return self._reading(time_of_reading)

    def _reading(self, moment: datetime) -> dict[str, object]:
        return {
            "battery_id": self._id,
            "time": moment,
            "voltage": 350.0,
            "current": 10.0,
            "temperature": 25.0,
            "soc": 70.0,
            "soh": 91.0,
        }


@dataclass
class Service:
    """A stand-in that answers as the contract says; its state is the number of readings that it was sent."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    fail: Callable[[int], bool] = lambda number: False
    delay_s: float = 0.0

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/readyz")
        def ready() -> str:
            return "ready"

        @app.post("/predict")
        async def predict(request: Request) -> JSONResponse:
            body = await request.json()
            (entry,) = body["batteries"]
            self.requests.append(entry)
            await asyncio.sleep(self.delay_s)
            if self.fail(len(self.requests)):
                return JSONResponse({"error": "out of order"}, 503)
            moment = datetime.fromisoformat(entry["readings"][-1]["time"])
            seen = int(entry.get("state", "0")) + len(entry["readings"])
            answer = {
                "battery_id": entry["battery_id"],
                "time": moment.isoformat(),
                "release": "battery-twin/1",
                "state": str(seen),
                "soh": {
                    "value": 93.0,
                    "unit": "%",
                    "model": "battery-soh/9",
                    "interval": [92.0, 94.0],
                    "coverage": 0.9,
                },
                "temperature": {"value": 28.0, "due": (moment + timedelta(seconds=1)).isoformat(), "model": "t/2"},
                "rul": {"value": None, "withheld": "fewer than 10 cycles seen", "model": "battery-rul/1"},
                "failure_probability": {"value": 0.4, "horizon_cycles": 100, "model": "battery-failure/4"},
            }
            return JSONResponse({"predictions": [answer]})

        return app


class Quiet:
    """A view that only counts."""

    def __init__(self) -> None:
        self.folded: dict[str, int] = {}
        self.ticks = 0

    def history(self, battery_id: str, posted: int, total: int) -> None:
        self.folded[battery_id] = posted

    def tick(self, twins: object, tally: Tally) -> None:
        self.ticks += 1

    def close(self) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
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
def settings(service: Service, postgres_dsn: str, mqtt_broker: tuple[str, int]) -> Settings:
    host, port = mqtt_broker
    return Settings(
        service_port=int(service.url.rpartition(":")[2]),
        telemetry_dsn=SecretStr(postgres_dsn),
        mqtt_host=host,
        mqtt_port=port,
        simulator_metrics_port=free_port("127.0.0.1", 19091),
    )


def live(settings: Settings, batteries: list[Battery], options: LiveOptions) -> Summary:
    async def run() -> Summary | None:
        return await run_live(batteries, settings, options, Quiet(), asyncio.Event())

    summary = asyncio.run(run())
    assert summary is not None
    return summary


def query(settings: Settings, sql: str) -> list[tuple[Any, ...]]:
    assert settings.telemetry_dsn is not None
    connection = psycopg2.connect(settings.telemetry_dsn.get_secret_value())
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()
    finally:
        connection.close()


def test_five_seconds_lose_nothing_and_miss_no_tick(settings: Settings, service: Service) -> None:
    batteries = [Battery(number) for number in range(10)]
    summary = live(settings, batteries, LiveOptions(interval_s=0.5, speed=2.0, for_s=5.0))
    tally = summary.tally
    assert summary.lost == []
    assert (tally.ticks, tally.missed_ticks, tally.errors) == (10, 0, 0)
    assert tally.produced == summary.stored == 100
    assert summary.acknowledged["mqtt"] == 200
    assert tally.predictions + tally.overdue == 100
    assert 0 < tally.latency_ms(50) <= tally.latency_ms(99) < 500

    assert query(settings, "SELECT count(*), count(DISTINCT (battery_id, time)) FROM ev_telemetry") == [(100, 100)]
    assert query(settings, "SELECT DISTINCT failure_probability, status FROM ev_telemetry") == [(0.4, "WARNING")]
    targets = query(
        settings, "SELECT target, model_name, model_version, lower FROM battery_predictions GROUP BY 1,2,3,4"
    )
    assert sorted(targets) == [
        ("failure", "battery-failure", "4", None),
        ("soh", "battery-soh", "9", 92.0),
        ("temperature", "t", "2", None),
    ], "a withheld prediction has no row"
    assert query(settings, "SELECT nominal_capacity_ah, chemistry FROM batteries LIMIT 1") == [(150.0, "NMC")]
    steps = query(
        settings,
        "SELECT DISTINCT time - lag(time) OVER (PARTITION BY battery_id ORDER BY time) FROM ev_telemetry ORDER BY 1",
    )
    assert steps == [(timedelta(seconds=1),), (None,)], "event time passes at `speed`"


def test_history_first_in_chunks_and_every_reading_once_in_order(settings: Settings, service: Service) -> None:
    summary = live(settings, [Battery(1, past=4100)], LiveOptions(interval_s=0.05, for_s=0.5))
    lengths = [len(request["readings"]) for request in service.requests]
    assert lengths[:3] == [2000, 2000, 100]
    assert sum(lengths) == 4100 + summary.tally.produced
    assert "state" not in service.requests[0]
    states = [int(request["state"]) for request in service.requests[1:]]
    assert states == [sum(lengths[: index + 1]) for index in range(len(states))], "each call brings the newest state"
    times = [reading["time"] for request in service.requests for reading in request["readings"]]
    assert [datetime.fromisoformat(t) for t in times] == sorted(datetime.fromisoformat(t) for t in times)
    sent = service.requests[0]["readings"][0]
    assert "soh" not in sent, "a measured state of health is the answer, not a question"
    assert "soc" not in sent, "NaN is left out"


def test_failed_predictions_are_made_up_for(settings: Settings, service: Service) -> None:
    service.fail = lambda number: number > 1 and number % 3 == 0
    summary = live(settings, [Battery(1)], LiveOptions(interval_s=0.05, for_s=1.0))
    assert summary.tally.errors > 3
    assert summary.tally.last_error is not None
    assert "503" in summary.tally.last_error
    assert summary.lost == []
    assert summary.stored == summary.tally.produced > 10


def test_without_any_prediction_the_run_fails(settings: Settings, service: Service, monkeypatch: Any) -> None:
    monkeypatch.setattr("simulator.live.FINISH_TIMEOUT_S", 0.5)
    service.fail = lambda number: number > 1
    summary = live(settings, [Battery(1)], LiveOptions(interval_s=0.05, for_s=0.3))
    assert summary.stored == summary.tally.produced > 0
    assert summary.lost == [f"{summary.stored} readings were never predicted from", "no prediction came"]


def test_a_slow_service_is_overdue_and_a_slow_battery_misses_ticks(settings: Settings, service: Service) -> None:
    service.delay_s = 0.12
    summary = live(settings, [Battery(1)], LiveOptions(interval_s=0.05, for_s=1.0))
    assert summary.tally.overdue > 5
    assert summary.lost == []

    service.delay_s = 0.0
    slow = Battery(2)
    slow.read_delay_s = 0.12
    summary = live(settings, [slow], LiveOptions(interval_s=0.05, for_s=1.0))
    assert summary.tally.missed_ticks > 5
    assert summary.tally.ticks + summary.tally.missed_ticks == 20
    assert summary.stored == summary.tally.produced == summary.tally.ticks


def test_a_second_run_goes_on_after_the_first(settings: Settings) -> None:
    first = live(settings, [Battery(1)], LiveOptions(interval_s=0.05, speed=3600.0, for_s=0.5))
    second = live(settings, [Battery(1)], LiveOptions(interval_s=0.05, speed=3600.0, for_s=0.5))
    assert first.tally.last_time is not None
    assert second.tally.first_time is not None
    assert second.tally.first_time > first.tally.last_time
    assert query(settings, "SELECT count(*) FROM ev_telemetry") == [(first.tally.produced + second.tally.produced,)]


def test_stop_ends_the_run_with_everything_delivered(settings: Settings) -> None:
    async def run() -> Summary | None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.5, stop.set)
        return await run_live([Battery(1)], settings, LiveOptions(interval_s=0.05), Quiet(), stop)

    summary = asyncio.run(run())
    assert summary is not None
    assert summary.lost == []
    assert 0 < summary.tally.ticks < 15


def test_stop_before_the_first_tick(settings: Settings) -> None:
    async def run() -> Summary | None:
        stop = asyncio.Event()
        stop.set()
        return await run_live([Battery(1)], settings, LiveOptions(), Quiet(), stop)

    assert asyncio.run(run()) is None


def test_the_simulator_counts_what_it_does(settings: Settings) -> None:
    pages: list[str] = []

    async def run() -> None:
        async def scrape() -> None:
            await asyncio.sleep(1.5)
            url = f"http://127.0.0.1:{settings.simulator_metrics_port}/metrics"
            pages.append(await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode()))

        await asyncio.gather(
            run_live([Battery(1)], settings, LiveOptions(interval_s=0.1, for_s=2.0), Quiet(), asyncio.Event()), scrape()
        )

    asyncio.run(run())
    samples = dict(line.rsplit(" ", 1) for line in pages[0].splitlines() if not line.startswith("#"))
    assert float(samples["live_readings_total"]) > 5
    assert float(samples["live_predictions_total"]) > 5
    assert float(samples["live_missed_ticks_total"]) >= 0
    assert float(samples['live_waiting_readings{sink="store"}']) >= 0
    assert not [name for name in samples if name.startswith("battery_")], "those are of python -m monitoring"


class FlakySink:
    """Refuses or fails as told, and remembers what it took."""

    def __init__(self, *answers: type[Exception] | None) -> None:
        self._answers = list(answers)
        self.acknowledged = 0
        self.taken: list[str] = []

    def setup(self) -> None: ...

    def write(self, batch: Batch) -> None:
        answer = self._answers.pop(0) if self._answers else None
        if answer is not None:
            raise answer("told so")
        if any(row["battery_id"] == "bad" for row in batch.readings):
            raise SinkRefusedError("bad row")
        self.taken += [str(row["battery_id"]) for row in batch.readings]

    def flush(self) -> None: ...

    def close(self) -> None: ...


def deliver(sink: FlakySink, ids: list[str]) -> Outbox:
    async def run() -> Outbox:
        outbox = Outbox("flaky", sink, retry_s=0.01)
        for battery_id in ids:
            outbox.put(Batch(readings=[{"battery_id": battery_id}]))
        task = asyncio.create_task(outbox.run())
        assert await outbox.drain(5)
        task.cancel()
        return outbox

    return asyncio.run(run())


def test_an_outbox_repeats_until_the_sink_is_back() -> None:
    sink = FlakySink(SinkUnavailableError, SinkUnavailableError)
    outbox = deliver(sink, ["a", "b", "c"])
    assert sink.taken == ["a", "b", "c"]
    assert outbox.failures == 2
    assert outbox.refused_readings == outbox.waiting_readings == 0


def test_an_outbox_loses_only_what_is_refused_and_counts_it() -> None:
    sink = FlakySink()
    outbox = deliver(sink, ["a", "bad", "c"])
    assert sink.taken == ["a", "c"]
    assert outbox.refused_readings == 1


def test_a_dead_sink_is_reported_as_loss(settings: Settings, service: Service, monkeypatch: Any) -> None:
    class Dead(FlakySink):
        def write(self, batch: Batch) -> None:
            raise SinkUnavailableError("gone")

    monkeypatch.setitem(SINKS, "mqtt", lambda _settings: Dead())
    monkeypatch.setattr("simulator.live.FINISH_TIMEOUT_S", 0.5)
    summary = live(settings, [Battery(1)], LiveOptions(interval_s=0.05, for_s=0.3))
    assert summary.stored == summary.tally.produced > 0, "the other sink is not held up"
    assert summary.lost == [f"{summary.stored} readings did not reach mqtt"]


def test_an_absent_service_is_a_sentence() -> None:
    async def run() -> None:
        async with PredictionClient(f"http://127.0.0.1:{free_port('127.0.0.1', 19200)}", connections=1) as client:
            with pytest.raises(PredictionError, match="not ready after"):
                await client.wait_until_ready(0.3)

    asyncio.run(run())


@pytest.mark.parametrize("option", ["interval_s", "speed", "for_s"])
def test_options_must_be_positive(option: str) -> None:
    with pytest.raises(TwinError, match=option):
        LiveOptions(**{option: 0.0})


def test_the_program_runs_real_batteries_and_ends_on_ctrl_c(settings: Settings, service: Service) -> None:
    assert settings.telemetry_dsn is not None
    environment = {
        **os.environ,
        "TWIN_SERVICE_PORT": str(settings.service_port),
        "TWIN_METRICS_PORT": str(settings.metrics_port),
        "TWIN_TELEMETRY_DSN": settings.telemetry_dsn.get_secret_value(),
        "TWIN_MQTT_HOST": str(settings.mqtt_host),
        "TWIN_MQTT_PORT": str(settings.mqtt_port),
    }
    command = [sys.executable, "-m", "simulator.live", "--batteries", "2", "--interval", "0.2"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 60
    while not service.requests or len(service.requests[-1]["readings"]) > 1:  # still posting the past
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert "nothing was lost" in output
    ((stored, predicted, ids),) = query(
        settings, "SELECT count(*), count(prediction_timestamp), count(DISTINCT battery_id) FROM ev_telemetry"
    )
    assert stored == predicted >= 10
    assert ids == 2
    assert {entry["battery"]["chemistry"] for entry in service.requests} <= {"NMC", "NCA", "LFP"}


def test_the_program_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--for", "-1"]) == 2
    assert "for_s is -1.0: it must be greater than 0." in capsys.readouterr().out
