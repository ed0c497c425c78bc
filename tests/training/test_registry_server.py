"""The same registry behind an MLflow server that keeps the artifacts itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from data.embedded.ports import free_port
from data.settings import NO_TELEMETRY, Settings
from tests.training.small_models import GATE, ModelFiles
from training.registry.promotion import rollback
from training.registry.registration import Provenance, register_all
from training.registry.store import RegistryStore
from training.release import load_release

START_TIMEOUT_S = 120.0


@pytest.fixture
def server(tmp_path: Path, empty_registry: Path) -> Iterator[str]:
    """Address of a running `mlflow server`."""
    database = tmp_path / "server.db"
    database.write_bytes(empty_registry.read_bytes())
    port = free_port("127.0.0.1", 15000)
    options = ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(tmp_path / "artifacts")]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *options]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path, env={**os.environ, **NO_TELEMETRY})
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(f"{address}/health", tmp_path / "server.log")
            yield address
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_for(address: str, log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end:
        try:
            if httpx.get(address).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"the MLflow server did not start:\n{log.read_text()}")


@pytest.mark.slow
def test_register_load_and_roll_back(server: str, tmp_path: Path, models: ModelFiles, provenance: Provenance) -> None:
    settings = Settings(var=tmp_path / "var", mlflow_tracking_uri=server)
    store = RegistryStore.open(settings, "battery")
    for noise in (0.8, 0.05):
        models.train("soh", noise=noise)
        register_all(store, models.folder, models.metrics, GATE, provenance, by="a test")
    assert load_release("battery", settings=settings).label == "battery-twin/2"
    again = register_all(store, models.folder, models.metrics, GATE, provenance, by="a test")
    assert again.event is None
    rollback(store, reason="live error", by="Ada")
    loaded = load_release("battery", settings=settings)
    assert (loaded.version, loaded.models["soh"].version) == (1, 1)
    assert [event.kind for event in store.events()] == ["register", "register", "rollback"]
    assert not settings.artifact_root.exists()
