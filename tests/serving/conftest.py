"""Fixtures of the serving tests: a registry with small released forests, and the service over real HTTP."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from deploy.servers.process import unused_port
from serving.predictor import Predictor
from telemetry.contract import SIGNALS
from telemetry.settings import Settings
from tests.training.small_models import release_small_models
from training.release import LoadedRelease, load_release

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
START_S = 1_767_225_600  # 2026-01-01T00:00:00Z


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Settings:
    """Settings with a registry that has a champion release of all four targets."""
    folder = tmp_path_factory.mktemp("serving")
    settings = Settings(var=folder / "var")
    settings.var.mkdir()
    shutil.copy(empty_registry, settings.var / "mlflow.db")
    release_small_models(settings, folder / "models")
    return settings


@pytest.fixture(scope="session")
def release(registry: Settings) -> LoadedRelease:
    """The champion release of `registry`."""
    return load_release(registry.domain, settings=registry)


@pytest.fixture(scope="session")
def predictor(release: LoadedRelease) -> Predictor:
    """The predictor of `release`."""
    return Predictor(release)


@contextmanager
def serve(settings: Settings, workers: int, ready: str, **more: str) -> Iterator[httpx.Client]:
    """Run the service with the registry in `settings`; yields a client once the path `ready` returns 200.

    Args:
        more: further environment variables.
    """
    port = unused_port()
    environment = os.environ | {
        "TWIN_VAR": str(settings.var),
        "TWIN_SERVICE_PORT": str(port),
        "TWIN_SERVICE_WORKERS": str(workers),
        "TWIN_SERVICE_MAX_BATTERIES": "50",
        "TWIN_SERVICE_MAX_ROWS": "2000",
        "TWIN_SERVICE_MAX_BODY_BYTES": "1000000",
        "TWIN_SHADOW": str(settings.shadow),
        **more,
    }
    if settings.telemetry_dsn is not None:
        environment["TWIN_TELEMETRY_DSN"] = settings.telemetry_dsn.get_secret_value()
    log = settings.var / f"service-{port}.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-m", "serving"], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=30) as client:
                _wait(client, ready, process, log)
                yield client
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait(client: httpx.Client, path: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if client.get(path).status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    raise AssertionError(f"{path} was not ready in 90 s:\n{log.read_text()}")


@pytest.fixture(scope="session")
def service(registry: Settings) -> Iterator[httpx.Client]:
    """Client of a service with two workers on `registry`."""
    with serve(registry, workers=2, ready="/readyz") as client:
        yield client


def reading(second: float, **fields: object) -> dict[str, object]:
    """A valid reading `second` seconds after the start of 2026."""
    stamp = pd.Timestamp(START_S + second, unit="s", tz="UTC").isoformat()
    wave = float(np.sin(second / 60))
    return {"time": stamp, "voltage": 360 - 3 * wave, "current": 40 * wave, "temperature": 25 + second / 600} | fields


def cycle(index: int) -> dict[str, object]:
    """A valid cycle summary with some signals missing."""
    rng = np.random.default_rng(index)
    return {"cycle_index": float(index), **{name: 3 + float(rng.normal()) for name in SIGNALS[:20]}}


@pytest.fixture
def battery() -> Callable[..., dict[str, Any]]:
    """Creates a battery's entry of a request: `battery("EV-7", readings=range(3), cycles=range(2))`."""

    def make(battery_id: str = "EV-7", readings: Any = range(3), cycles: Any = (), **fields: object) -> dict[str, Any]:
        return {
            "battery_id": battery_id,
            "battery": {"nominal_capacity_ah": 150, "chemistry": "NMC", "cells_in_series": 96},
            "readings": [reading(float(second)) for second in readings],
            "cycles": [cycle(index) for index in cycles],
            **fields,
        }

    return make
