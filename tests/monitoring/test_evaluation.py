"""Model evaluation: outcomes equal the labels of training, appear once when they mature, and survive a kill."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg2
import pytest

from features import labels
from features.labels import LabelParams
from features.state import MAX_GAP_S
from monitoring.evaluation import evaluator as evaluator_module
from monitoring.evaluation.evaluator import Evaluator
from monitoring.evaluation.outcome_store import EvaluationStore
from telemetry.stores.migrate import migrate
from telemetry.stores.retention import delete_old_rows
from tests.monitoring.store_rows import START, at, every, outcomes, prediction, query, reading, write

DEFINITIONS = LabelParams()


@pytest.fixture
def dsn(postgres_dsn: str) -> str:
    migrate(postgres_dsn)
    return postgres_dsn


@contextmanager
def open_evaluator(dsn: str, definitions: LabelParams | None = DEFINITIONS) -> Iterator[Evaluator]:
    evaluator = Evaluator(dsn, lambda _name, _version: definitions)
    try:
        yield evaluator
    finally:
        evaluator.close()
        until_unlocked(dsn)


def until_unlocked(dsn: str) -> None:
    """Wait until the server has noticed that the last evaluator closed its connection."""
    connections = "SELECT FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"
    while query(dsn, connections, ("battery-twin-evaluation",)):
        time.sleep(0.01)


def evaluate(dsn: str, definitions: LabelParams | None = DEFINITIONS) -> int:
    with open_evaluator(dsn, definitions) as evaluator:
        return evaluator.catch_up()


# Temperature


def test_due_forecast_is_compared_with_the_nearest_reading(dsn: str) -> None:
    write(dsn, predictions=[prediction("EV-1", 0, "temperature", 31.0)])
    write(dsn, readings=[reading("EV-1", s, temperature=25.0 + s / 100) for s in every(20, 280)])
    assert evaluate(dsn) == 0  # the reading at 280 s is near enough, but a nearer one may follow
    write(dsn, readings=[reading("EV-1", 310, temperature=40.0), reading("EV-1", 330, temperature=50.0)])
    assert evaluate(dsn) == 1
    assert outcomes(dsn, "temperature") == [("EV-1", 0.0, 31.0, 40.0)]
    assert query(dsn, "SELECT error, matured_at, model_version FROM prediction_outcomes") == [(-9.0, at(300), "1")]
    assert evaluate(dsn) == 0


@pytest.mark.parametrize(
    ("seconds", "why"),
    [
        ([*every(20, 260), 340, 360], "no reading within 30 s"),
        ([0, 20, 40, 170, 300, 320], "a gap of more than 120 s before the due time"),
        ([10, *every(20, 320)][1:], "the reading that it was made from is absent"),
    ],
)
def test_forecast_without_usable_readings_has_no_outcome(dsn: str, seconds: list[float], why: str) -> None:
    seconds = seconds if "absent" not in why else [s for s in seconds if s > 0]
    write(dsn, predictions=[prediction("EV-1", 0, "temperature", 31.0)])
    write(dsn, readings=[reading("EV-1", s) for s in seconds])
    assert evaluate(dsn) == 0, why
    # It does not block later forecasts.
    write(dsn, predictions=[prediction("EV-1", 600, "temperature", 26.0)])
    write(dsn, readings=[reading("EV-1", 600 + s) for s in every(20, 300)])
    assert evaluate(dsn) == 1


def test_forecast_outcomes_equal_the_training_labels(dsn: str) -> None:
    """Random cadence and gaps: the outcomes are exactly the labels that training makes of the same readings."""
    rng = np.random.default_rng(7)
    steps = rng.choice([5.0, 20.0, 60.0, 130.0], size=1200, p=[0.5, 0.3, 0.17, 0.03])
    time_s, degrees = np.cumsum(steps), np.round(rng.normal(30, 5, size=1200), 2)
    write(
        dsn,
        readings=[reading("EV-1", s, temperature=t) for s, t in zip(time_s, degrees, strict=True)],
        predictions=[prediction("EV-1", s, "temperature", 30.0) for s in time_s],
    )
    evaluate(dsn)
    since_epoch = time_s + START.timestamp()
    label = labels.value_ahead(
        since_epoch, degrees, horizon_s=300.0, tolerance_s=DEFINITIONS.temperature_tolerance_s, max_gap_s=MAX_GAP_S
    )
    first_of_tick = np.diff(np.floor(since_epoch / DEFINITIONS.temperature_every_s), prepend=-np.inf) > 0
    expected = [(s, t) for s, t in zip(time_s[first_of_tick], label[first_of_tick], strict=True) if t == t]
    actuals = [(s, actual) for _, s, _, actual in outcomes(dsn, "temperature")]
    # The last example may still wait for a reading at its horizon.
    assert actuals == expected[: len(actuals)]
    assert len(expected) - len(actuals) <= 1
    assert len(actuals) > 20


def test_challenger_forecasts_are_evaluated_beside_the_champion(dsn: str) -> None:
    rows = [prediction("EV-1", 0, "temperature", 26.0), prediction("EV-1", 0, "temperature", 24.0, role="challenger")]
    write(dsn, predictions=rows, readings=[reading("EV-1", s) for s in every(20, 320)])
    assert evaluate(dsn) == 2
    assert query(dsn, "SELECT role, error FROM prediction_outcomes ORDER BY role") == [
        ("challenger", -1.0),
        ("champion", 1.0),
    ]


# Health


def slow_predictions(battery_id: str, seconds: float, cycle: float, **values: object) -> list[dict[str, object]]:
    numbers = {"soh": 90.0, "rul": 300.0, "failure": 0.1, **values}
    return [
        prediction(battery_id, seconds, target, float(str(value)), cycle_index=cycle)
        for target, value in numbers.items()
    ]


def test_health_is_compared_with_the_reported_health_once_per_cycle(dsn: str) -> None:
    for n, cycle in enumerate([500.0, 500.4, 500.8, 501.2]):
        write(
            dsn,
            readings=[reading("EV-1", n, charge_cycles=cycle, soh=91.0 - n)],
            predictions=slow_predictions("EV-1", n, cycle, soh=90.0 + n),
        )
    evaluate(dsn)
    assert outcomes(dsn, "soh") == [("EV-1", 0.0, 90.0, 91.0), ("EV-1", 3.0, 93.0, 88.0)]


def test_health_without_reported_soh_is_labelled_by_measured_capacity(dsn: str) -> None:
    write(
        dsn,
        batteries=[{"battery_id": "EV-1", "nominal_capacity_ah": 100.0}],
        readings=[reading("EV-1", n, charge_cycles=cycle) for n, cycle in enumerate([500.0, 510.0])],
        predictions=slow_predictions("EV-1", 0, 500.0) + slow_predictions("EV-1", 1, 510.0),
    )
    assert evaluate(dsn) == 0
    write(dsn, cycles=[{"battery_id": "EV-1", "cycle_index": 510.7, "capacity_ah": 88.0, "end_time": at(60)}])
    assert evaluate(dsn) == 1
    assert outcomes(dsn, "soh") == [("EV-1", 1.0, 90.0, pytest.approx(88.0))]


# Remaining life and failure


def write_cycles(dsn: str, battery_id: str, cycles: list[float], health: list[float], **values: object) -> None:
    write(
        dsn,
        readings=[
            reading(battery_id, 60.0 * cycle, charge_cycles=cycle, soh=soh, **values)
            for cycle, soh in zip(cycles, health, strict=True)
        ],
        predictions=[row for cycle in cycles for row in slow_predictions(battery_id, 60.0 * cycle, cycle)],
    )


def test_remaining_life_label_matures_at_end_of_life(dsn: str) -> None:
    write_cycles(dsn, "EV-1", [10.0, 20.5, 30.25], [82.0, 81.0, 80.0])
    evaluate(dsn)
    assert outcomes(dsn, "rul") == []
    write_cycles(dsn, "EV-1", [40.75], [79.9])
    evaluate(dsn)
    assert [(s, actual) for _, s, _, actual in outcomes(dsn, "rul")] == [
        (600.0, 30.75),
        (1230.0, 20.25),
        (1815.0, 10.5),
    ]
    assert [actual for *_, actual in outcomes(dsn, "failure")] == [1.0, 1.0, 1.0]


def test_outcomes_are_deleted_when_the_battery_recovers_from_end_of_life(dsn: str) -> None:
    write_cycles(dsn, "EV-1", [10.0, 20.0], [81.0, 79.9])
    evaluate(dsn)
    assert len(outcomes(dsn, "rul")) == 1
    write_cycles(dsn, "EV-1", [30.0], [80.3])
    evaluate(dsn)
    assert outcomes(dsn, "rul") == []
    assert outcomes(dsn, "failure") == []


def test_no_failure_label_matures_after_the_whole_horizon(dsn: str) -> None:
    write_cycles(dsn, "EV-1", [10.0, 109.0], [95.0, 94.0])
    evaluate(dsn)
    assert outcomes(dsn, "failure") == []
    write_cycles(dsn, "EV-1", [110.0], [94.0])
    evaluate(dsn)
    assert [(s, actual) for _, s, _, actual in outcomes(dsn, "failure")] == [(600.0, 0.0)]


def test_fault_labels_earlier_predictions_as_failure(dsn: str) -> None:
    write_cycles(dsn, "EV-1", [10.0, 50.0], [95.0, 95.0], warning_level=1.0)
    write_cycles(dsn, "EV-1", [60.0], [95.0], warning_level=3.0)
    evaluate(dsn)
    assert [(s, actual) for _, s, _, actual in outcomes(dsn, "failure")] == [(600.0, 1.0), (3000.0, 1.0)]
    assert outcomes(dsn, "rul") == []


def test_pack_without_health_or_warnings_has_no_labels(dsn: str) -> None:
    cycles = [10.0, 200.0]
    write(
        dsn,
        readings=[reading("EV-1", 60 * cycle, charge_cycles=cycle) for cycle in cycles],
        predictions=[row for cycle in cycles for row in slow_predictions("EV-1", 60 * cycle, cycle)],
    )
    assert evaluate(dsn) == 0


def test_label_matures_after_the_prediction_was_deleted_by_retention(dsn: str) -> None:
    write_cycles(dsn, "EV-1", [10.0, 20.0], [85.0, 84.0])
    evaluate(dsn)
    deleted = delete_old_rows(dsn, datetime(2100, 1, 1, tzinfo=UTC))
    assert deleted["battery_predictions"] == 6
    write_cycles(dsn, "EV-1", [400.0], [79.0])
    evaluate(dsn)
    assert [actual for *_, actual in outcomes(dsn, "rul")] == [390.0, 380.0]


def test_pending_labels_and_observations_are_bounded_by_the_cycles(dsn: str) -> None:
    cycles = list(np.round(np.linspace(100.0, 102.99, 300), 3))
    write_cycles(dsn, "EV-1", cycles, [80.2 if n % 2 else 79.8 for n in range(300)])
    evaluate(dsn)
    assert query(dsn, "SELECT target, count(*) FROM kept_predictions GROUP BY 1 ORDER BY 1") == [
        ("failure", 3),
        ("rul", 3),
        ("soh", 3),
    ]
    ((observations,),) = query(dsn, "SELECT count(*) FROM battery_observations")
    assert observations <= 3 * 3


def test_reading_without_age_takes_it_from_its_prediction(dsn: str) -> None:
    write(
        dsn,
        readings=[reading("EV-1", n * 60, soh=soh) for n, soh in enumerate([81.0, 79.0])],
        predictions=slow_predictions("EV-1", 0, 700.0),
    )
    evaluate(dsn)
    assert outcomes(dsn, "rul") == []  # the second reading waits for its prediction
    write(dsn, predictions=slow_predictions("EV-1", 60, 705.0))
    evaluate(dsn)
    assert outcomes(dsn, "rul") == [("EV-1", 0.0, 300.0, 5.0)]


def test_prediction_without_age_takes_it_from_its_reading(dsn: str) -> None:
    for cycle, soh in ((10.0, 81.0), (20.0, 79.0)):
        predictions = [{**row, "cycle_index": None} for row in slow_predictions("EV-1", 60 * cycle, cycle)]
        write(dsn, readings=[reading("EV-1", 60 * cycle, charge_cycles=cycle, soh=soh)], predictions=predictions)
    evaluate(dsn)
    assert outcomes(dsn, "rul") == [("EV-1", 600.0, 300.0, 10.0)]


def test_predictions_wait_for_the_label_definitions_of_their_model(dsn: str) -> None:
    write_cycles(dsn, "EV-1", [10.0, 20.0], [81.0, 79.0])
    assert evaluate(dsn, definitions=None) == 0
    stricter = LabelParams(eol_fraction=0.85)
    write_cycles(dsn, "EV-2", [10.0, 20.0], [86.0, 84.0])
    evaluate(dsn, stricter)
    assert [(battery, actual) for battery, _, _, actual in outcomes(dsn, "rul")] == [("EV-2", 10.0)]


# Kills, databases and concurrency


class KilledError(Exception):
    """Simulated end of the process."""


class KilledStore(EvaluationStore):
    """Raises `KilledError` before its n-th transaction commits."""

    def __init__(self, dsn: str, transactions: int) -> None:
        super().__init__(dsn)
        self._left = transactions

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with super().transaction() as cursor:
            yield cursor
            self._left -= 1
            if self._left < 0:
                raise KilledError


def write_part(dsn: str, part: int) -> None:
    """Three batteries in two parts: in part 1 the first reaches its end of life."""
    for name, end in (("EV-1", 79.0), ("EV-2", 90.0)):
        cycles = [10.0 + part * 30 + n for n in range(3)]
        write_cycles(dsn, name, cycles, [81.0, 80.5, 80.2] if part == 0 else [80.1, 79.5, end])
    write(
        dsn,
        readings=[reading("EV-3", part * 600 + s, temperature=20 + part) for s in every(20, 580)],
        predictions=[prediction("EV-3", part * 600 + s, "temperature", 21.0) for s in every(20, 580)],
    )


def all_outcomes(dsn: str) -> list[tuple[Any, ...]]:
    return query(
        dsn, "SELECT battery_id, time, target, role, value, actual FROM prediction_outcomes ORDER BY 1, 2, 3, 4"
    )


def test_kill_at_any_transaction_loses_and_duplicates_nothing(
    postgres_server: str, dsn: str, new_database: Any
) -> None:
    for part in (0, 1):
        write_part(dsn, part)
    evaluate(dsn)
    expected = all_outcomes(dsn)
    assert len(expected) > 8
    other = new_database(postgres_server)
    migrate(other)
    killed = 0
    for part in (0, 1):
        write_part(other, part)
        for transactions in itertools.count():
            evaluator = Evaluator(other, lambda _name, _version: DEFINITIONS)
            evaluator._store = KilledStore(other, transactions)
            try:
                evaluator.catch_up()
            except KilledError:
                killed += 1
            else:
                break
            finally:
                evaluator.close()
                until_unlocked(other)
    assert killed > 20
    assert all_outcomes(other) == expected


def test_outcomes_are_the_same_on_timescaledb(timescaledb_dsn: str, dsn: str, new_database: Any) -> None:
    other = new_database(timescaledb_dsn)
    migrate(other)
    for store in (dsn, other):
        write_part(store, 0)
        evaluate(store)
    query(other, "SELECT drop_chunks('battery_predictions', now() + interval '1 day')")
    query(dsn, "DELETE FROM battery_predictions")
    for store in (dsn, other):
        write_part(store, 1)
        evaluate(store)
    assert len(all_outcomes(other)) > 8
    assert all_outcomes(other) == all_outcomes(dsn)


def test_advisory_lock_admits_one_evaluator(dsn: str) -> None:
    write_part(dsn, 0)
    with open_evaluator(dsn) as first, open_evaluator(dsn) as second:
        assert first.run_once().more or first.run_once().outcomes >= 0
        assert second.catch_up() == 0
        first.close()
        second.catch_up()
    assert len(all_outcomes(dsn)) > 0


def test_new_rows_are_found_by_index(dsn: str) -> None:
    def write_seconds(since: int, until: int) -> None:
        for battery in ("EV-1", "EV-2", "EV-3", "EV-4"):
            times = range(since, until)
            rows = [
                row
                for s in times
                if s % 5 == 0
                for row in [*slow_predictions(battery, s, 10 + s / 1000), prediction(battery, s, "temperature", 25.0)]
            ]
            readings = [reading(battery, s, charge_cycles=10 + s / 1000, soh=90.0) for s in times]
            write(dsn, readings=readings, predictions=rows)

    write_seconds(0, 2500)
    evaluate(dsn)
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    connection.cursor().execute("ANALYZE ev_telemetry, battery_predictions, battery_observations, kept_predictions")
    connection.close()
    write_seconds(2500, 3100)
    scans = (
        "SELECT coalesce(sum(seq_scan), 0) FROM pg_stat_user_tables "
        "WHERE relname IN ('ev_telemetry', 'battery_predictions') AND schemaname = current_schema()"
    )
    query(dsn, "SELECT pg_stat_force_next_flush()")
    before = query(dsn, scans)
    assert evaluate(dsn) >= 8
    assert query(dsn, scans) == before


# Starvation


def test_pack_without_age_and_predictions_is_not_read_repeatedly(dsn: str) -> None:
    write(dsn, readings=[reading("EV-1", 0), reading("EV-2", 0, charge_cycles=1.0, soh=90.0)])
    query(
        dsn,
        "INSERT INTO ev_telemetry (battery_id, time, voltage, current, temperature) SELECT 'EV-1', "
        "%s + make_interval(secs => n), 360, 0, 25 FROM generate_series(1, 5000) n",
        (at(0),),
    )
    query(dsn, "ANALYZE ev_telemetry")
    read = (
        "SELECT sum(idx_tup_fetch + seq_tup_read) FROM pg_stat_user_tables "
        "WHERE relname = 'ev_telemetry' AND schemaname = current_schema()"
    )
    query(dsn, "SELECT pg_stat_force_next_flush()")
    ((before,),) = query(dsn, read)
    store = EvaluationStore(dsn)
    assert [one.battery_id for one in store.new_readings(50_000)] == ["EV-2"]
    with store.transaction() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
    store.close()
    ((after,),) = query(dsn, read)
    assert after - before < 20


def test_pack_that_sends_its_age_intermittently_loses_no_reading(dsn: str) -> None:
    write(
        dsn,
        readings=[
            reading("EV-1", 0, charge_cycles=700.0, soh=81.0),
            reading("EV-1", 60, soh=79.0),
            reading("EV-1", 120, charge_cycles=710.0),
        ],
        predictions=slow_predictions("EV-1", 0, 700.0),
    )
    evaluate(dsn)
    assert outcomes(dsn, "rul") == []  # the reading at 60 s waits for its age, and so do later ones
    write(dsn, predictions=slow_predictions("EV-1", 60, 705.0))
    evaluate(dsn)
    assert outcomes(dsn, "rul")[0] == ("EV-1", 0.0, 300.0, 5.0)


def test_unavailable_definitions_of_one_model_do_not_block_the_others(dsn: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(evaluator_module, "BATTERIES_PER_ROUND", 2)
    monkeypatch.setattr(evaluator_module, "FORECASTS_PER_ROUND", 2)
    names = [f"EV-{n}" for n in range(1, 6)]
    for name in names:
        version = "2" if name == "EV-5" else "1"
        write_cycles(dsn, name, [10.0, 20.5], [82.0, 79.9])
        write(
            dsn,
            readings=[reading(name, 10_000 + s) for s in every(20, 320)],
            predictions=[prediction(name, 10_000, "temperature", 31.0)],
        )
        query(dsn, "UPDATE battery_predictions SET model_version = %s WHERE battery_id = %s", (version, name))
    evaluator = Evaluator(dsn, lambda _name, version: DEFINITIONS if version == "2" else None)
    for _ in range(12):
        evaluator.run_once()
    evaluator.close()
    until_unlocked(dsn)
    assert [battery for battery, *_ in outcomes(dsn, "rul")] == ["EV-5"]
    assert [battery for battery, *_ in outcomes(dsn, "temperature")] == ["EV-5"]


def test_outcomes_expire_by_the_event_time_of_the_battery(dsn: str) -> None:
    """A replayed history and one with event times in the future both keep exactly their last month."""
    ahead_s = (datetime.now(UTC) - START).total_seconds() + 400 * 86400
    for name, begin in (("old", -2000 * 86400), ("ahead", ahead_s)):
        for day in (0, 29, 40):
            since = begin + day * 86400
            write(
                dsn,
                readings=[reading(name, since + s) for s in every(20, 320)],
                predictions=[prediction(name, since, "temperature", 25.0)],
            )
    evaluator = Evaluator(dsn, lambda _name, _version: DEFINITIONS, max_future_s=math.inf)
    evaluator.catch_up()
    evaluator.close()
    days = query(dsn, "SELECT battery_id, count(*) FROM prediction_outcomes GROUP BY 1 ORDER BY 1")
    assert days == [("ahead", 2), ("old", 2)]


# Events


def enter(dsn: str, event: str, seconds: float, value: float | None = None) -> None:
    query(
        dsn,
        "INSERT INTO battery_events (battery_id, time, event, value) VALUES ('EV-1', %s, %s, %s) RETURNING event",
        (at(seconds), event, value),
    )


@pytest.mark.parametrize("late", [False, True])
def test_labels_of_a_replaced_pack_begin_anew(dsn: str, late: bool) -> None:
    """The recovery of health is no label of the former pack, whose end of life is not that of the new one."""
    write(dsn, batteries=[{"battery_id": "EV-1", "nominal_capacity_ah": 100.0}])
    write(
        dsn,
        readings=[reading("EV-1", n, charge_cycles=900.0 + n, soh=79.0) for n in range(5)],
        predictions=[row for n in range(5) for row in slow_predictions("EV-1", n, 900.0 + n)],
    )
    if not late:
        enter(dsn, "replaced", 50)
    evaluate(dsn)
    write(
        dsn,
        readings=[reading("EV-1", 100 + n, charge_cycles=3.0 + n, soh=99.0) for n in range(5)],
        predictions=[row for n in range(5) for row in slow_predictions("EV-1", 100 + n, 3.0 + n, soh=98.0)],
    )
    evaluate(dsn)
    if late:
        enter(dsn, "replaced", 50)
    evaluate(dsn)
    new = [(seconds, value, actual) for _, seconds, value, actual in outcomes(dsn, "soh") if seconds >= 50]
    assert new == [(100.0 + n, 98.0, 99.0) for n in range(5)]
    state = query(dsn, "SELECT cycle_index, soh FROM evaluation_batteries WHERE battery_id = 'EV-1'")
    assert state == [(7.0, 99.0)]
    assert query(dsn, "SELECT min(cycle_index), max(cycle_index) FROM battery_observations") == [(3.0, 7.0)]
    assert evaluate(dsn) == 0, "the event is followed once"


def test_age_of_an_observation_is_that_of_the_state(dsn: str) -> None:
    """The pack's own count may be an error that the state did not believe."""
    write(
        dsn,
        readings=[reading("EV-1", n, charge_cycles=65_535.0 if n == 2 else 112.0 + n, soh=91.0) for n in range(5)],
        predictions=[row for n in range(5) for row in slow_predictions("EV-1", n, 112.0 + n)],
    )
    evaluate(dsn)
    assert query(dsn, "SELECT cycle_index FROM evaluation_batteries") == [(116.0,)]
