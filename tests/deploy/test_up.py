"""Tests of `deploy.up`: start order, readiness, error messages with the end of the log, and clean-up."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from deploy.up import (
    BackgroundServer,
    background_servers,
    environment_of,
    only_run,
    run_in_foreground,
    running_servers,
    runs_page,
    with_free_ports,
)
from telemetry.embedded.ports import free_port
from telemetry.errors import TwinError
from telemetry.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
#: A file server that also starts a child process, as BentoML does.
SERVER = """
import subprocess, sys
from http.server import HTTPServer, SimpleHTTPRequestHandler
CHILD = 'import socket, time; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1]); time.sleep(600)'
subprocess.Popen([sys.executable, '-u', '-c', CHILD]).poll()
HTTPServer(('127.0.0.1', int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()
"""


def server(tmp_path: Path, code: str = SERVER, name: str = "stand-in", near: int = 19300) -> BackgroundServer:
    port = free_port("127.0.0.1", near)
    url = f"http://127.0.0.1:{port}/"
    return BackgroundServer(name, (sys.executable, "-c", code, str(port)), url, url, tmp_path / "log" / f"{name}.log")


def child_port(log: Path) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.isdigit():
                return int(line)
        time.sleep(0.02)
    raise AssertionError("the child did not start")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_servers_and_their_children_are_stopped_on_exit(tmp_path: Path) -> None:
    stand_in = server(tmp_path)
    output = io.StringIO()
    with running_servers([stand_in], os.environ, Console(file=output, width=200)):
        child = child_port(stand_in.log)
        assert listens(child)
        code = run_in_foreground([sys.executable, "-c", "raise SystemExit(7)"], os.environ)
    assert code == 7
    assert stand_in.page_url in output.getvalue()
    deadline = time.monotonic() + 5
    while listens(child):
        assert time.monotonic() < deadline, "the child of the server is still running"
        time.sleep(0.02)


def test_an_exited_server_is_reported_with_its_log_and_the_others_are_stopped(tmp_path: Path) -> None:
    good = server(tmp_path)
    bad = server(tmp_path, "print('no champion is registered'); raise SystemExit(3)", "bad", near=19350)
    sentence = r"(?s)bad ended with exit code 3.*no champion is registered"
    with (
        pytest.raises(TwinError, match=sentence),
        running_servers([good, bad], os.environ, Console(file=io.StringIO())),
    ):
        pytest.fail("the body must not run")
    with socket.create_server(("127.0.0.1", int(good.command[-1]))):
        pass  # the port is free again


def test_a_server_that_is_not_ready_in_time_is_reported(tmp_path: Path) -> None:
    silent = server(tmp_path, "import time; time.sleep(600)", "silent")
    console = Console(file=io.StringIO())
    with (
        pytest.raises(TwinError, match=r"not ready after 0\.5 s"),
        running_servers([silent], os.environ, console, timeout_s=0.5),
    ):
        pytest.fail("the body must not run")


def test_a_port_in_use_is_replaced_by_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", free_port("127.0.0.1", 19400))) as taken:
        port = taken.getsockname()[1]
        settings, notices = with_free_ports(Settings(service_port=port, mlflow_port=19450))
    assert settings.service_port > port
    assert notices[0] == f"Port {port} is in use: this time service listens on {settings.service_port}."
    assert environment_of(settings)["TWIN_SERVICE_PORT"] == str(settings.service_port)
    assert environment_of(settings)["TWIN_MAX_FUTURE_S"] == "inf"  # accepts simulated time ahead of the clock


def test_mlflow_is_not_started_if_the_settings_name_a_tracking_server() -> None:
    without = [server.name for server in background_servers(Settings())]
    with_server = [server.name for server in background_servers(Settings(mlflow_tracking_uri="http://mlflow:5000"))]
    assert without == ["MLflow", "prediction service", "metrics", "console"]
    assert with_server == ["prediction service", "metrics", "console"]


@pytest.mark.timeout(180)
def test_mlflow_starts_one_process_and_its_page_is_that_of_the_runs(tmp_path: Path, empty_registry: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_registry.read_bytes())
    settings = Settings(var=tmp_path, mlflow_port=free_port("127.0.0.1", 19500), domain="cars")
    (mlflow, *_) = background_servers(settings)
    environment = {**environment_of(settings), "TWIN_VAR": str(tmp_path)}
    printed = io.StringIO()
    with running_servers([mlflow], environment, Console(file=printed)):
        assert runs_page(mlflow.page_url, "cars") == mlflow.page_url, "there are no runs yet"
        created = httpx.post(
            f"{mlflow.page_url}/api/2.0/mlflow/experiments/create", json={"name": "cars"}, trust_env=False, timeout=30.0
        )
        number = created.json()["experiment_id"]
        runs = f"{mlflow.page_url}/#/experiments/{number}/runs?workflowType=machine_learning"
        assert runs_page(mlflow.page_url, "cars") == runs
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
        own = [line for line in listed if str(tmp_path) in line]
        assert len(own) <= 2, own
    assert f"MLflow: {mlflow.page_url} (log:" in printed.getvalue()


def test_the_procfile_lists_the_same_programs() -> None:
    programs = {line.partition(": ")[2] for line in (ROOT / "Procfile").read_text().splitlines()}
    commands = [server.command for server in background_servers(Settings())] + [
        (sys.executable, "-m", "simulator.live")
    ]
    assert programs == {f"python {' '.join(command[1:])}" for command in commands}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_forwarded_and_the_exit_code_of_the_foreground_returned(number: signal.Signals) -> None:
    script = """
import os, sys
from deploy.up import run_in_foreground
finish = '''
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
print("up", flush=True)
time.sleep(60)
'''
sys.exit(run_in_foreground([sys.executable, "-c", finish], os.environ))
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(number)
    assert process.wait(10) == 5
    process.stdout.close()


#: A run that holds the lock, with one child that ends with it.
HOLDER = """
import os, sys
from pathlib import Path
from deploy.up import only_run, run_in_foreground
with only_run(Path(sys.argv[1])):
    child = 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'
    sys.exit(run_in_foreground([sys.executable, "-c", child], os.environ))
"""


def test_a_second_run_is_refused_at_once_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    # Neither arguments nor params.yaml are read, and no server is started.
    command = [sys.executable, "-m", "deploy.up", "--train", "--no-such-option"]
    environment = {**os.environ, "TWIN_VAR": str(tmp_path)}
    second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"The twin already runs in this folder, as process {holder.pid}" in second.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with only_run(tmp_path):
        assert (tmp_path / "run.lock").read_text() == f"{os.getpid()}\n"
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline, "the child of the killed run is still running"
        time.sleep(0.02)


def test_the_pipeline_is_not_run_if_the_options_are_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.up", "--train", "--for", "abc"]
    environment = {**os.environ, "TWIN_VAR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "invalid float value" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]
