"""Registry access of the models page: one change per decision, cached versions, and the shadow comparison."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from console.connection_pool import Database
from console.model_registry import RegistryError, RegistryProcess, VersionView, _view
from console.queries import Queries
from telemetry.batch import Batch
from telemetry.errors import TwinError
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.training.small_models import GATE
from training.registry.promotion import rollback
from training.registry.registry_store import RegistryStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_cached_versions_are_not_fetched_again(three_releases: Settings) -> None:
    cached = VersionView("soh", 3, {"gate": {"mae": 0.5}})
    assert _view(three_releases, {("soh", 3): cached}).champions == {"soh": cached}
    fetched = _view(three_releases, {("soh", 2): cached}).champions["soh"]
    assert fetched.evaluation["gate"]["n_batteries"] > 0
    assert fetched.version == 3


def test_view_says_why_the_newest_training_has_no_model_of_a_target(three_releases: Settings) -> None:
    store = RegistryStore.open(three_releases, three_releases.domain)
    before = store.unavailable()
    store.set_unavailable({"rul": "only B1 was observed until its end of life"})
    assert _view(three_releases, {}).unavailable == {"rul": "only B1 was observed until its end of life"}
    store.set_unavailable(before)


def test_concurrent_rollbacks_change_the_champion_once(three_releases: Settings, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump({"gate": {"min_skill": GATE.min_skill}}))
    store = RegistryStore.open(three_releases, "battery")

    async def decide() -> None:
        registry = RegistryProcess(three_releases, params)
        try:
            view = await registry.view()
            assert (view.release, view.previous) == (3, 2)
            clicks = [registry.rollback(reason="alarms", by=by, expected=view.release) for by in ("ada", "ada", "bob")]
            done = await asyncio.gather(*clicks, return_exceptions=True)
            assert [type(result) for result in done] == [list, RegistryError, RegistryError]
            assert "no longer release 3" in str(done[1])
            assert store.aliases().release == 2
            with pytest.raises(TwinError, match="no longer release 3"):
                await registry.promote({"soh": 3}, reason="better", by="bob", expected=view.release)
            with pytest.raises(TwinError, match="there is no version 9 of battery-soh; existing: 1, 2, 3"):
                await registry.promote({"soh": 9}, reason="better", by="bob", expected=2)
            assert store.aliases().release == 2
            listed = (await registry.view()).versions["soh"]
            assert [(one.version, one.gate) for one in listed] == [(1, "passed"), (2, "passed"), (3, "passed")]
            assert "better than the champion, version 2" in listed[2].reasons
            messages = await registry.promote({"soh": 3}, reason="better", by="bob", expected=2)
            assert messages[0] == "Release 4 is champion."
        finally:
            registry.close()

    asyncio.run(decide())
    rollback(store, reason="no expected release", by="a test")
    rollback(store, reason="one release further back", by="a test")
    assert store.aliases().release == 1


def test_view_says_that_the_former_release_was_deleted(three_releases: Settings) -> None:
    store = RegistryStore.open(three_releases, "battery")
    store.set_champions({"soh": 3}, 3)
    view = _view(three_releases, {})
    assert (view.previous, view.previous_problem) == (2, None)
    store.client.delete_model_version("battery-twin", "2")
    view = _view(three_releases, {})
    assert (view.previous, view.previous_problem) == (2, "battery-twin version 2 was deleted")


@pytest.fixture
def queries(postgres_server: str, new_database: Callable[[str], str]) -> Any:
    dsn = new_database(postgres_server)
    migrate(dsn)
    store, database = PostgresStore(dsn), Database(dsn)
    store.write(predictions())
    with database.transaction() as cursor:
        cursor.execute("SET TRANSACTION READ WRITE")
        cursor.execute(
            """INSERT INTO prediction_outcomes
                   (battery_id, time, target, role, model_name, model_version, value, actual, error, matured_at)
               SELECT battery_id, time, target, role, model_name, model_version, value, 90.0, value - 90.0, time
               FROM battery_predictions"""
        )
    yield Queries(database)
    database.close()
    store.close()


def predictions() -> Batch:
    """Versions 9, 10 and 11 as challengers of a champion whose version becomes 10, and version 9 of another model."""
    rows = []
    for minute in range(20):
        for name, role, version, value in (
            ("battery-soh", "champion", 10 if minute >= 10 else 9, 91.0),
            ("battery-soh", "challenger", 9 if minute >= 10 else 11, 94.0 if minute >= 10 else 190.0),
            ("other-soh", "challenger", 9, 290.0),
        ):
            battery_id = "EV-1" if name == "battery-soh" else "EV-2"
            time = NOW + timedelta(minutes=minute)
            rows.append(
                {"battery_id": battery_id, "time": time, "target": "soh", "value": value, "model_name": name,
                 "model_version": str(version), "role": role, "predicted_at": time}
            )  # fmt: skip
    return Batch(batteries=[{"battery_id": "EV-1"}, {"battery_id": "EV-2"}], predictions=rows)


def test_shadow_compares_only_the_given_versions(queries: Queries) -> None:
    (row,) = queries.shadow({"soh": ("battery-soh", 10, 9)})
    assert (row["champion"], row["challenger"], row["n"], row["batteries"], row["outcomes"]) == ("10", "9", 10, 1, 10)
    assert (row["difference"], row["champion_error"], row["challenger_error"]) == (3.0, 1.0, 4.0)
    (none,) = queries.shadow({"soh": ("battery-soh", 11, 9)})  # they never predicted at the same time
    assert (none["n"], none["outcomes"], none["difference"], none["champion_error"]) == (0, 0, None, None)
    assert queries.shadow({}) == []
