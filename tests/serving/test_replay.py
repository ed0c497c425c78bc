"""Replay from the store gives bitwise the state of an offline update with the same history."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import psycopg2
import pytest

from features import state as s
from features import state_update
from serving.state_restore import StateRestorer, replay
from telemetry.batch import Batch, rows_of
from telemetry.stores import history
from telemetry.stores.connection import StoreConnection
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.features.conftest_features import START_S, drive, laboratory

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = EPOCH + timedelta(seconds=START_S)
#: Two drives with a charge each, and a gap in between.
TIMES_S = np.concatenate([np.arange(0, 10_800, 20.1), np.arange(90_000, 101_000, 20.1)])
PACK = {"nominal_capacity_ah": 100.0, "cells_in_series": 96.0, "chemistry": "NMC"}


def gappy(seed: int) -> pd.DataFrame:
    """A drive with missing optional values."""
    readings = drive(TIMES_S, seed)
    holes = np.random.default_rng(seed).random(len(readings))
    readings.loc[holes < 0.1, ["soc", "ambient_temperature"]] = np.nan
    readings["is_charging"] = np.where(holes < 0.3, np.nan, (readings["current"] < 0).astype(float))
    return readings


@pytest.fixture(scope="module")
def dsn(postgres_server: str, new_database: Callable[[str], str]) -> str:
    database = new_database(postgres_server)
    migrate(database)
    store = PostgresStore(database)
    packs = [{"battery_id": f"EV-{seed}", **PACK} for seed in (0, 1)]
    for seed in (0, 1):
        store.write(Batch(readings=rows_of(gappy(seed).sample(frac=1.0, random_state=1)), batteries=packs))
    store.close()
    return database


@pytest.fixture
def connection(dsn: str) -> Iterator[history.Connection]:
    connection = psycopg2.connect(dsn)
    yield connection
    connection.close()


def offline(readings: pd.DataFrame, cycles: pd.DataFrame | None = None) -> np.ndarray:
    """One battery's state after `cycles`, then `readings`."""
    states = s.new_states(1)
    s.set_battery(states[0], **PACK)  # type: ignore[arg-type]
    if cycles is not None:
        state_update.update_from_cycles(
            states, np.zeros(len(cycles), dtype=np.int64), state_update.cycles_matrix(cycles)
        )
    state_update.update_from_readings(
        states, np.zeros(len(readings), dtype=np.int64), state_update.readings_matrix(readings)
    )
    return states[0]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=True)


def test_replay_of_the_whole_history_and_of_a_part(connection: history.Connection) -> None:
    until = START + timedelta(seconds=95_000)
    described = {"battery_id": "any", **PACK}
    states = [replay(connection, key, described, end) for key, end in (("EV-1", None), ("EV-0", None), ("EV-1", until))]
    assert same(states[0], offline(gappy(1)))
    assert same(states[1], offline(gappy(0)))
    whole = gappy(1)
    assert same(states[2], offline(whole[whole["time"] < until]))
    assert s.view(states[0]).cycles_seen > 0


def test_replay_excludes_the_end(connection: history.Connection) -> None:
    newest = gappy(0)["time"].max().to_pydatetime()
    state = replay(connection, "EV-0", PACK, newest)
    assert s.view(state).time_s < newest.timestamp()


def test_pages_of_readings_equal_the_whole_history(connection: history.Connection) -> None:
    columns = ("voltage", "soc", "is_charging")
    (whole,) = history.readings(connection, "EV-0", columns, None)
    pages = list(history.readings(connection, "EV-0", columns, None, page_rows=100))
    assert len(pages) > 5
    assert same(np.concatenate(pages), whole)
    expected = gappy(0)
    assert np.array_equal(whole[:, 0], state_update.readings_matrix(expected)[:, 0])
    assert same(whole[:, 1:], expected[list(columns)].to_numpy(dtype=float))


def test_battery_without_history_has_a_new_state_with_its_description(dsn: str, connection: history.Connection) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO batteries (battery_id, cells_in_series, chemistry) VALUES ('EV-new', 12, 'unheard')"
        )
    with closing(StateRestorer(StoreConnection(dsn, "test"))) as restorer:
        states = restorer.load(["EV-new", "EV-unknown"], [None, None], [START, START])
    expected = s.new_states(2)
    expected[0, s.CELLS_IN_SERIES] = 12.0
    assert same(states, expected)


def test_published_cycles_come_first_and_sessions_only_without_their_readings(
    dsn: str, connection: history.Connection
) -> None:
    published = laboratory("EV-2", 20, 0.001, seed=2)
    retired = laboratory("EV-2", 3, 0.001, seed=3).assign(
        kind="charge",
        cycle_index=[30.0, 31.0, 31.0],  # a pack that counts whole cycles
        end_time=[pd.Timestamp(START - timedelta(days=day)) for day in (3, 2, 1)],
    )
    with_readings = laboratory("EV-2", 1, 0.001, seed=4).assign(
        kind="charge", cycle_index=[40.0], end_time=pd.Timestamp(START + timedelta(hours=1))
    )
    without_signals = published.tail(1).assign(cycle_index=21.0, cc_charge_time_s=None, cv_charge_time_s=None)
    without_signals["cc_voltage_mean_v"] = None
    store = PostgresStore(dsn)
    readings = gappy(2)
    every = [
        row
        for frame in (published, retired, with_readings, without_signals)
        for row in rows_of(frame.dropna(axis=1, how="all"))
    ]
    store.write(
        Batch(readings=rows_of(readings), cycles=every, batteries=[{"battery_id": "EV-2", **PACK}]),
    )
    store.close()
    state = replay(connection, "EV-2", PACK, None)
    assert same(state, offline(readings, pd.concat([published, retired])))
