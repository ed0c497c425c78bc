"""Service, stream scorer and database predictor: the same readings get the same numbers, a late one the same mark."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from functools import partial
from typing import Any

import httpx
import numpy as np
import pandas as pd
import psycopg2
import pytest
from pydantic import SecretStr

from features import state as s
from features import state_update
from serving.database.batch import Limits, Worker
from serving.database.late_rows import LateRows
from serving.database.predictor_metrics import DatabaseMetrics
from serving.database.row_source import StoreFeed
from serving.predictor import Predictor
from serving.scorer import Scorer
from serving.stream.topics import connection, ensure_topics
from serving.surface import SURFACES, rfc3339
from telemetry.batch import Batch, rows_of
from telemetry.contract import CYCLE_FIELDS, READING_FIELDS, names
from telemetry.kafka_client import PREDICTIONS_TOPIC
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from telemetry.wire import json_values
from tests.serving.test_stream import PACK, Fleet, Releases, Store, feed, received, scored_while

#: A drive, a gap that ends it, and the beginning of another.
TIMES_S = np.concatenate([np.arange(0, 600, 10.0), np.arange(5000, 5300, 10.0)])
LATE, SEEN_BEFORE_IT = 30, 40
N_TARGETS = 4
#: The broker of the session has seen others.
OURS = "battery_id ~ '^WAYS-'"

Predictions = dict[tuple[str, datetime, str, str], float]


@pytest.fixture(scope="module")
def lived() -> Fleet:
    """Batteries with a past, some values missing, and a reading that will be late."""
    fleet = Fleet.of("WAYS", 3, TIMES_S)
    for seed, frame in enumerate(fleet.readings.values()):
        holes = np.random.default_rng(seed).random(len(frame))
        frame.loc[holes < 0.2, ["soc", "ambient_temperature"]] = np.nan
        frame.loc[holes > 0.9, ["cell_voltage_min"]] = np.nan
        frame.loc[LATE, ["current", "temperature"]] = 250.0, 80.0  # so that it would be seen if it were folded
    return fleet


def steps(fleet: Fleet) -> Iterator[dict[str, pd.DataFrame]]:
    """What each battery says, step by step; the second holds nothing new: the late reading, and the newest again."""
    for part in (
        lambda frame: frame.iloc[:SEEN_BEFORE_IT].drop(index=LATE),
        lambda frame: frame.iloc[[LATE, SEEN_BEFORE_IT - 1]],
        lambda frame: frame.iloc[SEEN_BEFORE_IT:],
    ):
        yield {key: part(frame) for key, frame in fleet.readings.items()}


def folded(fleet: Fleet) -> Fleet:
    """The fleet without its late readings."""
    return Fleet({key: frame.drop(index=LATE) for key, frame in fleet.readings.items()}, fleet.cycles)


@pytest.fixture(scope="module")
def answers(lived: Fleet, service: httpx.Client) -> list[dict[str, Any]]:
    """What the service said, over HTTP, in two processes, the state travelling."""
    entries: list[dict[str, Any]] = []
    states: dict[str, str] = {}
    for step in steps(lived):
        asked = [
            {
                "battery_id": key,
                "state": states.get(key),
                "battery": PACK,
                "cycles": [] if states else [_json(row, CYCLE_FIELDS) for row in rows_of(lived.cycles[key])],
                # Null where the others have an absent field or NULL.
                "readings": [
                    {field.name: None for field in READING_FIELDS if not field.required} | _json(row, READING_FIELDS)
                    for row in rows_of(frame)
                ],
            }
            for key, frame in step.items()
        ]
        response = service.post("/predict", json={"batteries": asked, "every_reading": True, "closed_cycles": True})
        assert response.status_code == 200, response.text
        given = response.json()["predictions"]
        states |= {entry["battery_id"]: entry["state"] for entry in given if "state" in entry}
        entries += given
    return entries


def _json(row: Any, fields: Any) -> dict[str, object]:
    return {name: value for name, value in json_values(row, fields).items() if name != "battery_id"}


def values_of(entries: list[dict[str, Any]]) -> Predictions:
    """As the store has them; two entries of one moment agree."""
    values: Predictions = {}
    for entry in entries:
        for target, surface in SURFACES.items():
            key = (entry["battery_id"], datetime.fromisoformat(entry["time"]), target, "champion")
            value = entry[surface.field]["value"]
            assert values.setdefault(key, value) == value
    return values


@pytest.fixture(scope="module")
def new_store(lived: Fleet, postgres_server: str, new_database: Callable[[str], str]) -> Callable[[], Store]:
    def create() -> Store:
        store = Store(new_database(postgres_server))
        migrate(store.dsn)
        store.write(lived.past())
        return store

    return create


@pytest.fixture(scope="module")
def from_database(lived: Fleet, predictor: Predictor, new_store: Callable[[], Store]) -> Store:
    """A store behind which the database predictor worked, step by step."""
    store, rows = new_store(), StoreFeed(float("inf"))
    with closing(PostgresStore(store.dsn)) as own:
        worker = Worker(
            own,
            partial(psycopg2.connect, store.dsn),
            rows,
            DatabaseMetrics(),
            limits=Limits(discover_s=0.0),
            predict_past=True,
            late=LateRows(rows, every_s=0.0),
        )
        for step in steps(lived):
            store.write(Batch(readings=rows_of(pd.concat(step.values()))))
            # Once more than there is work: late rows are looked for before a batch.
            while worker.work(Scorer(predictor)):
                pass
            worker.work(Scorer(predictor))
    return store


@pytest.fixture(scope="module")
def from_stream(
    lived: Fleet, predictor: Predictor, new_store: Callable[[], Store], registry: Settings, kafka_bootstrap: str
) -> tuple[Store, list[dict[str, Any]]]:
    """A store into which the stream scorer wrote, and its messages."""
    store = new_store()
    settings = registry.model_copy(
        update={
            "kafka_bootstrap_servers": kafka_bootstrap,
            "scorer_group": "three-ways",
            "scorer_checkpoint_s": 0.2,
            "scorer_stores_readings": True,
            "telemetry_dsn": SecretStr(store.dsn),
        }
    )
    ensure_topics(connection(settings), settings.scorer_group, settings.kafka_partitions)
    for step in steps(lived):
        feed(settings, rows_of(pd.concat(step.values())))
    count = N_TARGETS * len(folded(lived).rows())
    scored_while(settings, Releases(Scorer(predictor)), lambda _: store.wait_for(lived, count))
    return store, [one for _, one in received(settings, PREDICTIONS_TOPIC) if one["battery_id"] in lived.ids]


def test_the_same_numbers_bit_for_bit(
    lived: Fleet,
    predictor: Predictor,
    answers: list[dict[str, Any]],
    from_stream: tuple[Store, list[dict[str, Any]]],
    from_database: Store,
) -> None:
    expected = folded(lived).predicted(predictor)
    assert len(expected) == N_TARGETS * len(folded(lived).rows()), "all four targets after every reading"
    store, messages = from_stream
    assert values_of(answers) == expected
    assert values_of(messages) == expected
    assert store.predicted(lived) == expected
    assert from_database.predicted(lived) == expected
    # The last answer of each battery has the state; the forests of a test see only a part of it.
    states = {entry["battery_id"]: entry["state"] for entry in answers if "state" in entry}
    kept = from_database.query("SELECT battery_id, state FROM twin_states")
    assert {key: base64.b64encode(state).decode() for key, state in kept} == states


def test_the_same_release(
    lived: Fleet,
    predictor: Predictor,
    answers: list[dict[str, Any]],
    from_stream: tuple[Store, list[dict[str, Any]]],
    from_database: Store,
) -> None:
    store, messages = from_stream
    assert {entry["release"] for entry in answers + messages} == {predictor.label}
    models = {target: {entry[surface.field]["model"] for entry in answers} for target, surface in SURFACES.items()}
    written = f"SELECT DISTINCT target, model_name || '/' || model_version FROM battery_predictions WHERE {OURS}"
    for one in (store, from_database):
        assert {target: {model} for target, model in one.query(written)} == models
    # The messages are entries of the answer, the notes on what was not folded and the sessions apart.
    said = {(entry["battery_id"], entry["time"]): entry for entry in answers}
    for message in messages:
        entry = said[message["battery_id"], message["time"]]
        assert {**message, "notes": []} == {**{key: entry[key] for key in message}, "notes": []}


def test_the_same_sessions_end(
    lived: Fleet,
    answers: list[dict[str, Any]],
    from_stream: tuple[Store, list[dict[str, Any]]],
    from_database: Store,
) -> None:
    columns = names(CYCLE_FIELDS)
    told = {
        tuple(_value(name, session.get(name)) for name in columns)
        for entry in answers
        for session in entry["closed_cycles"]
    }
    stored = f"SELECT {', '.join(columns)} FROM battery_cycles WHERE {OURS} AND kind <> 'cycle'"
    assert set(from_stream[0].query(stored)) == set(from_database.query(stored)) == told
    place = columns.index("throughput_ah")
    assert sorted(row[place] for row in told) == throughputs(folded(lived))
    assert not set(throughputs(folded(lived))) & set(throughputs(lived)), "a late reading that is folded is seen"


def _value(name: str, value: Any) -> Any:
    return datetime.fromisoformat(value) if value is not None and name.endswith("_time") else value


def throughputs(fleet: Fleet) -> list[float]:
    """Of the sessions that an offline fold of the fleet ends."""
    found: list[float] = []
    for frame in fleet.readings.values():
        states = s.new_states(1)
        s.set_battery(states[0], **PACK)  # type: ignore[arg-type]
        rows = np.zeros(len(frame), dtype=np.int64)
        found += list(
            state_update.update_from_readings(states, rows, state_update.readings_matrix(frame)).closed_table()[
                "throughput_ah"
            ]
        )
    return sorted(found)


def test_a_late_reading_is_kept_and_marked_and_never_folded(
    lived: Fleet,
    answers: list[dict[str, Any]],
    from_stream: tuple[Store, list[dict[str, Any]]],
    from_database: Store,
) -> None:
    late = sorted((key, frame["time"].iloc[LATE]) for key, frame in lived.readings.items())
    marked = f"SELECT battery_id, time FROM ev_telemetry WHERE {OURS} AND late ORDER BY battery_id, time"
    rows = (
        "SELECT battery_id, time, voltage, current, temperature, soc, cell_voltage_min, late, rul_prediction, "
        f"failure_probability, prediction_timestamp IS NULL FROM ev_telemetry WHERE {OURS} ORDER BY battery_id, time"
    )
    store, messages = from_stream
    assert store.query(marked) == from_database.query(marked) == late
    assert store.query(rows) == from_database.query(rows)
    assert len(store.query(rows)) == len(lived.rows()), "the one that came twice is one row"
    of_late = {(key, rfc3339(time)) for key, time in late}
    assert not of_late & {(entry["battery_id"], entry["time"]) for entry in answers + messages}
    notes = [note for entry in answers for note in entry["notes"]]
    assert notes == ["1 reading older than the state was not folded"] * 2 * len(lived.ids)
