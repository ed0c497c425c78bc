"""States before a batch: stored ones are used, unusable ones are restored from the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg2
import pytest

from features import state as s
from features import state_update
from serving.state_restore import RestoreIncompleteError, StateRestorer
from telemetry.batch import Batch, rows_of
from telemetry.stores.connection import StoreConnection
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.features.conftest_features import START_S, drive

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEXT = EPOCH + timedelta(seconds=START_S + 2000)
READINGS = drive(np.arange(0, 1000, 10.0))
PACK = {"battery_id": "EV-0", "nominal_capacity_ah": 100.0, "cells_in_series": 96.0, "chemistry": "NMC"}


@pytest.fixture(scope="module")
def dsn(postgres_server: str, new_database: Callable[[str], str]) -> str:
    database = new_database(postgres_server)
    migrate(database)
    return database


@pytest.fixture
def restorer(dsn: str) -> Iterator[StateRestorer]:
    """Restores from a store with the description and the readings of EV-0."""
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE batteries, ev_telemetry, battery_cycles")
    connection.close()
    store = PostgresStore(dsn)
    store.write(Batch(readings=rows_of(READINGS), batteries=[PACK]))
    store.close()
    with closing(StateRestorer(StoreConnection(dsn, "test"))) as restorer:
        yield restorer


def updated_state(**pack: object) -> np.ndarray:
    states = s.new_states(1)
    s.set_battery(states[0], **pack)  # type: ignore[arg-type]
    state_update.update_from_readings(
        states, np.zeros(len(READINGS), dtype=np.int64), state_update.readings_matrix(READINGS)
    )
    return states[0]


def described_state() -> np.ndarray:
    return updated_state(**{name: value for name, value in PACK.items() if name != "battery_id"})


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=True)


def test_stored_state_is_used(restorer: StateRestorer) -> None:
    other = described_state()
    other[s.SOC] = 12.0
    assert same(restorer.load(["EV-0"], [s.to_bytes(other, "EV-0")], [NEXT])[0], other)
    assert not restorer.take_causes()


def test_absent_damaged_and_outdated_states_are_restored(
    restorer: StateRestorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = s.to_bytes(described_state(), "EV-0")
    monkeypatch.setattr(s, "STATE_VERSION", s.STATE_VERSION + 1)
    for raw in (None, stored[:100], stored[:-1] + b"\x00", stored):
        (state,) = restorer.load(["EV-0"], [raw], [NEXT])
        assert same(state, described_state())
        restorer.commit()
    assert restorer.take_causes() == {"absent": 1, "unusable": 3}
    assert not restorer.take_causes()


def test_capacity_added_later_applies_to_the_whole_history(restorer: StateRestorer) -> None:
    (state,) = restorer.load(["EV-0"], [s.to_bytes(updated_state(), "EV-0")], [NEXT])
    assert same(state, described_state())
    assert restorer.take_causes() == {"described": 1}


def test_state_newer_than_the_store_is_not_replaced(restorer: StateRestorer) -> None:
    ahead = updated_state()
    ahead[s.TIME_S] += 100.0
    (state,) = restorer.load(["EV-0"], [s.to_bytes(ahead, "EV-0")], [NEXT])
    assert state[s.NOMINAL_CAPACITY_AH] == 100.0
    assert state[s.TIME_S] == ahead[s.TIME_S]
    assert np.isnan(state[s.C_RATE])


def test_interrupted_restore_continues_with_the_remaining_states(restorer: StateRestorer, dsn: str) -> None:
    ids = ["EV-0", "EV-1", "EV-2"]
    without_time = StateRestorer(StoreConnection(dsn, "test"), budget_s=-1.0)
    with closing(without_time), pytest.raises(RestoreIncompleteError):
        without_time.load(ids, [None] * 3, [NEXT] * 3)
    restorer.load(ids[:2], [None] * 2, [NEXT] * 2)
    assert same(restorer.load(ids, [None] * 3, [NEXT] * 3)[0], described_state())
    assert restorer.take_causes() == {"absent": 3}, "states restored by the first call were not restored again"


def test_battery_without_readings_to_apply_has_a_new_state(restorer: StateRestorer) -> None:
    (state,) = restorer.load(["EV-0"], [None], [None])
    assert np.isnan(state[s.TIME_S])
    assert state[s.NOMINAL_CAPACITY_AH] == 100.0


def test_description_without_capacity_is_not_cached(restorer: StateRestorer, dsn: str) -> None:
    assert "EV-9" not in restorer.descriptions(["EV-9"])
    store = PostgresStore(dsn)
    store.write(Batch(batteries=[{**PACK, "battery_id": "EV-9"}]))
    store.close()
    assert restorer.descriptions(["EV-9"])["EV-9"]["nominal_capacity_ah"] == 100.0


def test_connection_is_opened_again_after_a_failure(restorer: StateRestorer, dsn: str) -> None:
    restorer.descriptions(["EV-0"])
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    with pytest.raises((psycopg2.OperationalError, psycopg2.InterfaceError)):
        restorer.load(["EV-0"], [None], [NEXT])
    assert same(restorer.load(["EV-0"], [None], [NEXT])[0], described_state())


def test_store_unavailable_raises_an_error() -> None:
    with pytest.raises(psycopg2.OperationalError):
        StateRestorer(StoreConnection("postgresql://127.0.0.1:1/none", "test")).load(["EV-0"], [None], [NEXT])


def test_without_a_store_every_battery_has_a_new_state() -> None:
    restorer = StateRestorer(None)
    assert same(restorer.load(["EV-0"], [None], [NEXT])[0], s.new_states(1)[0])
    assert not restorer.take_causes()
