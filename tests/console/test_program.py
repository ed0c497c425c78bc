"""`python -m console` as a process with the embedded telemetry store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

from deploy.servers.process import unused_port

ROOT = Path(__file__).resolve().parents[2]


def test_sigterm_stops_the_console_and_its_embedded_store(server_folders: Path) -> None:
    folder = server_folders / "console alone"
    port = unused_port()
    own = {name: value for name, value in os.environ.items() if not name.startswith("TWIN_")}
    environment = own | {"TWIN_VAR": str(folder), "TWIN_CONSOLE_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-m", "console"], cwd=ROOT, env=environment)
    postmaster = folder / "postgres" / "data" / "postmaster.pid"
    try:
        deadline = time.monotonic() + 60
        while not _is_alive(port):
            assert process.poll() is None
            assert time.monotonic() < deadline, "the console did not start"
            time.sleep(0.2)
        assert postmaster.exists()
    finally:
        process.terminate()
        code = process.wait(30)
    assert code == 0
    assert not postmaster.exists()


def _is_alive(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
