"""Drift on a real store: the same windows whatever was killed, noise is not drift, another regime is."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import pytest
from psycopg2.extras import execute_values

from features.state_update import READING_FEATURES
from monitoring.drift import watcher as watching
from monitoring.drift import windows
from monitoring.drift.drift_monitor import DriftMonitor, registered_references
from monitoring.drift.drift_params import DriftParams
from monitoring.drift.status import rule
from monitoring.drift.training_reference import Reference
from monitoring.registry_poll import RegistryUnavailableError
from telemetry.batch import rows_of
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from tests.monitoring.drift.synthetic_fleet import DAY_S, START, WEAR, Scenario, batteries_of, lived, references
from tests.monitoring.store_rows import query, write

PARAMS = DriftParams(window_s=DAY_S, min_rows=12, out_windows=3, windows=5)
#: Where it is not the bounds that matter: fewer windows are drawn for them.
QUICK = replace(PARAMS, false_alarms=0.05)
SEED = 3
#: Batteries that no reference holds.
LIVE = range(100, 108)
WINDOWS = "SELECT target, kind, model_version, window_start, samples, batteries, score, threshold, detail::text " \
    "FROM drift_windows ORDER BY 1, 2, 3, 4"  # fmt: skip
STATUS = "SELECT target, kind, score, threshold, is_drifting, windows, windows_out FROM drift_status ORDER BY 1, 2"

ReferenceOf = Callable[[str, str, str], Reference | None]


@pytest.fixture(scope="module")
def known() -> Mapping[str, Reference]:
    return references(SEED, range(20))


@pytest.fixture
def dsn(postgres_dsn: str) -> str:
    migrate(postgres_dsn)
    return postgres_dsn


def live(dsn: str, days: range, regime: Scenario = Scenario(), versions: Callable[[int], str] = lambda _: "1") -> None:  # noqa: B008
    """Let the live fleet live: its readings, a prediction of both models each 5 minutes, and how wrong they were.

    Args:
        versions: of the model by the day.
    """
    predictions, outcomes = [], []
    for number in LIVE:
        # From the first day on, so that a battery goes on where it was.
        readings = lived(SEED, number, np.arange(days.stop), regime)
        day = (readings["time"] - START).dt.total_seconds() // DAY_S
        readings = readings[day >= days.start].reset_index(drop=True)
        write(dsn, readings=rows_of(readings), batteries=rows_of(batteries_of(range(number, number + 1))))
        said = readings[readings.index % 5 == 0]
        later = readings.reindex(said.index + 5)
        is_near = (later["time"].to_numpy() - said["time"].to_numpy()) == np.timedelta64(300, "s")
        ahead = later["temperature"].where(is_near).tolist()
        for row, degrees in zip(said.itertuples(), ahead, strict=True):
            version = versions(int((row.time - START).total_seconds() // DAY_S))
            health = 100.0 - 100.0 * WEAR * row.charge_cycles
            for target, value, actual in (("temperature", row.temperature, degrees), ("soh", health, row.soh)):
                due = row.time + timedelta(seconds=300)
                predictions.append((row.battery_id, row.time, target, value, f"battery-{target}", version, "champion"))
                if actual == actual:
                    outcomes.append((*predictions[-1], actual, value - actual, due))
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        columns = "battery_id, time, target, value, model_name, model_version, role"
        execute_values(cursor, f"INSERT INTO battery_predictions ({columns}) VALUES %s", predictions, page_size=5000)
        execute_values(
            cursor,
            f"INSERT INTO prediction_outcomes ({columns}, actual, error, matured_at) VALUES %s",
            outcomes,
            page_size=5000,
        )
    connection.close()


@contextmanager
def watcher_of(dsn: str, reference_of: ReferenceOf, params: DriftParams = QUICK) -> Iterator[DriftMonitor]:
    watcher = DriftMonitor(dsn, reference_of, params)
    try:
        yield watcher
    finally:
        watcher.close()


def watch(dsn: str, reference_of: ReferenceOf, params: DriftParams = QUICK) -> int:
    with watcher_of(dsn, reference_of, params) as watcher:
        return watcher.catch_up()


@pytest.fixture
def reference_of(known: Mapping[str, Reference]) -> ReferenceOf:
    return lambda target, _name, _version: known.get(target)


def flags(dsn: str) -> dict[tuple[str, str], list[bool]]:
    """By target and kind whether it was drifting after each window."""
    rows = query(dsn, "SELECT target, kind, is_out FROM drift_windows ORDER BY target, kind, window_start")
    found = {}
    for key, group in groupby(rows, key=lambda row: row[:2]):
        out = [is_out for _, _, is_out in group]
        found[key] = [rule(out[:end][::-1], PARAMS).is_drifting for end in range(1, len(out) + 1)]
    return found


def risen(flags_of_one: list[bool]) -> int:
    return sum(now and not before for before, now in zip([False, *flags_of_one], flags_of_one, strict=False))


def test_noise_alone_is_not_drift_and_another_regime_is(dsn: str, reference_of: ReferenceOf) -> None:
    """50 windows of batteries that no reference holds; then heat beyond all summers, and fast wear."""
    live(dsn, range(51), Scenario(from_day=51))
    watch(dsn, reference_of, PARAMS)
    seen = flags(dsn)
    assert {kind for _, kind in seen} == {"features", "predictions", "errors"}
    # A session ends with the first reading after it, so the first day has only half of its own.
    assert {len(one) for one in seen.values()} <= {49, 50}
    assert sum(risen(one) for one in seen.values()) <= 1, {key: risen(one) for key, one in seen.items()}

    live(dsn, range(51, 66), Scenario(from_day=51, warmer_c=25.0, faster=40.0))
    watch(dsn, reference_of, PARAMS)
    drifting = {(target, kind) for target, kind, is_drifting in query(
        dsn, "SELECT target, kind, is_drifting FROM drift_status") if is_drifting}  # fmt: skip
    assert {("temperature", "features"), ("temperature", "predictions"), ("soh", "errors")} <= drifting
    assert ("temperature", "errors") not in drifting  # persistence is as good in the heat
    (moved,) = query(dsn, "SELECT detail FROM drift_windows WHERE target = 'temperature' AND kind = 'features' "
                          "ORDER BY window_start DESC LIMIT 1")[0]  # fmt: skip
    assert {"temperature_c", "ambient_temperature_c"} & {name for name, _ in moved["moved"]}


def test_a_model_that_no_registry_of_ours_can_hold_has_no_reference(empty_registry: Path, tmp_path: Path) -> None:
    shutil.copy(empty_registry, tmp_path / "mlflow.db")
    reference_of = registered_references(Settings(var=tmp_path))
    assert reference_of("soh", "my plant-soh", "3") is None
    assert reference_of("soh", "battery-soh", "3") is None


def test_one_model_that_cannot_be_fetched_holds_up_no_other(dsn: str, reference_of: ReferenceOf) -> None:
    live(dsn, range(3))

    def without_soh(target: str, name: str, version: str) -> Reference | None:
        if target == "soh":
            raise RegistryUnavailableError("its files are gone")
        return reference_of(target, name, version)

    assert watch(dsn, without_soh) > 0
    assert {target for (target,) in query(dsn, "SELECT DISTINCT target FROM drift_windows")} >= {"temperature"}
    assert query(dsn, "SELECT note FROM drift_models WHERE target = 'soh'") == [("the registry is away",)]


def test_killed_after_any_round_it_ends_where_it_would_have(dsn: str, reference_of: ReferenceOf) -> None:
    live(dsn, range(6))
    assert watch(dsn, reference_of) > 0
    through = query(dsn, WINDOWS), query(dsn, STATUS)
    query(dsn, "DELETE FROM drift_windows; DELETE FROM drift_status; DELETE FROM drift_models")
    for _ in range(6):
        with watcher_of(dsn, reference_of) as watcher:
            # The server lets go of the lock of the one before a moment after its end.
            wait_for(watcher._store.try_lock)
            watcher.round()
    assert (query(dsn, WINDOWS), query(dsn, STATUS)) == through
    assert watch(dsn, reference_of) == 0


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_new_champion_begins_anew(dsn: str, reference_of: ReferenceOf) -> None:
    live(dsn, range(6))
    watch(dsn, reference_of)
    live(dsn, range(6, 12), versions=lambda day: "1" if day < 8 else "2")
    watch(dsn, reference_of)
    versions = query(dsn, "SELECT DISTINCT model_version, window_start FROM drift_windows ORDER BY 1, 2")
    first = {version: min(start for known, start in versions if known == version) for version in ("1", "2")}
    assert first == {"1": START, "2": START + timedelta(days=8)}
    status = query(dsn, "SELECT DISTINCT model_version, windows FROM drift_status")
    assert status == [("2", 3)]


@pytest.mark.parametrize("batteries", [0, 4])
def test_without_a_reference_it_says_so_and_measures_nothing(
    dsn: str, known: Mapping[str, Reference], batteries: int
) -> None:
    live(dsn, range(3))
    assert watch(dsn, lambda target, _n, _v: cut(known[target], batteries) if batteries else None) == 0
    notes = {note for (note,) in query(dsn, "SELECT note FROM drift_models")}
    assert notes == ({"the training reference holds 4 batteries, at least 6 are needed"} if batteries
                     else {watching.NO_REFERENCE})  # fmt: skip
    assert query(dsn, "SELECT count(*) FROM drift_windows") == query(dsn, "SELECT count(*) FROM drift_status") == [(0,)]


def cut(reference: Reference, batteries: int) -> Reference:
    few = reference.battery < batteries
    return Reference(reference.names, reference.battery[few], reference.time_s[few], reference.features[few],
                     reference.predicted[few], reference.error[few])  # fmt: skip


def test_a_registry_that_is_away_is_waited_for(
    dsn: str, reference_of: ReferenceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_REGISTRY_RETRY_S", 0.0)
    live(dsn, range(3))
    is_away = True

    def asked(target: str, name: str, version: str) -> Reference | None:
        if is_away:
            raise RegistryUnavailableError("no answer")
        return reference_of(target, name, version)

    with watcher_of(dsn, asked) as watcher:
        assert watcher.catch_up() == 0
        assert query(dsn, "SELECT DISTINCT note FROM drift_models") == [("the registry is away",)]
        is_away = False
        assert watcher.catch_up() > 0
    assert query(dsn, "SELECT DISTINCT note FROM drift_models") == [(None,)]


def test_few_rows_or_batteries_do_not_count(dsn: str, reference_of: ReferenceOf) -> None:
    live(dsn, range(3))
    for params in (DriftParams(min_rows=10_000), DriftParams(min_batteries=len(LIVE) + 1)):
        assert watch(dsn, reference_of, params) == 0
    assert query(dsn, "SELECT count(*) FROM drift_status") == [(0,)]


def test_an_empty_store_has_no_drift(dsn: str, reference_of: ReferenceOf) -> None:
    assert watch(dsn, reference_of) == 0


def test_a_window_waits_for_predictions_and_truths_to_arrive(dsn: str, reference_of: ReferenceOf) -> None:
    live(dsn, range(3))
    with watcher_of(dsn, reference_of) as watcher:
        assert watcher.round(lateness_s=60.0) == watching.DriftRound()
        assert watcher.round(lateness_s=0.0).windows > 0


def test_it_runs_until_told_to_stop(dsn: str, reference_of: ReferenceOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "ALLOWED_LATENESS_S", 0.0)
    live(dsn, range(3))
    stop = threading.Event()
    watcher = DriftMonitor(dsn, reference_of, QUICK)
    thread = threading.Thread(target=watcher.run, args=(stop, 0.05))
    thread.start()
    try:
        wait_for(lambda: query(dsn, "SELECT count(*) FROM drift_status")[0][0] == 6)
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def test_features_of_the_store_are_those_that_training_makes(dsn: str, known: Mapping[str, Reference]) -> None:
    """Folded from half a day before, a window has the features of a fold from the very beginning."""
    live(dsn, range(4))
    start = START + timedelta(days=2)
    connection = psycopg2.connect(dsn)
    battery_ids = windows.sample(connection, start, start + timedelta(days=1), 50)
    seen = windows.moments(connection, battery_ids, start, PARAMS)["reading"]
    connection.close()
    assert set(battery_ids) == {f"EV-{number}" for number in LIVE}
    assert list(known["temperature"].names) == list(READING_FEATURES)
    whole = training_features(start, seen.time_s, seen.battery_ids)
    # What only the whole past knows (the resistance of the last session) is not among what is compared.
    columns = [i for i, name in enumerate(READING_FEATURES) if name != "resistance_at_1c_v"]
    np.testing.assert_allclose(seen.features[:, columns], whole[:, columns], rtol=1e-9, atol=1e-9)


def training_features(start: datetime, time_s: np.ndarray, battery_ids: Any) -> np.ndarray:
    from features.state import new_states, set_battery
    from features.state_update import readings_matrix, update_from_readings

    rows = []
    for number in LIVE:
        readings = readings_matrix(lived(SEED, number, np.arange(4)).rename(columns={"time": "time"}))
        state = new_states(1)
        set_battery(state[0], nominal_capacity_ah=60.0, cells_in_series=96.0, chemistry="NMC")
        folded = update_from_readings(state, np.zeros(len(readings), dtype=np.int64), readings)
        wanted = [time for time, one in zip(time_s, battery_ids, strict=True) if one == f"EV-{number}"]
        rows.append(folded.features[np.searchsorted(readings[:, 0], wanted)])
    return np.concatenate(rows)
