"""Drift detection on a real store: false alarms, detection, resume after a kill, unavailable registry."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import pytest
from psycopg2.extras import execute_values

from features.state_update import READING_FEATURES
from monitoring.drift import drift_monitor, windows
from monitoring.drift.drift_monitor import DriftMonitor, registered_references
from monitoring.drift.drift_params import DriftParams
from monitoring.drift.drift_store import drift_status
from monitoring.drift.training_reference import Reference
from monitoring.registry_poll import RegistryUnavailableError
from telemetry.batch import rows_of
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from tests.monitoring.drift.synthetic_fleet import (
    DAY_S,
    START,
    WEAR,
    Scenario,
    batteries_of,
    references,
    simulated_readings,
)
from tests.monitoring.store_rows import query, write

PARAMS = DriftParams(window_s=DAY_S, min_rows=12, out_windows=3, windows=5)
#: For tests in which the bounds do not matter: fewer windows are sampled for them.
QUICK = PARAMS.model_copy(update={"false_alarms": 0.05})
SEED = 3
#: Batteries outside of the references.
LIVE = range(100, 108)
WINDOWS = "SELECT target, kind, model_version, window_start, samples, batteries, score, threshold, detail::text " \
    "FROM drift_windows ORDER BY 1, 2, 3, 4"  # fmt: skip
STATUS = "SELECT target, kind, score, threshold, is_drifting, windows, windows_out FROM drift_status ORDER BY 1, 2"

ReferenceOf = Callable[[str, str, str], Reference | None]


@pytest.fixture(scope="module")
def model_references() -> Mapping[str, Reference]:
    return references(SEED, range(20))


@pytest.fixture
def dsn(postgres_dsn: str) -> str:
    migrate(postgres_dsn)
    return postgres_dsn


def write_days(
    dsn: str,
    days: range,
    scenario: Scenario = Scenario(),  # noqa: B008
    versions: Callable[[int], str] = lambda _: "1",
) -> None:
    """Write the live fleet's readings, a prediction of both models every 5 minutes, and their outcomes.

    Args:
        versions: model version by day.
    """
    predictions, outcomes = [], []
    for number in LIVE:
        # Simulated from day 0 on, so that the state of a battery continues.
        readings = simulated_readings(SEED, number, np.arange(days.stop), scenario)
        day = (readings["time"] - START).dt.total_seconds() // DAY_S
        readings = readings[day >= days.start].reset_index(drop=True)
        write(dsn, readings=rows_of(readings), batteries=rows_of(batteries_of(range(number, number + 1))))
        predicted_from = readings[readings.index % 5 == 0]
        later = readings.reindex(predicted_from.index + 5)
        is_near = (later["time"].to_numpy() - predicted_from["time"].to_numpy()) == np.timedelta64(300, "s")
        ahead = later["temperature"].where(is_near).tolist()
        for row, degrees in zip(predicted_from.itertuples(), ahead, strict=True):
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
def open_monitor(dsn: str, reference_of: ReferenceOf, params: DriftParams = QUICK) -> Iterator[DriftMonitor]:
    monitor = DriftMonitor(dsn, reference_of, params)
    try:
        yield monitor
    finally:
        monitor.close()


def run_monitor(dsn: str, reference_of: ReferenceOf, params: DriftParams = QUICK) -> int:
    with open_monitor(dsn, reference_of, params) as monitor:
        return monitor.catch_up()


@pytest.fixture
def reference_of(model_references: Mapping[str, Reference]) -> ReferenceOf:
    return lambda target, _name, _version: model_references.get(target)


def drift_flags(dsn: str) -> dict[tuple[str, str], list[bool]]:
    """By target and kind, whether it was drifting after each window."""
    rows = query(dsn, "SELECT target, kind, is_out FROM drift_windows ORDER BY target, kind, window_start")
    flags = {}
    for key, group in groupby(rows, key=lambda row: row[:2]):
        out = [is_out for _, _, is_out in group]
        flags[key] = [drift_status(out[:end][::-1], PARAMS).is_drifting for end in range(1, len(out) + 1)]
    return flags


def rising_edges(flags: list[bool]) -> int:
    return sum(now and not before for before, now in zip([False, *flags], flags, strict=False))


def test_noise_is_not_drift_and_a_changed_scenario_is(dsn: str, reference_of: ReferenceOf) -> None:
    """50 windows of batteries outside of the references; then heat beyond every summer and fast wear."""
    write_days(dsn, range(51), Scenario(from_day=51))
    run_monitor(dsn, reference_of, PARAMS)
    flags = drift_flags(dsn)
    assert {kind for _, kind in flags} == {"features", "predictions", "errors"}
    # A session ends with the first reading after it, so the first day has only half of its sessions.
    assert {len(values) for values in flags.values()} <= {49, 50}
    edges = {key: rising_edges(values) for key, values in flags.items()}
    assert sum(edges.values()) <= 1, edges

    write_days(dsn, range(51, 66), Scenario(from_day=51, warmer_c=25.0, faster=40.0))
    run_monitor(dsn, reference_of, PARAMS)
    drifting = {(target, kind) for target, kind, is_drifting in query(
        dsn, "SELECT target, kind, is_drifting FROM drift_status") if is_drifting}  # fmt: skip
    assert {("temperature", "features"), ("temperature", "predictions"), ("soh", "errors")} <= drifting
    assert ("temperature", "errors") not in drifting  # persistence is as accurate in the heat
    (moved,) = query(dsn, "SELECT detail FROM drift_windows WHERE target = 'temperature' AND kind = 'features' "
                          "ORDER BY window_start DESC LIMIT 1")[0]  # fmt: skip
    assert {"temperature_c", "ambient_temperature_c"} & {name for name, _ in moved["moved"]}


def test_model_with_a_foreign_name_has_no_reference(empty_registry: Path, tmp_path: Path) -> None:
    shutil.copy(empty_registry, tmp_path / "mlflow.db")
    reference_of = registered_references(Settings(var=tmp_path))
    assert reference_of("soh", "my plant-soh", "3") is None
    assert reference_of("soh", "battery-soh", "3") is None


def test_unavailable_reference_of_one_model_does_not_block_the_others(dsn: str, reference_of: ReferenceOf) -> None:
    write_days(dsn, range(3))

    def without_soh(target: str, name: str, version: str) -> Reference | None:
        if target == "soh":
            raise RegistryUnavailableError("its files are gone")
        return reference_of(target, name, version)

    assert run_monitor(dsn, without_soh) > 0
    assert {target for (target,) in query(dsn, "SELECT DISTINCT target FROM drift_windows")} >= {"temperature"}
    assert query(dsn, "SELECT note FROM drift_models WHERE target = 'soh'") == [(drift_monitor.REGISTRY_UNAVAILABLE,)]


def test_monitor_killed_after_each_run_writes_the_same_windows(dsn: str, reference_of: ReferenceOf) -> None:
    write_days(dsn, range(6))
    assert run_monitor(dsn, reference_of) > 0
    uninterrupted = query(dsn, WINDOWS), query(dsn, STATUS)
    query(dsn, "DELETE FROM drift_windows; DELETE FROM drift_status; DELETE FROM drift_models")
    for _ in range(6):
        with open_monitor(dsn, reference_of) as monitor:
            # The server releases the lock of the previous connection shortly after its end.
            wait_for(monitor._store.try_lock)
            monitor.run_once()
    assert (query(dsn, WINDOWS), query(dsn, STATUS)) == uninterrupted
    assert run_monitor(dsn, reference_of) == 0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_new_champion_resets_windows_and_status(dsn: str, reference_of: ReferenceOf) -> None:
    write_days(dsn, range(6))
    run_monitor(dsn, reference_of)
    write_days(dsn, range(6, 12), versions=lambda day: "1" if day < 8 else "2")
    run_monitor(dsn, reference_of)
    versions = query(dsn, "SELECT DISTINCT model_version, window_start FROM drift_windows ORDER BY 1, 2")
    first = {version: min(start for other, start in versions if other == version) for version in ("1", "2")}
    assert first == {"1": START, "2": START + timedelta(days=8)}
    status = query(dsn, "SELECT DISTINCT model_version, windows FROM drift_status")
    assert status == [("2", 3)]


@pytest.mark.parametrize("batteries", [0, 4])
def test_missing_or_small_reference_is_noted_and_nothing_is_measured(
    dsn: str, model_references: Mapping[str, Reference], batteries: int
) -> None:
    write_days(dsn, range(3))
    assert run_monitor(dsn, lambda target, _n, _v: cut(model_references[target], batteries) if batteries else None) == 0
    notes = {note for (note,) in query(dsn, "SELECT note FROM drift_models")}
    assert notes == ({"the training reference holds 4 batteries, at least 6 are needed"} if batteries
                     else {drift_monitor.NO_REFERENCE})  # fmt: skip
    assert query(dsn, "SELECT count(*) FROM drift_windows") == query(dsn, "SELECT count(*) FROM drift_status") == [(0,)]


def cut(reference: Reference, batteries: int) -> Reference:
    few = reference.battery < batteries
    return Reference(reference.names, reference.battery[few], reference.time_s[few], reference.features[few],
                     reference.predicted[few], reference.error[few])  # fmt: skip


def test_unavailable_registry_is_retried(dsn: str, reference_of: ReferenceOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_monitor, "_REGISTRY_RETRY_S", 0.0)
    write_days(dsn, range(3))
    is_unavailable = True

    def load(target: str, name: str, version: str) -> Reference | None:
        if is_unavailable:
            raise RegistryUnavailableError("connection refused")
        return reference_of(target, name, version)

    with open_monitor(dsn, load) as monitor:
        assert monitor.catch_up() == 0
        assert query(dsn, "SELECT DISTINCT note FROM drift_models") == [(drift_monitor.REGISTRY_UNAVAILABLE,)]
        is_unavailable = False
        assert monitor.catch_up() > 0
    assert query(dsn, "SELECT DISTINCT note FROM drift_models") == [(None,)]


def test_windows_with_few_rows_or_batteries_are_not_measured(dsn: str, reference_of: ReferenceOf) -> None:
    write_days(dsn, range(3))
    for params in (DriftParams(min_rows=10_000), DriftParams(min_batteries=len(LIVE) + 1)):
        assert run_monitor(dsn, reference_of, params) == 0
    assert query(dsn, "SELECT count(*) FROM drift_status") == [(0,)]


def test_empty_store_has_no_drift(dsn: str, reference_of: ReferenceOf) -> None:
    assert run_monitor(dsn, reference_of) == 0


def test_window_is_measured_after_the_allowed_lateness(dsn: str, reference_of: ReferenceOf) -> None:
    write_days(dsn, range(3))
    with open_monitor(dsn, reference_of) as monitor:
        assert monitor.run_once(lateness_s=60.0) == drift_monitor.DriftRound()
        assert monitor.run_once(lateness_s=0.0).windows > 0


def test_monitor_runs_until_stopped(dsn: str, reference_of: ReferenceOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_monitor, "ALLOWED_LATENESS_S", 0.0)
    write_days(dsn, range(3))
    stop = threading.Event()
    monitor = DriftMonitor(dsn, reference_of, QUICK)
    thread = threading.Thread(target=monitor.run, args=(stop, 0.05))
    thread.start()
    try:
        wait_for(lambda: query(dsn, "SELECT count(*) FROM drift_status")[0][0] == 6)
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def test_window_features_equal_training_features(dsn: str, model_references: Mapping[str, Reference]) -> None:
    """State updates from half a day before the window give the same features as from the first reading."""
    write_days(dsn, range(4))
    start = START + timedelta(days=2)
    connection = psycopg2.connect(dsn)
    battery_ids = windows.sample_batteries(connection, start, start + timedelta(days=1), 50)
    rows = windows.window_features(connection, battery_ids, start, PARAMS)["reading"]
    connection.close()
    assert set(battery_ids) == {f"EV-{number}" for number in LIVE}
    assert list(model_references["temperature"].names) == list(READING_FEATURES)
    expected = training_features(rows.time_s, rows.battery_ids)
    # The resistance of the last session depends on the full history and is not compared.
    columns = [i for i, name in enumerate(READING_FEATURES) if name != "resistance_at_1c_v"]
    np.testing.assert_allclose(rows.features[:, columns], expected[:, columns], rtol=1e-9, atol=1e-9)


def training_features(time_s: np.ndarray, battery_ids: Any) -> np.ndarray:
    from features.state import new_states, set_battery
    from features.state_update import readings_matrix, update_from_readings

    rows = []
    for number in LIVE:
        readings = readings_matrix(simulated_readings(SEED, number, np.arange(4)))
        state = new_states(1)
        set_battery(state[0], nominal_capacity_ah=60.0, cells_in_series=96.0, chemistry="NMC")
        updates = update_from_readings(state, np.zeros(len(readings), dtype=np.int64), readings)
        wanted = [time for time, battery_id in zip(time_s, battery_ids, strict=True) if battery_id == f"EV-{number}"]
        rows.append(updates.features[np.searchsorted(readings[:, 0], wanted)])
    return np.concatenate(rows)
