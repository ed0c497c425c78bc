"""The states before a checkpoint: as kept, or rebuilt from the store where they cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg2
import pytest

from features import state as s
from features import state_update
from serving.stream.checkpoint_states import NoHistory, NotYetError, States
from serving.stream.state_restore import Past
from telemetry.batch import Batch, rows_of
from telemetry.sinks.base import SinkUnavailableError
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.features.conftest_features import START_S, drive

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEXT = EPOCH + timedelta(seconds=START_S + 2000)
LIVED = drive(np.arange(0, 1000, 10.0))
PACK = {"battery_id": "EV-0", "nominal_capacity_ah": 100.0, "cells_in_series": 96.0, "chemistry": "NMC"}


@pytest.fixture(scope="module")
def dsn(postgres_server: str, new_database: Callable[[str], str]) -> str:
    database = new_database(postgres_server)
    migrate(database)
    return database


@pytest.fixture
def past(dsn: str) -> Iterator[Past]:
    """A store that knows EV-0 and what it has lived."""
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE batteries, ev_telemetry, battery_cycles")
    connection.close()
    store = PostgresStore(dsn)
    store.write(Batch(readings=rows_of(LIVED), batteries=[PACK]))
    store.close()
    past = Past(dsn)
    yield past
    past.close()


def lived(**pack: object) -> np.ndarray:
    states = s.new_states(1)
    s.set_battery(states[0], **pack)  # type: ignore[arg-type]
    state_update.update_from_readings(states, np.zeros(len(LIVED), dtype=np.int64), state_update.readings_matrix(LIVED))
    return states[0]


def known() -> np.ndarray:
    return lived(**{name: value for name, value in PACK.items() if name != "battery_id"})


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=True)


def test_what_was_kept_is_used(past: Past) -> None:
    other = known()
    other[s.SOC] = 12.0
    states = States(past, budget_s=60.0)
    assert same(states.before(["EV-0"], [s.to_bytes(other)], [NEXT])[0], other)
    assert not states.take_rebuilt()


def test_absent_damaged_and_of_another_version_are_rebuilt(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = s.to_bytes(known())
    monkeypatch.setattr(s, "STATE_VERSION", s.STATE_VERSION + 1)
    states = States(past, budget_s=60.0)
    for raw in (None, kept[:100], kept[:-1] + b"\x00", kept):
        (state,) = states.before(["EV-0"], [raw], [NEXT])
        assert same(state, known())
        states.settle()
    assert states.take_rebuilt() == {"absent": 1, "unusable": 3}
    assert not states.take_rebuilt()


def test_a_capacity_that_is_learned_later_applies_from_the_beginning(past: Past) -> None:
    (state,) = States(past, budget_s=60.0).before(["EV-0"], [s.to_bytes(lived())], [NEXT])
    assert same(state, known())


def test_a_store_behind_the_stream_does_not_take_away_what_was_folded(past: Past) -> None:
    ahead = lived()
    ahead[s.TIME_S] += 100.0
    (state,) = States(past, budget_s=60.0).before(["EV-0"], [s.to_bytes(ahead)], [NEXT])
    assert state[s.NOMINAL_CAPACITY_AH] == 100.0
    assert state[s.TIME_S] == ahead[s.TIME_S]
    assert np.isnan(state[s.C_RATE])


def test_a_long_rebuilding_goes_on_where_it_was_interrupted(past: Past) -> None:
    states = States(past, budget_s=-1.0)
    ids = ["EV-0", "EV-1", "EV-2"]
    with pytest.raises(NotYetError):
        states.before(ids, [None] * 3, [NEXT] * 3)
    patient = States(past, budget_s=60.0)
    patient.before(ids[:2], [None] * 2, [NEXT] * 2)
    assert same(patient.before(ids, [None] * 3, [NEXT] * 3)[0], known())
    assert patient.take_rebuilt() == {"absent": 3}, "those of the first call were not rebuilt again"


def test_a_battery_of_unknown_capacity_is_asked_for_each_time(past: Past, dsn: str) -> None:
    assert past.batteries(["EV-9"]) == {}
    store = PostgresStore(dsn)
    store.write(Batch(batteries=[{**PACK, "battery_id": "EV-9"}]))
    store.close()
    assert past.batteries(["EV-9"])["EV-9"]["nominal_capacity_ah"] == 100.0


def test_a_store_that_is_away_is_said_to_be() -> None:
    with pytest.raises(SinkUnavailableError):
        Past("postgresql://127.0.0.1:1/none").batteries(["EV-0"])


def test_without_a_store_every_battery_begins_anew() -> None:
    (state,) = States(NoHistory(), budget_s=60.0).before(["EV-0"], [None], [NEXT])
    assert same(state, s.new_states(1)[0])
