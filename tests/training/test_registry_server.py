"""Model registry on an MLflow server: with SQLite and a folder, and with PostgreSQL and MinIO as in compose."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.servers.process import HOST, Command, Server, responds, unused_port
from telemetry.settings import USAGE_STATISTICS_OFF, Settings
from tests.training.small_models import GATE, ModelFiles
from training.registry.promotion import rollback
from training.registry.registration import Provenance, register_all
from training.registry.registry_store import RegistryStore
from training.release import load_release


@pytest.fixture
def small_server(tmp_path: Path, empty_registry: Path) -> Iterator[str]:
    """Address of an `mlflow server` on SQLite."""
    database = tmp_path / "server.db"
    database.write_bytes(empty_registry.read_bytes())
    port = unused_port()
    options = ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(tmp_path / "artifacts")]
    url = f"http://{HOST}:{port}"
    command = Command(
        "MLflow",
        (sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *options),
        ready=lambda: responds(f"{url}/health"),
        log=tmp_path / "server.log",
        folder=tmp_path,
        environment=USAGE_STATISTICS_OFF,
        start_timeout_s=120.0,
    )
    with Server(command):
        yield url


@pytest.fixture(params=["small_server", "mlflow_server"])
def server(request: pytest.FixtureRequest) -> str:
    """Address of an MLflow server; the second one is shared by the whole test session."""
    address: str = request.getfixturevalue(request.param)
    return address


@pytest.mark.slow
def test_register_load_and_roll_back(server: str, tmp_path: Path, models: ModelFiles, provenance: Provenance) -> None:
    settings = Settings(var=tmp_path / "var", mlflow_tracking_uri=server)
    domain = "on-a-server"
    store = RegistryStore.open(settings, domain)
    for noise in (0.8, 0.05):
        models.train("soh", noise=noise)
        register_all(store, models.folder, models.metrics, GATE, provenance, by="a test")
    assert load_release(domain, settings=settings).label == f"{domain}-twin/2"
    again = register_all(store, models.folder, models.metrics, GATE, provenance, by="a test")
    assert again.event is None
    rollback(store, reason="live error", by="Ada")
    loaded = load_release(domain, settings=settings)
    assert (loaded.version, loaded.models["soh"].version) == (1, 1)
    assert [event.kind for event in store.events()] == ["register", "register", "rollback"]
    assert not settings.artifact_root.exists()
