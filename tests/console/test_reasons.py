"""Reasons on the battery page: from stored sessions the service gives those of the battery's own state."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest

from console.connection_pool import Database
from console.reasons import ReasonSource, described
from telemetry.batch import Batch
from telemetry.errors import TwinError
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.serving.conftest import cycle, serve
from tests.training.small_models import release_small_models

SHEET = {"nominal_capacity_ah": 150.0, "chemistry": "NMC", "cells_in_series": 96.0}
NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("service")
    settings = Settings(var=folder / "var")
    settings.var.mkdir()
    shutil.copy(empty_registry, settings.var / "mlflow.db")
    release_small_models(settings, folder / "models")
    with serve(settings, 1, "/readyz") as client:
        yield client


@pytest.fixture(scope="module")
def dsn(postgres_server: str, new_database: Callable[[str], str]) -> str:
    """Store with 20 sessions of A, of which two have the same age and the first five are of a replaced pack."""
    dsn = new_database(postgres_server)
    migrate(dsn)
    cycles = [
        {"battery_id": "A", "kind": "discharge", "end_time": NOW + timedelta(hours=index), **cycle(index)}
        for index in range(20)
    ]
    cycles[12]["cycle_index"] = cycles[11]["cycle_index"]
    store = PostgresStore(dsn)
    store.write(Batch(batteries=[{"battery_id": name, **SHEET} for name in ("A", "new")], cycles=cycles))
    store.close()
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO battery_events (battery_id, time, event) VALUES ('A', %s, 'replaced')",
            (NOW + timedelta(hours=4.5),),
        )
    return dsn


@pytest.fixture
def database(dsn: str) -> Iterator[Database]:
    database = Database(dsn)
    yield database
    database.close()


def test_reasons_are_those_of_the_sessions_since_the_replacement(service: httpx.Client, database: Database) -> None:
    source = ReasonSource(database, str(service.base_url))
    found = source.of("A")
    sent: list[dict[str, Any]] = [cycle(index) for index in range(5, 20)]
    sent[7]["cycle_index"] = math.nextafter(11.0, 12.0)
    entry = {"battery_id": "A", "battery": SHEET, "cycles": sent}
    (answer,) = service.post("/predict", json={"batteries": [entry], "reasons": True}).json()["predictions"]
    assert answer["notes"] == []
    assert set(found) == {"rul", "failure"}
    assert found["rul"] == answer["rul"]["reasons"] != []
    assert found["failure"] == answer["failure_probability"]["reasons"]
    assert described(found["rul"]).count(" · ") == len(found["rul"]) - 1


def test_a_battery_without_sessions_has_no_reasons(service: httpx.Client, database: Database) -> None:
    found = ReasonSource(database, str(service.base_url)).of("new")
    assert [described(reasons) for reasons in found.values()] == ["", ""]


def test_a_service_that_does_not_answer_is_an_error_in_one_sentence(database: Database) -> None:
    with pytest.raises(TwinError, match=r"The prediction service at http://127\.0\.0\.1:9 does not answer: Connect"):
        ReasonSource(database, "http://127.0.0.1:9").of("A")


def test_a_refusal_of_the_service_is_shown(
    service: httpx.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReasonSource, "_data_sheet", lambda *_: {"nominal_capacity_ah": "large"})
    with pytest.raises(TwinError, match=r"refused the battery: batteries\[0\]\.battery\.nominal_capacity_ah"):
        ReasonSource(database, str(service.base_url)).of("A")


def test_description_has_direction_statistic_and_value() -> None:
    reasons = [
        {"signal": "resistance_ohm", "feature": "resistance_ohm__last", "value": 0.1234, "contribution": -3.0},
        {"signal": "cycles", "feature": "cycles", "value": 412.5, "contribution": 0.5},
        {"signal": "a", "feature": "a__mean_5", "value": None, "contribution": 0.1},
    ]
    assert described(reasons) == "▼ resistance_ohm (last 0.123) · ▲ cycles (412) · ▲ a (mean_5 missing)"
