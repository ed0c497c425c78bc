"""The status follows from the windows of the present champion, and from nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.drift.drift_params import DriftParams, project_drift
from monitoring.drift.drift_store import DriftStore, DriftWindow, MonitoredModel
from monitoring.drift.status import rule
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


def windows(store: DriftStore, followed: MonitoredModel, scores: Sequence[float], kind: Any = "errors") -> None:
    for number, score in enumerate(scores):
        start = followed.since + number * DAY
        found = DriftWindow(kind, start, start + DAY, samples=40, batteries=4, score=score, threshold=1.0)
        store.write(followed, [found], found.end, PARAMS)


def status(dsn: str) -> list[tuple[Any, ...]]:
    return query(dsn, "SELECT target, kind, score, is_drifting, model_version, windows, windows_out FROM drift_status")


@given(st.lists(st.booleans(), max_size=12), st.integers(1, 6), st.integers(0, 6))
def test_drifting_is_the_newest_out_and_k_of_the_last_n(are_out: list[bool], k: int, more: int) -> None:
    n = k + more
    said = rule(are_out, DriftParams(out_windows=k, windows=n))
    assert said.is_drifting == (bool(are_out) and are_out[0] and are_out[:n].count(True) >= k)
    assert (said.windows, said.windows_out) == (min(len(are_out), n), are_out[:n].count(True))


@pytest.mark.parametrize(
    ("scores", "is_drifting"),
    [([2, 2], True), ([2, 0, 2], True), ([2, 2, 0], False), ([2, 0, 0, 2], False), ([2], False), ([0, 0], False)],
)
def test_the_status_is_the_rule_over_the_stored_windows(
    dsn: str, store: DriftStore, scores: list[float], is_drifting: bool
) -> None:
    store.follow(champion("1"))
    windows(store, champion("1"), scores)
    out = sum(score > 1 for score in scores[-3:])
    assert status(dsn) == [("soh", "errors", scores[-1], is_drifting, "1", min(len(scores), 3), out)]
    assert store.followed()["soh"].looked_until == START + len(scores) * DAY


def test_a_new_champion_begins_anew_also_where_it_was_champion_before(dsn: str, store: DriftStore) -> None:
    for followed in (champion("1"), champion("2", START + 9 * DAY), champion("1", START + 12 * DAY)):
        store.follow(followed)
        assert status(dsn) == []
        windows(store, followed, [2.0])
        assert status(dsn) == [("soh", "errors", 2.0, False, followed.model_version, 1, 1)]
    assert query(dsn, "SELECT count(*) FROM drift_windows") == [(3,)]


def test_a_window_is_kept_once(dsn: str, store: DriftStore) -> None:
    store.follow(champion("1"))
    windows(store, champion("1"), [2.0, 2.0])
    before = query(dsn, "SELECT * FROM drift_windows ORDER BY window_start")
    windows(store, champion("1"), [0.5, 0.5])
    assert query(dsn, "SELECT * FROM drift_windows ORDER BY window_start") == before


def test_what_did_not_count_moves_the_place_only(dsn: str, store: DriftStore) -> None:
    store.follow(champion("1"))
    store.write(champion("1"), [], START + 5 * DAY, PARAMS)
    assert store.followed()["soh"].looked_until == START + 5 * DAY
    assert status(dsn) == []


def test_one_watcher_works_at_a_time(dsn: str, store: DriftStore) -> None:
    second = DriftStore(dsn)
    assert store.try_lock()
    assert not second.try_lock()
    store.close()
    deadline = time.monotonic() + 10
    while not second.try_lock():  # the server lets go of it a moment after the connection has ended
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
def test_a_wrong_parameter_is_named(tmp_path: Path, section: str, field: str) -> None:
    (tmp_path / "params.yaml").write_text(f"drift:\n  {section.strip('{}').replace(', ', chr(10) + '  ')}\n")
    with pytest.raises(TwinError) as error:
        project_drift(tmp_path / "params.yaml")
    assert error.value.field == field


def test_the_parameters_of_the_project_are_read() -> None:
    params = project_drift(Path(__file__).resolve().parents[3] / "params.yaml")
    assert 1 < params.out_windows <= params.windows
