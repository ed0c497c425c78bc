"""Fixtures: a small telemetry store with data, and a client of the REST API on it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from benchmarks.console_store import StoreSize, fill
from console.access import Access
from console.alerts.alert_store import AlertStore
from console.api.app import create_api
from console.api.change_routes import ChangeRoutes
from console.api.health import ConsoleMetrics
from console.connection_pool import Database
from console.events import BatteryEvents
from console.model_registry import RegistryProcess
from deploy.servers.process import unused_port
from telemetry.settings import Settings
from tests.training.small_models import GATE, ModelFiles
from training.registry.registration import Provenance, register_all
from training.registry.registry_store import RegistryStore

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a token of the tests of the console"
#: One reading each 20 minutes for ten days, predictions for every second.
SIZE = StoreSize(batteries=60, readings=60 * 720, span=timedelta(days=10), predict_every=2)


@pytest.fixture(scope="session")
def filled_dsn(postgres_server: str, new_database: Callable[[str], str]) -> str:
    """DSN of a store with `SIZE` that no test writes to."""
    dsn = new_database(postgres_server)
    fill(dsn, SIZE)
    return dsn


@contextmanager
def served(app: FastAPI, **settings: Any) -> Iterator[httpx.Client]:
    """Run `app` in uvicorn with `settings` and return a client."""
    port = unused_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", **settings))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline, "the application did not start"
            time.sleep(0.02)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def api_app(dsn: str, folder: Path) -> Iterator[FastAPI]:
    """The application with the REST paths on a DSN, and on the registry in `folder`."""
    settings, database = Settings(var=folder), Database(dsn, statement_timeout_s=2.0)
    writable, models = Database(dsn, read_only=False), RegistryProcess(settings, ROOT / "params.yaml")
    events = BatteryEvents(database, writable)
    changes = ChangeRoutes(Access(TOKEN, read_requires_login=False), AlertStore(writable), events, models)
    try:
        yield create_api(database, settings, folder / "reports", ConsoleMetrics(), changes)
    finally:
        models.close()
        database.close()
        writable.close()


@contextmanager
def _api(dsn: str, folder: Path) -> Iterator[httpx.Client]:
    with api_app(dsn, folder) as app, served(app) as client:
        yield client


@pytest.fixture(scope="module")
def three_releases(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Settings:
    """Settings of a registry with three releases, each with a better SoH model."""
    folder = tmp_path_factory.mktemp("registry")
    settings = Settings(var=folder / "var")
    settings.var.mkdir()
    shutil.copy(empty_registry, settings.var / "mlflow.db")
    models, store = ModelFiles(folder / "models"), RegistryStore.open(settings, "battery")
    for noise in (1.0, 0.5, 0.05):
        models.train("soh", noise=noise)
        provenance = Provenance(source="made_up", data_sha256={"soh": "ab" * 32})
        register_all(store, models.folder, models.metrics, GATE, provenance, by="a test")
    assert store.aliases().release == 3
    return settings


@pytest.fixture
def api_on(tmp_path: Path) -> Iterator[Callable[[str], httpx.Client]]:
    """Factory of a client of the API on a DSN."""
    with ExitStack() as stack:
        yield lambda dsn: stack.enter_context(_api(dsn, tmp_path))


@pytest.fixture(scope="session")
def api(filled_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of the API on the filled store."""
    with _api(filled_dsn, tmp_path_factory.mktemp("console")) as client:
        yield client
