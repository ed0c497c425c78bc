"""Service, stream scorer and database predictor give equal predictions, sessions and late flags for equal readings."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from pydantic import SecretStr

from features import state as s
from features import state_update
from features.targets import TARGETS
from serving.database.batch import BatchLimits, BatchWorker
from serving.database.late_rows import LateRowDetector
from serving.database.predictor_metrics import DatabaseMetrics
from serving.database.row_source import StoreRowSource
from serving.feature_snapshots import update_each
from serving.predictor import Predictor
from serving.scorer import Scorer
from serving.state_restore import StateRestorer
from serving.stream.topics import broker_config, ensure_topics
from simulator.service_client import BatteryReadings, PredictionClient
from telemetry.batch import Batch, rows_of
from telemetry.contract import CYCLE_FIELDS, READING_FIELDS, names
from telemetry.kafka_client import PREDICTIONS_TOPIC
from telemetry.settings import Settings
from telemetry.stores.connection import StoreConnection
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from telemetry.wire import json_values, rfc3339
from tests.serving.test_stream import PACK, FixedScorer, Fleet, Store, produce, received, scored_while

#: A drive, a gap that closes the session, and the start of another drive.
TIMES_S = np.concatenate([np.arange(0, 600, 10.0), np.arange(5000, 5300, 10.0)])
LATE, STEP_END = 30, 40
N_TARGETS = 4
#: Published cycles of each battery.
CYCLES = 20
#: The broker also has messages of other tests.
OURS = "battery_id ~ '^WAYS-'"

Predictions = dict[tuple[str, datetime, str, str], float]


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    """Batteries with published cycles, some missing values and one late reading each."""
    fleet = Fleet.of("WAYS", 3, TIMES_S)
    for seed, frame in enumerate(fleet.readings.values()):
        holes = np.random.default_rng(seed).random(len(frame))
        frame.loc[holes < 0.2, ["soc", "ambient_temperature"]] = np.nan
        frame.loc[holes > 0.9, ["cell_voltage_min"]] = np.nan
        frame.loc[LATE, ["current", "temperature"]] = (
            250.0,
            80.0,
        )  # extreme values, whose effect on a state would be visible
    return fleet


def steps(fleet: Fleet) -> Iterator[dict[str, pd.DataFrame]]:
    """Each battery's readings in three steps; the second has only the late reading and a duplicate of the newest."""
    for part in (
        lambda frame: frame.iloc[:STEP_END].drop(index=LATE),
        lambda frame: frame.iloc[[LATE, STEP_END - 1]],
        lambda frame: frame.iloc[STEP_END:],
    ):
        yield {key: part(frame) for key, frame in fleet.readings.items()}


def without_late_readings(fleet: Fleet) -> Fleet:
    """The fleet without its late readings."""
    return Fleet({key: frame.drop(index=LATE) for key, frame in fleet.readings.items()}, fleet.cycles)


@pytest.fixture(scope="module")
def entries(fleet: Fleet, service: httpx.Client) -> list[dict[str, Any]]:
    """Response entries of the service with two workers; the state is sent with each request."""
    entries: list[dict[str, Any]] = []
    states: dict[str, str] = {}
    for step in steps(fleet):
        batteries = [
            {
                "battery_id": key,
                "state": states.get(key),
                "battery": PACK,
                "cycles": [] if states else [_json(row, CYCLE_FIELDS) for row in rows_of(fleet.cycles[key])],
                # null here, an absent field in messages and NULL in the database are equal.
                "readings": [
                    {field.name: None for field in READING_FIELDS if not field.required} | _json(row, READING_FIELDS)
                    for row in rows_of(frame)
                ],
            }
            for key, frame in step.items()
        ]
        response = service.post("/predict", json={"batteries": batteries, "every_reading": True, "closed_cycles": True})
        assert response.status_code == 200, response.text
        predictions = response.json()["predictions"]
        states |= {entry["battery_id"]: entry["state"] for entry in predictions if "state" in entry}
        entries += predictions
    return entries


def _json(row: Any, fields: Any) -> dict[str, object]:
    return {name: value for name, value in json_values(row, fields).items() if name != "battery_id"}


def values_of(entries: list[dict[str, Any]]) -> Predictions:
    """Values of the entries with the keys of `Store.predicted`; entries with the same key must be equal."""
    values: Predictions = {}
    for entry in entries:
        for name, target in TARGETS.items():
            key = (entry["battery_id"], datetime.fromisoformat(entry["time"]), name, "champion")
            value = entry[target.shown.field]["value"]
            assert values.setdefault(key, value) == value
    return values


@pytest.fixture(scope="module")
def new_store(fleet: Fleet, postgres_server: str, new_database: Callable[[str], str]) -> Callable[[], Store]:
    def create() -> Store:
        store = Store(new_database(postgres_server))
        migrate(store.dsn)
        store.write(fleet.history())
        return store

    return create


@pytest.fixture(scope="module")
def from_database(fleet: Fleet, predictor: Predictor, new_store: Callable[[], Store]) -> Store:
    """A store whose new rows the database predictor has processed, step by step."""
    store, rows = new_store(), StoreRowSource(float("inf"))
    with closing(PostgresStore(store.dsn)) as own:
        worker = BatchWorker(
            own,
            StateRestorer(StoreConnection(store.dsn, "test")),
            rows,
            DatabaseMetrics(),
            limits=BatchLimits(discover_s=0.0),
            predict_past=True,
            late=LateRowDetector(rows, every_s=0.0),
        )
        for step in steps(fleet):
            store.write(Batch(readings=rows_of(pd.concat(step.values()))))
            # One batch more, because late rows are detected at the start of a batch.
            while worker.run_batch(Scorer(predictor)):
                pass
            worker.run_batch(Scorer(predictor))
    return store


@pytest.fixture(scope="module")
def from_stream(
    fleet: Fleet, predictor: Predictor, new_store: Callable[[], Store], registry: Settings, kafka_bootstrap: str
) -> tuple[Store, list[dict[str, Any]]]:
    """A store with the results of the stream scorer, and its messages."""
    store = new_store()
    settings = registry.model_copy(
        update={
            "kafka_bootstrap_servers": kafka_bootstrap,
            "scorer_group": "parity",
            "scorer_checkpoint_s": 0.2,
            "scorer_stores_readings": True,
            "telemetry_dsn": SecretStr(store.dsn),
        }
    )
    ensure_topics(broker_config(settings), settings.scorer_group, settings.kafka_partitions)
    for step in steps(fleet):
        produce(settings, rows_of(pd.concat(step.values())))
    count = N_TARGETS * len(without_late_readings(fleet).rows())
    scored_while(settings, FixedScorer(Scorer(predictor)), lambda _: store.wait_for(fleet, count))
    return store, [one for _, one in received(settings, PREDICTIONS_TOPIC) if one["battery_id"] in fleet.ids]


def test_predictions_and_states_are_bitwise_equal(
    fleet: Fleet,
    predictor: Predictor,
    entries: list[dict[str, Any]],
    from_stream: tuple[Store, list[dict[str, Any]]],
    from_database: Store,
) -> None:
    expected = without_late_readings(fleet).predicted(predictor)
    assert len(expected) == N_TARGETS * len(without_late_readings(fleet).rows()), "all four targets after every reading"
    store, messages = from_stream
    assert values_of(entries) == expected
    assert values_of(messages) == expected
    assert store.predicted(fleet) == expected
    assert from_database.predicted(fleet) == expected
    # Compare the states, too, because the small forests of the tests use only a part of them.
    states = {entry["battery_id"]: entry["state"] for entry in entries if "state" in entry}
    stored = from_database.query("SELECT battery_id, state FROM twin_states")
    assert {key: base64.b64encode(state).decode() for key, state in stored} == states


def test_ages_are_equal(
    fleet: Fleet,
    service: httpx.Client,
    entries: list[dict[str, Any]],
    from_stream: tuple[Store, list[dict[str, Any]]],
    from_database: Store,
) -> None:
    """The age is that of the state, which goes on from the published cycles, not the count that a reading reports."""
    store, messages = from_stream
    ages = {(entry["battery_id"], datetime.fromisoformat(entry["time"]), entry["cycle_index"]) for entry in entries}
    assert len(ages) == len(without_late_readings(fleet).rows())
    sent = {(one["battery_id"], datetime.fromisoformat(one["time"]), one["cycle_index"]) for one in messages}
    stored = f"SELECT DISTINCT battery_id, time, cycle_index FROM battery_predictions WHERE {OURS}"
    assert sent == set(store.query(stored)) == set(from_database.query(stored)) == ages
    assert min(age for _, _, age in ages) >= CYCLES
    assert not any("charge_cycles" in frame for frame in fleet.readings.values())


def test_client_of_the_service_stores_the_same_rows(fleet: Fleet, service: httpx.Client, predictor: Predictor) -> None:
    key, frame = next(iter(fleet.readings.items()))
    readings = rows_of(without_late_readings(fleet).readings[key])
    states = s.new_states(1)
    s.set_battery(states[0], **PACK)  # type: ignore[arg-type]
    matrix = state_update.readings_matrix(pd.DataFrame(readings, columns=frame.columns))
    snapshots, _ = update_each(states, np.zeros(len(readings), dtype=np.int64), matrix)
    now = datetime.now(UTC)
    expected = Scorer(predictor).score([key] * len(readings), snapshots, now).rows
    with PredictionClient(str(service.base_url)) as client:
        (predictions,) = client.predict([BatteryReadings(key, readings, battery=PACK)], every_reading=True)
    assert [row for one in predictions for row in one.rows(now)] == expected
    assert len({row["cycle_index"] for row in expected}) > 10


def test_releases_and_models_are_equal(
    fleet: Fleet,
    predictor: Predictor,
    entries: list[dict[str, Any]],
    from_stream: tuple[Store, list[dict[str, Any]]],
    from_database: Store,
) -> None:
    store, messages = from_stream
    assert {entry["release"] for entry in entries + messages} == {predictor.label}
    models = {name: {entry[target.shown.field]["model"] for entry in entries} for name, target in TARGETS.items()}
    written = f"SELECT DISTINCT target, model_name || '/' || model_version FROM battery_predictions WHERE {OURS}"
    for one in (store, from_database):
        assert {target: {model} for target, model in one.query(written)} == models
    # Messages equal the response entries, except for the notes on left-out readings and the sessions.
    entry_of = {(entry["battery_id"], entry["time"]): entry for entry in entries}
    for message in messages:
        entry = entry_of[message["battery_id"], message["time"]]
        assert {**message, "notes": []} == {**{key: entry[key] for key in message}, "notes": []}


def test_closed_sessions_are_equal(
    fleet: Fleet,
    entries: list[dict[str, Any]],
    from_stream: tuple[Store, list[dict[str, Any]]],
    from_database: Store,
) -> None:
    columns = names(CYCLE_FIELDS)
    returned = {
        tuple(_value(name, session.get(name)) for name in columns)
        for entry in entries
        for session in entry["closed_cycles"]
    }
    stored = f"SELECT {', '.join(columns)} FROM battery_cycles WHERE {OURS} AND kind <> 'cycle'"
    assert set(from_stream[0].query(stored)) == set(from_database.query(stored)) == returned
    column = columns.index("throughput_ah")
    assert sorted(row[column] for row in returned) == throughputs(without_late_readings(fleet))
    assert not set(throughputs(without_late_readings(fleet))) & set(throughputs(fleet)), (
        "the late reading would change the sessions"
    )


def _value(name: str, value: Any) -> Any:
    return datetime.fromisoformat(value) if value is not None and name.endswith("_time") else value


def throughputs(fleet: Fleet) -> list[float]:
    """Throughputs of the closed sessions, from an offline state update."""
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


def test_late_reading_is_stored_and_flagged_but_never_applied(
    fleet: Fleet,
    entries: list[dict[str, Any]],
    from_stream: tuple[Store, list[dict[str, Any]]],
    from_database: Store,
) -> None:
    late = sorted((key, frame["time"].iloc[LATE]) for key, frame in fleet.readings.items())
    flagged = f"SELECT battery_id, time FROM ev_telemetry WHERE {OURS} AND late ORDER BY battery_id, time"
    rows = (
        "SELECT battery_id, time, voltage, current, temperature, soc, cell_voltage_min, late, rul_prediction, "
        f"failure_probability, prediction_timestamp IS NULL FROM ev_telemetry WHERE {OURS} ORDER BY battery_id, time"
    )
    store, messages = from_stream
    assert store.query(flagged) == from_database.query(flagged) == late
    assert store.query(rows) == from_database.query(rows)
    assert len(store.query(rows)) == len(fleet.rows()), "the duplicate is one row"
    late_keys = {(key, rfc3339(time)) for key, time in late}
    assert not late_keys & {(entry["battery_id"], entry["time"]) for entry in entries + messages}
    notes = [note for entry in entries for note in entry["notes"]]
    left_out = ("1 reading older than the state was left out", "1 reading equal to the newest one was left out")
    assert sorted(notes) == sorted(left_out * len(fleet.ids))
