"""Drift status: computed from the stored windows of the current champion only."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.drift.drift_params import DriftParams
from monitoring.drift.drift_store import DriftStore, DriftWindow, MonitoredModel, drift_status
from telemetry.errors import TwinError
from telemetry.stores.migrate import migrate
from tests.monitoring.store_rows import query

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
PARAMS = DriftParams(out_windows=2, windows=3)


@pytest.fixture
def dsn(postgres_dsn: str) -> str:
    migrate(postgres_dsn)
    return postgres_dsn


@pytest.fixture
def store(dsn: str) -> Iterator[DriftStore]:
    drift = DriftStore(dsn)
    yield drift
    drift.close()


def champion(version: str, since: datetime = START) -> MonitoredModel:
    return MonitoredModel("soh", "battery-soh", version, since, since)


def write_windows(store: DriftStore, model: MonitoredModel, scores: Sequence[float], kind: Any = "errors") -> None:
    for number, score in enumerate(scores):
        start = model.since + number * DAY
        window = DriftWindow(kind, start, start + DAY, samples=40, batteries=4, score=score, threshold=1.0)
        store.write(model, [window], window.end, PARAMS)


def status_rows(dsn: str) -> list[tuple[Any, ...]]:
    return query(dsn, "SELECT target, kind, score, is_drifting, model_version, windows, windows_out FROM drift_status")


@given(st.lists(st.booleans(), max_size=12), st.integers(1, 6), st.integers(0, 6))
def test_drifting_if_the_newest_window_and_k_of_the_last_n_are_out(are_out: list[bool], k: int, more: int) -> None:
    n = k + more
    status = drift_status(are_out, DriftParams(out_windows=k, windows=n))
    assert status.is_drifting == (bool(are_out) and are_out[0] and are_out[:n].count(True) >= k)
    assert (status.windows, status.windows_out) == (min(len(are_out), n), are_out[:n].count(True))


@pytest.mark.parametrize(
    ("scores", "is_drifting"),
    [([2, 2], True), ([2, 0, 2], True), ([2, 2, 0], False), ([2, 0, 0, 2], False), ([2], False), ([0, 0], False)],
)
def test_stored_status_follows_from_the_stored_windows(
    dsn: str, store: DriftStore, scores: list[float], is_drifting: bool
) -> None:
    store.start_monitoring(champion("1"))
    write_windows(store, champion("1"), scores)
    out = sum(score > 1 for score in scores[-3:])
    assert status_rows(dsn) == [("soh", "errors", scores[-1], is_drifting, "1", min(len(scores), 3), out)]
    assert store.monitored_models()["soh"].looked_until == START + len(scores) * DAY


def test_new_champion_resets_the_status_also_if_it_was_champion_before(dsn: str, store: DriftStore) -> None:
    for model in (champion("1"), champion("2", START + 9 * DAY), champion("1", START + 12 * DAY)):
        store.start_monitoring(model)
        assert status_rows(dsn) == []
        write_windows(store, model, [2.0])
        assert status_rows(dsn) == [("soh", "errors", 2.0, False, model.model_version, 1, 1)]
    assert query(dsn, "SELECT count(*) FROM drift_windows") == [(3,)]


def test_stored_window_is_not_overwritten(dsn: str, store: DriftStore) -> None:
    store.start_monitoring(champion("1"))
    write_windows(store, champion("1"), [2.0, 2.0])
    before = query(dsn, "SELECT * FROM drift_windows ORDER BY window_start")
    write_windows(store, champion("1"), [0.5, 0.5])
    assert query(dsn, "SELECT * FROM drift_windows ORDER BY window_start") == before


def test_insufficient_window_advances_the_cursor_only(dsn: str, store: DriftStore) -> None:
    store.start_monitoring(champion("1"))
    store.write(champion("1"), [], START + 5 * DAY, PARAMS)
    assert store.monitored_models()["soh"].looked_until == START + 5 * DAY
    assert status_rows(dsn) == []


def test_advisory_lock_admits_one_monitor(dsn: str, store: DriftStore) -> None:
    second = DriftStore(dsn)
    assert store.try_lock()
    assert not second.try_lock()
    store.close()
    deadline = time.monotonic() + 10
    while not second.try_lock():  # the server releases the lock shortly after the connection ends
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second.close()


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ("window_s: 0", "drift.window_s"),
        ("{out_windows: 4, windows: 3}", "drift.windows"),
        ("widow_s: 1", "drift.widow_s"),
    ],
)
def test_invalid_parameter_error_names_the_field(tmp_path: Path, section: str, field: str) -> None:
    (tmp_path / "params.yaml").write_text(f"drift:\n  {section.strip('{}').replace(', ', chr(10) + '  ')}\n")
    with pytest.raises(TwinError) as error:
        DriftParams.read(tmp_path / "params.yaml")
    assert error.value.field == field


def test_project_parameters_are_read() -> None:
    params = DriftParams.read(Path(__file__).resolve().parents[3] / "params.yaml")
    assert 1 < params.out_windows <= params.windows
