"""Benchmark of the console's REST API on a large store: 99th percentile of each path, against its SQL statements.

    python -m benchmarks.console --binaries /usr/lib/postgresql/15/bin

Fills a store in a temporary folder first, which takes minutes and gigabytes.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.console_store import StoreSize, fill
from console.connection_pool import Database
from console.history import HistoryQueries, HistoryWindow
from console.queries import Queries
from deploy.servers.install import DEBIAN
from telemetry.embedded.ports import free_port
from telemetry.embedded.postgres import embedded_postgres

_HOST = "127.0.0.1"
_CALLS = 300
_WARM_UP = 20
_READY_S = 60.0
_MONTH = timedelta(days=30)


def console() -> list[dict[str, Any]]:
    """Measurements on a store with 1,000 batteries and 10 million readings, on PostgreSQL 15 where installed."""
    with tempfile.TemporaryDirectory(prefix="twin-console-bench-") as folder:
        postgresql = DEBIAN["postgresql-15"]
        binaries = None if postgresql.missing() else postgresql.program("initdb").parent
        with embedded_postgres(Path(folder) / "postgres", binaries=binaries, durable=False) as dsn:
            fill(dsn, StoreSize())
            return console_measurements(dsn)


def console_measurements(dsn: str, calls: int = _CALLS) -> list[dict[str, Any]]:
    """99th percentile, ms, of each path on the store at `dsn`, and of its statements without HTTP."""
    queries, histories = Queries(Database(dsn)), HistoryQueries(Database(dsn))
    ids = queries.battery_ids()
    rng = random.Random(7)  # noqa: S311 - not a secret

    def month(battery_id: str) -> object:
        until = (queries.latest(battery_id) or {})["time"]
        window = HistoryWindow(battery_id, until - _MONTH, until)
        return histories.readings(window), histories.predictions(window)

    paths: dict[str, tuple[str, Callable[[str], object]]] = {
        "console_status_p99": ("/api/battery/status?battery_id={}", queries.snapshot),
        "console_latest_p99": ("/api/battery/latest?battery_id={}", queries.latest),
        "console_list_p99": ("/api/batteries/list", lambda _: queries.battery_ids()),
        "console_alerts_p99": ("/api/alerts", lambda _: queries.alert_candidates()),
        "console_history_30_days_p99": ("/api/battery/history?hours=720&battery_id={}", month),
    }
    measurements = []
    with _console(dsn) as http:
        for name, (path, statement) in paths.items():
            requested = [rng.choice(ids) for _ in range(calls)]
            value = _p99_ms(partial(_get, http, path), requested)
            peer_value = _p99_ms(statement, requested)
            measurements.append(
                {
                    "name": name,
                    "value": value,
                    "unit": "ms",
                    "peer": "the same statements without HTTP",
                    "peer_value": peer_value,
                    "ratio": value / peer_value,
                }
            )
    return measurements


def _get(http: httpx.Client, path: str, battery_id: str) -> None:
    http.get(path.format(battery_id)).raise_for_status()


def _p99_ms(call: Callable[[str], object], battery_ids: Sequence[str]) -> float:
    for battery_id in battery_ids[:_WARM_UP]:
        call(battery_id)
    durations_s = []
    for battery_id in battery_ids:
        began = time.perf_counter()
        call(battery_id)
        durations_s.append(time.perf_counter() - began)
    return float(np.percentile(durations_s, 99)) * 1e3


@contextmanager
def _console(dsn: str) -> Iterator[httpx.Client]:
    port = free_port(_HOST, 15200)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TWIN_VAR": folder, "TWIN_CONSOLE_PORT": str(port), "TWIN_TELEMETRY_DSN": dsn}
        process = subprocess.Popen([sys.executable, "-m", "console"], env=environment)
        try:
            with httpx.Client(base_url=f"http://{_HOST}:{port}", timeout=30.0, trust_env=False) as http:
                _wait(http, process)
                yield http
        finally:
            process.terminate()
            process.wait(30)


def _wait(http: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if http.get("/api/health").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.2)
    raise RuntimeError("the console is not ready")


def main(argv: Sequence[str] | None = None) -> int:
    """Fill the store, run the benchmark and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batteries", type=int, default=StoreSize.batteries)
    parser.add_argument("--readings", type=int, default=StoreSize.readings)
    parser.add_argument("--calls", type=int, default=_CALLS, help="requests for each path")
    parser.add_argument("--binaries", type=Path, help="folder of initdb and pg_ctl (default: the packaged PostgreSQL)")
    parser.add_argument("--folder", type=Path, help="folder of the store (default: a temporary folder)")
    arguments = parser.parse_args(argv)
    out = Console()
    with tempfile.TemporaryDirectory(prefix="twin-console-bench-") as scratch:
        folder = arguments.folder or Path(scratch)
        with embedded_postgres(folder / "postgres", binaries=arguments.binaries, durable=False) as dsn:
            if not _is_filled(dsn):
                began = time.perf_counter()
                fill(dsn, StoreSize(arguments.batteries, arguments.readings))
                out.print(f"filled in {time.perf_counter() - began:.0f} s")
            table = Table("name", "value", "unit", "peer", "its value", "ratio")
            for measurement in console_measurements(dsn, arguments.calls):
                values = (measurement["value"], measurement["peer_value"], measurement["ratio"])
                value, peer_value, ratio = (f"{number:.3g}" for number in values)
                table.add_row(
                    measurement["name"], value, measurement["unit"], measurement["peer"], peer_value, f"{ratio}x"
                )
            out.print(table)
    return 0


def _is_filled(dsn: str) -> bool:
    database = Database(dsn)
    found = database.fetch_one("SELECT to_regclass('ev_telemetry') IS NOT NULL AS found")
    return bool(found and found["found"]) and database.fetch_one("SELECT FROM batteries LIMIT 1") is not None


if __name__ == "__main__":
    sys.exit(main())
