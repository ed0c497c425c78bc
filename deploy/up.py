"""Start MLflow, service, monitoring and console in the background and the live simulator in the foreground.

    python -m deploy.up --for 60

The same programs as in the `Procfile`, after the pipeline with `--train`.  All other options are passed to `python -m
simulator.live`.  Exits with the simulator and its exit code, and stops the servers that it started.  One of these runs
in a folder: a lock on `var/run.lock` refuses the second one before it does anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import httpx
from rich.console import Console

from telemetry.embedded.ports import free_port
from telemetry.embedded.postgres import embedded_dsn
from telemetry.errors import TwinError
from telemetry.settings import USAGE_STATISTICS_OFF, Settings

READY_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 10.0
_PORTS = ("mlflow_port", "service_port", "metrics_port", "console_port", "simulator_metrics_port", "mqtt_port")
_LOG_TAIL_LINES = 30
#: From <sys/prctl.h>.
_PR_SET_PDEATHSIG = 1
#: Option of this program: run the pipeline first, after a check of the simulator's options.
_TRAIN = "--train"
_PIPELINE = ("training.experiment", "--default")


@dataclass(frozen=True)
class BackgroundServer:
    """A server that is started in the background.

    Attributes:
        ready_url: returns 200 as soon as the server can be used.
        page_url: address to open in a browser.
        experiment: of MLflow, whose runs are the page to open.
    """

    name: str
    command: tuple[str, ...]
    ready_url: str
    page_url: str
    log: Path
    experiment: str | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Start, run, stop; the exit code is that of the pipeline or the simulator, or 1 if a server did not start."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # in a log file, too, a line appears when it is printed
        sys.stdout.reconfigure(line_buffering=True)
    console = Console()
    arguments = list(sys.argv[1:] if argv is None else argv)
    is_trained = _TRAIN not in arguments
    live = [sys.executable, "-m", "simulator.live", *(option for option in arguments if option != _TRAIN)]
    signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        with only_run(Settings().var):
            steps = () if is_trained else ([*live, "--check"], [sys.executable, "-m", *_PIPELINE])
            for command in steps:
                if code := run_in_foreground(command, os.environ):
                    return code
            settings, notices = with_free_ports(Settings())
            for sentence in notices:
                console.print(sentence, style="yellow", highlight=False)
            environment = environment_of(settings)
            with running_servers(background_servers(settings), environment, console):
                if settings.telemetry_dsn is None:
                    dsn = embedded_dsn(settings.var / "postgres")
                    console.print(f"telemetry store: {dsn} (`make psql` opens it)", highlight=False, soft_wrap=True)
                return run_in_foreground(live, environment)
    except TwinError as error:
        console.print(str(error), style="red", highlight=False, markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130


@contextlib.contextmanager
def only_run(var: Path) -> Iterator[None]:
    """Hold the lock of the folder `var`, which the kernel releases when this process ends, even by SIGKILL.

    Raises:
        TwinError: another process holds it; the message names its process id.
    """
    var.mkdir(parents=True, exist_ok=True)
    with (var / "run.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            sentence = (
                f"The twin already runs in this folder, as process {pid}: use it, or stop it with Ctrl-C in its "
                f"terminal or `kill {pid}`. TWIN_VAR names another folder for a second one."
            )
            raise TwinError(sentence, field="var", value=str(var)) from None
        lock.truncate(0)
        print(os.getpid(), file=lock, flush=True)
        yield


def with_free_ports(settings: Settings) -> tuple[Settings, list[str]]:
    """`settings` with ports that are free, and a sentence for each port that was changed."""
    ports: dict[str, int] = {}
    notices = []
    for name in _PORTS:
        configured: int = getattr(settings, name)
        if name == "mqtt_port" and settings.mqtt_host is not None:
            continue
        ports[name] = free_port(settings.host, configured)
        if ports[name] != configured:
            server = name.removesuffix("_port")
            notices.append(f"Port {configured} is in use: this time {server} listens on {ports[name]}.")
    return settings.model_copy(update=ports), notices


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment of the child processes: this one, with the chosen ports."""
    ports = {f"TWIN_{name.upper()}": str(getattr(settings, name)) for name in _PORTS}
    # Simulated time may run ahead of the clock and continues there in the next run; those readings must be accepted.
    future = {"TWIN_MAX_FUTURE_S": "inf"}
    return {**future, **os.environ, **USAGE_STATISTICS_OFF, **ports, "PYTHONUNBUFFERED": "1"}


def background_servers(settings: Settings) -> list[BackgroundServer]:
    """The servers that the simulator uses; MLflow only if the settings do not name a tracking server."""
    logs = settings.var / "log"
    service = BackgroundServer(
        "prediction service",
        (sys.executable, "-m", "serving"),
        f"{settings.service_url}/readyz",
        settings.service_url,
        logs / "service.log",
    )
    metrics_url = f"http://{settings.host}:{settings.metrics_port}/metrics"
    monitoring = BackgroundServer(
        "metrics",
        (sys.executable, "-m", "monitoring"),
        metrics_url,
        metrics_url,
        logs / "monitoring.log",
    )
    console_url = f"http://{settings.host}:{settings.console_port}"
    console = BackgroundServer(
        "console",
        (sys.executable, "-m", "console"),
        f"{console_url}/api/health",
        console_url,
        logs / "console.log",
    )
    if settings.tracking_uri.startswith("http"):
        return [service, monitoring, console]
    mlflow_url = f"http://{settings.host}:{settings.mlflow_port}"
    mlflow = BackgroundServer(
        "MLflow",
        (sys.executable, "-m", "deploy.mlflow_ui"),
        f"{mlflow_url}/health",
        mlflow_url,
        logs / "mlflow.log",
        settings.domain,
    )
    return [mlflow, service, monitoring, console]


@contextlib.contextmanager
def running_servers(
    servers: Sequence[BackgroundServer],
    environment: Mapping[str, str],
    console: Console,
    timeout_s: float = READY_TIMEOUT_S,
) -> Iterator[None]:
    """Start `servers`, wait until all are ready, and stop them on exit.

    Raises:
        TwinError: one exited or was not ready in time; the message ends with the last lines of its log.
    """
    started: dict[BackgroundServer, subprocess.Popen[bytes]] = {}
    try:
        for server in servers:
            started[server] = _start(server, environment)
        for server, process in started.items():
            with console.status(f"waiting for {server.name} …"):
                _wait_until_ready(server, process, timeout_s)
            page = server.page_url if server.experiment is None else runs_page(server.page_url, server.experiment)
            console.print(f"{server.name}: {page} (log: {server.log})", highlight=False, soft_wrap=True)
        yield
    finally:
        _stop(list(started.values()))


def runs_page(mlflow_url: str, experiment: str) -> str:
    """Address of the runs of an MLflow experiment; that of the server before there is such an experiment."""
    with httpx.Client(trust_env=False, timeout=10.0) as http:
        path = "api/2.0/mlflow/experiments/get-by-name"
        response = http.get(f"{mlflow_url}/{path}", params={"experiment_name": experiment})
    if response.status_code != httpx.codes.OK:
        return mlflow_url
    number = response.json()["experiment"]["experiment_id"]
    return f"{mlflow_url}/#/experiments/{number}/runs?workflowType=machine_learning"


def run_in_foreground(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run `command` in this terminal and return its exit code.

    SIGTERM, SIGINT and SIGHUP are forwarded to it as SIGTERM, and its orderly exit is waited for.  Ctrl-C also reaches
    it directly from the terminal, as it is in the same process group; the second signal has no further effect.
    """
    process = subprocess.Popen(command, env=dict(environment), preexec_fn=_end_with_parent())

    def forward(_number: int, _frame: FrameType | None) -> None:
        process.terminate()

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    previous = {number: signal.signal(number, forward) for number in numbers}
    try:
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _start(server: BackgroundServer, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    server.log.parent.mkdir(parents=True, exist_ok=True)
    with server.log.open("wb") as log:
        # In its own process session: Ctrl-C must stop the simulator first, which needs the servers until it exits.
        return subprocess.Popen(
            server.command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent(),
        )


def _end_with_parent() -> Callable[[], None] | None:
    """Function for a child that asks Linux for SIGTERM when this process ends, also by SIGKILL."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask


def _wait_until_ready(server: BackgroundServer, process: subprocess.Popen[bytes], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    with httpx.Client(trust_env=False, timeout=5.0) as http:
        while process.poll() is None:
            if _is_ready(http, server.ready_url):
                return
            if time.monotonic() > deadline:
                raise _start_error(server, f"{server.name} is not ready after {timeout_s:g} s")
            time.sleep(0.2)
    raise _start_error(server, f"{server.name} ended with exit code {process.returncode}")


def _is_ready(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(url).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _start_error(server: BackgroundServer, failure: str) -> TwinError:
    lines = server.log.read_text(encoding="utf-8", errors="replace").splitlines()
    tail = "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:]) or "  (empty)"
    return TwinError(f"{failure}. The end of its log, {server.log}:\n{tail}", field="up", value=server.name)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Stop each process group with SIGTERM, and with SIGKILL after a timeout."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0.1))
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The group may outlive its leader; ProcessLookupError means that no process is left in it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
