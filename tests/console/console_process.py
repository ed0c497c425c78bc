"""`python -m console` as a process, for tests with a browser or a proxy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from deploy.servers.process import unused_port

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a token of the browser tests"


@contextmanager
def console(dsn: str, folder: Path, ready: str, *arguments: str, **more: str) -> Iterator[str]:
    """Run a console on `dsn`; yields its URL once `ready` returns 200, and checks its exit code and log.

    Args:
        more: further environment variables.
    """
    port = unused_port()
    environment = os.environ | {
        "TWIN_VAR": str(folder / "var"),
        "TWIN_TELEMETRY_DSN": dsn,
        "TWIN_CONSOLE_PORT": str(port),
        "TWIN_CONSOLE_TOKEN": TOKEN,
        **more,
    }
    log = folder / "console.log"
    command = [sys.executable, "-m", "console", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait(f"http://127.0.0.1:{port}{ready}", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            code = process.wait(20)
    assert code == 0
    assert "Traceback" not in log.read_text(), log.read_text()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.2)
    raise AssertionError(log.read_text())
