"""Demonstration run: first model, live fleet, shift to a scenario, drift, retraining, promotion, and its effect."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg2
import yaml
from pydantic import SecretStr
from rich.console import Console

from benchmarks.loop.load_client import RequestLog, send_requests
from benchmarks.loop.recorded_fleet import recorded_fleet
from deploy.up import BackgroundServer, environment_of, running_servers
from retraining.retrainer import open_retrainer
from simulator.injections import parse_scenario, with_injections
from simulator.live import LiveOptions, run_live
from simulator.live_twin import LiveTwin
from simulator.run_statistics import RunStatistics
from telemetry.embedded.ports import free_port
from telemetry.embedded.postgres import embedded_postgres
from telemetry.errors import TwinError
from telemetry.parameters import load_params
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from training.gate import GateThresholds
from training.registry.promotion import promote

TARGET = "temperature"
_PORTS = ("service_port", "metrics_port", "simulator_metrics_port", "mqtt_port")
_POLL_S = 1.0
#: Timeout for the retraining process to exit.
_EXIT_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class LoopOptions:
    """Size, duration and speed of the demonstration.

    Attributes:
        history_days: days of telemetry that train the first model.
        step_s: event time between two readings of a battery.
        speed: event time per wall-clock time.
        before_h, after_h: hours of event time before the shift, and after the promotion.
        timeout_s: wall-clock time from the first live reading on.
        scenario: an entry of `simulator.injections.SCENARIOS`, with a hyphen; None: nothing changes.
        params: overrides of params.yaml, section by section.
    """

    batteries: int = 8
    history_days: float = 1.5
    step_s: float = 30.0
    speed: float = 240.0
    before_h: float = 5.0
    after_h: float = 8.0
    timeout_s: float = 1800.0
    scenario: str | None = "hot-summer"
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("batteries", "history_days", "step_s", "speed", "before_h", "after_h", "timeout_s"):
            value = getattr(self, name)
            if not value > 0:
                raise TwinError(f"{name} is {value!r}: it must be greater than 0.", field=f"--{name}", value=value)


@dataclass
class LoopResult:
    """Observations; all times are event time.

    Attributes:
        retrains: trainings started by drift.
        windows, windows_out: drift windows of the temperature model, and those out of bounds in any way.
        errors: of the live temperature forecasts: `time`, `role`, `model_version`, `battery_id`, `error` in degC.
        requests: of the load client.
    """

    began: datetime | None = None
    shifted: datetime | None = None
    flagged: datetime | None = None
    retrained: datetime | None = None
    promoted: datetime | None = None
    ended: datetime | None = None
    retrains: int = 0
    windows: int = 0
    windows_out: int = 0
    errors: pd.DataFrame = field(default_factory=pd.DataFrame)
    requests: RequestLog = field(default_factory=RequestLog)

    def mean_error(self, since: datetime | None, until: datetime | None, role: str = "champion") -> float:
        """Mean absolute error of forecasts made between two times, degC; NaN where there are none."""
        rows = self.errors[self.errors["role"] == role]
        if since is not None:
            rows = rows[rows["time"] >= since]
        if until is not None:
            rows = rows[rows["time"] < until]
        return float(rows["error"].abs().mean())


def demonstration_params(project: Path, options: LoopOptions) -> dict[str, Any]:
    """`params.yaml` of the project with the overrides for a fast run."""
    params = load_params(project / "params.yaml")
    fast: dict[str, dict[str, Any]] = {
        # Few old logs: only the newest days are used here.
        "simulate": {"days_between_logs": 300.0},
        # Few days, so every row counts; labels do not overlap at the horizon.
        "targets": {"temperature_every_s": 300.0},
        "snapshot": {"days": options.history_days + 2.0, "every_s": 0},
        "tune": {"trials": 1, "max_rows": 2000, "n_estimators": [30], "max_depth": [12], "max_features": [0.33]},
        # A fifth of the batteries is held out for the gate; of two, a challenger has to be better on both.
        "gate": {"min_batteries": max(2, min(5, round(options.batteries / 5)))},
        "drift": {"window_s": 3600},
        "retrain": {"pause_s": 60.0, "longest_pause_s": 240.0},
        "rollback": {"min_outcomes": 100, "max_outcomes": 800, "watch_s": 3600.0},
    }
    for section in (fast, options.params):
        for name, values in section.items():
            params[name] = {**params.get(name, {}), **values}
    return params


def run_demonstration(folder: Path, project: Path, options: LoopOptions, console: Console) -> LoopResult:
    """Run the demonstration on embedded servers in the new folder `folder`.

    Raises:
        TwinError: a server could not be started, or no first model passed the gate.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise TwinError(f"{folder} exists already; name a new folder", field="--keep", value=str(folder)) from error
    params = demonstration_params(project, options)
    params_file = folder / "params.yaml"
    params_file.write_text(yaml.safe_dump(params), encoding="utf-8")
    with ExitStack() as stack:
        dsn = stack.enter_context(embedded_postgres((folder / "postgres").resolve(), max_future_s=math.inf))
        ports = {name: free_port("127.0.0.1", 32100 + 20 * n) for n, name in enumerate(_PORTS)}
        settings = Settings(
            var=folder.resolve(),
            telemetry_dsn=SecretStr(dsn),
            mqtt_host=None,
            shadow=True,
            evaluation_interval_s=1.0,
            retrain_interval_s=1.0,
            max_future_s=math.inf,
        ).model_copy(update=ports)
        migrate(dsn)
        # Mid January of next year: the same season in every run, and later than now, the earliest start of a live run.
        at = datetime(datetime.now(UTC).year + 1, 1, 15, tzinfo=UTC)
        console.print(
            f"simulating {options.history_days:g} winter days of {options.batteries} batteries …", highlight=False
        )
        packs = recorded_fleet(params, options.batteries, dsn, at=at, days=options.history_days, step_s=options.step_s)
        console.print("training the first model on them …", highlight=False)
        _first_model(settings, params, console)
        environment = {**environment_of(settings), **_environment(settings)}
        stack.enter_context(running_servers(_servers(settings, params_file), environment, console))
        stack.enter_context(_retraining_process(settings, params_file, environment))
        result = LoopResult()
        stop, stop_client = threading.Event(), threading.Event()
        injections = [] if options.scenario is None else [parse_scenario(f"{options.scenario}@{_shift_s(options):g}s")]
        batteries = with_injections(packs, injections, speed=options.speed)
        live = LiveOptions(interval_s=options.step_s / options.speed, speed=options.speed)
        stack.enter_context(_thread(stop, lambda: run_live(batteries, settings, live, _QuietView(console), stop)))
        client = _thread(stop_client, lambda: send_requests(settings.service_url, stop_client, result.requests))
        stack.enter_context(client)
        _monitor_progress(dsn, options, result, console, stop)
    return result


def _shift_s(options: LoopOptions) -> float:
    return options.before_h * 3600.0 / options.speed


def _first_model(settings: Settings, params: Mapping[str, Any], console: Console) -> None:
    with open_retrainer(settings, params, threading.Event()) as retrainer:
        done = retrainer.run_once("the first model of this fleet")
        registry = retrainer.registry
        if TARGET in registry.aliases().champions:
            return
        version = registry.aliases().challengers.get(TARGET)
        if done is None or version is None:
            raise TwinError(
                f"there is no first model: {done.detail if done else 'another process is training'}", field="loop"
            )
        # A few winter days of cars that are mostly parked hardly allow to beat 'no change'.
        console.print("it does not pass the gate, and is promoted by hand for the demonstration", highlight=False)
        promote(
            registry,
            GateThresholds.of(params),
            {TARGET: version},
            reason="first model of the demonstration",
            by="demonstration",
            force=True,
        )


def _environment(settings: Settings) -> dict[str, str]:
    """Environment of the child processes in addition to the ports."""
    assert settings.telemetry_dsn is not None
    return {
        "TWIN_VAR": str(settings.var),
        "TWIN_TELEMETRY_DSN": settings.telemetry_dsn.get_secret_value(),
        "TWIN_SHADOW": "true",
        "TWIN_EVALUATION_INTERVAL_S": str(settings.evaluation_interval_s),
        "TWIN_RETRAIN_INTERVAL_S": str(settings.retrain_interval_s),
        "TWIN_MAX_FUTURE_S": "inf",
    }


def _servers(settings: Settings, params_file: Path) -> list[BackgroundServer]:
    logs = settings.var / "log"
    metrics = f"http://{settings.host}:{settings.metrics_port}/metrics"
    service = settings.service_url
    return [
        BackgroundServer(
            "prediction service", (sys.executable, "-m", "serving"), f"{service}/readyz", service, logs / "service.log"
        ),
        BackgroundServer(
            "metrics",
            (sys.executable, "-m", "monitoring", "--params", str(params_file)),
            metrics,
            metrics,
            logs / "monitoring.log",
        ),
    ]


@contextlib.contextmanager
def _retraining_process(settings: Settings, params_file: Path, environment: Mapping[str, str]) -> Iterator[None]:
    command = [sys.executable, "-m", "retraining", "--params", str(params_file)]
    with (settings.var / "log" / "retrain.log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(_EXIT_TIMEOUT_S)
            except subprocess.TimeoutExpired:  # a training ignores SIGTERM
                process.kill()
                process.wait()


@contextlib.contextmanager
def _thread(stop: threading.Event, work: Callable[[], object]) -> Iterator[None]:
    """Run `work` in a thread that sets `stop` when it ends and ends when `stop` is set; its error is raised."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        future.add_done_callback(lambda _: stop.set())
        try:
            yield
        finally:
            stop.set()
        future.result()


class _QuietView:
    """View of the live run that prints messages only."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def history(self, battery_id: str, posted: int, total: int) -> None:
        """Not shown."""

    def tick(self, twins: Sequence[LiveTwin], statistics: RunStatistics) -> None:
        """Not shown."""

    def notify(self, sentence: str) -> None:
        """Print a message."""
        self._console.print(sentence, highlight=False, markup=False)

    def close(self) -> None:
        """Nothing to restore."""


def _monitor_progress(
    dsn: str, options: LoopOptions, result: LoopResult, console: Console, has_ended: threading.Event
) -> None:
    """Record the events of the run until it is complete, times out or the live run has ended."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    deadline = time.monotonic() + options.timeout_s
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT max(time) FROM ev_telemetry")
            (history_end,) = cursor.fetchone() or (None,)
            while time.monotonic() < deadline and not _is_complete(result, options):
                if has_ended.wait(_POLL_S):
                    break
                _check_progress(cursor, history_end, options, result, console)
            result.errors = _errors(cursor, result.began)
            cursor.execute("SELECT count(*) FROM retrains WHERE drift <> '[]'")
            (result.retrains,) = cursor.fetchone() or (0,)
            cursor.execute(
                "SELECT count(*), count(*) FILTER (WHERE is_out) FROM (SELECT bool_or(is_out) AS is_out "
                "FROM drift_windows WHERE target = %s AND window_start >= %s "
                "GROUP BY window_start) w",
                (TARGET, result.began),
            )
            result.windows, result.windows_out = cursor.fetchone() or (0, 0)
    finally:
        connection.close()


def _is_complete(result: LoopResult, options: LoopOptions) -> bool:
    if result.ended is None or result.began is None:
        return False
    since = result.promoted if options.scenario is not None else result.began + timedelta(hours=options.before_h)
    return since is not None and result.ended >= since + timedelta(hours=options.after_h)


def _check_progress(
    cursor: Any, history_end: datetime, options: LoopOptions, result: LoopResult, console: Console
) -> None:
    cursor.execute("SELECT min(time), max(time) FROM ev_telemetry WHERE time > %s AND voltage > 0", (history_end,))
    first, now = cursor.fetchone()
    if first is None:
        return
    if result.began is None:
        result.began = first
        if options.scenario is not None:
            result.shifted = first + timedelta(hours=options.before_h)
        console.print(f"live since {first:%d %b %H:%M} of event time", highlight=False)
    result.ended = now
    if result.flagged is None:
        cursor.execute("SELECT kind, score, threshold FROM drift_status WHERE target = %s AND is_drifting", (TARGET,))
        if (row := cursor.fetchone()) is not None:
            result.flagged = now
            _report(console, result, now, f"{row[0]} of {TARGET} drift: {row[1]:.3g}, bound {row[2]:.3g}")
    cursor.execute("SELECT ended_at, outcome, detail, error FROM retrains WHERE drift <> '[]' ORDER BY retrain_id")
    rows = cursor.fetchall()
    if rows and result.retrained is None:
        result.retrained = now
        _report(console, result, now, "a training starts on the recorded telemetry")
    if result.promoted is None and any(outcome == "promoted" for _, outcome, _, _ in rows):
        result.promoted = now
        detail = next(detail for _, outcome, detail, _ in rows if outcome == "promoted")
        _report(console, result, now, f"promoted: {detail}")


def _report(console: Console, result: LoopResult, now: datetime, sentence: str) -> None:
    since = (
        "" if result.shifted is None else f", {(now - result.shifted).total_seconds() / 3600.0:+.1f} h after the shift"
    )
    console.print(f"{now:%d %b %H:%M}{since}: {sentence}", highlight=False, markup=False)


def _errors(cursor: Any, began: datetime | None) -> pd.DataFrame:
    cursor.execute(
        "SELECT time, role, model_version, battery_id, error FROM prediction_outcomes WHERE target = %s AND time >= %s "
        "ORDER BY time, battery_id",
        (TARGET, began),
    )
    return pd.DataFrame(cursor.fetchall(), columns=["time", "role", "model_version", "battery_id", "error"])
