"""Compare a store with what its spool acknowledged and with predictions computed offline from its readings."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import psycopg2

from features import state_update
from features.state import FloatArray
from serving.feature_snapshots import FeatureSnapshots, update_each_with_sessions
from serving.predictor import Predictor
from serving.scorer import Scorer
from serving.session_rows import cycle_rows
from telemetry.batch import Row
from telemetry.contract import READING_FIELDS, names
from telemetry.wire import json_values
from tests.chaos.ledger import Key, LedgerSummary, key_of

_READING = names(READING_FIELDS)
_SESSION = ("battery_id", "kind", "start_time", "end_time", "cycle_index", "throughput_ah")


@dataclass(frozen=True)
class Count:
    """Comparison of one store with the ledger of its producer and with an offline computation.

    Attributes:
        acknowledged, refused, unconfirmed: readings by the response of the spool.
        stored: readings in the store, including unconfirmed ones.
        lost: acknowledged readings that are missing.
        changed: readings that are stored with another value.
        duplicated: readings that are stored twice, or that were never offered or were refused.
        predictions: of the champion, in the store.
        unpredicted: predictions that are missing.
        wrong: predictions that differ, in any bit, from those of one release computed from each reading once.
        sessions: charge and discharge sessions in the store.
        lost_sessions: sessions of the offline computation that are missing.
        duplicated_sessions: stored sessions that the offline computation does not have.
    """

    acknowledged: int
    refused: int
    unconfirmed: int
    stored: int
    lost: int
    changed: int
    duplicated: int
    predictions: int
    unpredicted: int
    wrong: int
    sessions: int
    lost_sessions: int
    duplicated_sessions: int

    @property
    def is_consistent(self) -> bool:
        """Whether nothing is lost or duplicated."""
        return not (self.all_lost or self.all_duplicated)

    @property
    def all_lost(self) -> int:
        """Number of missing or changed rows."""
        return self.lost + self.changed + self.unpredicted + self.wrong + self.lost_sessions

    @property
    def all_duplicated(self) -> int:
        """Number of rows that should not be there."""
        return self.duplicated + self.duplicated_sessions

    def table(self) -> list[tuple[str, int]]:
        """All figures with their names."""
        return [(field.name.replace("_", " "), getattr(self, field.name)) for field in fields(self)]


def count(dsn: str, ledger: LedgerSummary, states: Mapping[str, FloatArray], releases: Sequence[Predictor]) -> Count:
    """Compare the store behind `dsn` with `ledger`.

    Args:
        states: by battery, float64[STATE_SIZE] before its first reading.
        releases: releases that may have predicted; the predictions of a reading must all be those of one release.  If
            empty, only readings are compared.
    """
    stored, rows = _readings(dsn), _RowCounts(dsn)
    offered = ledger.acknowledged | ledger.unconfirmed
    known = {key: row for key, row in stored.items() if key in offered}
    readings = [known[key] for key in sorted(known)]
    predictions, stored_sessions = _predictions(dsn), _sessions(dsn, states)
    unpredicted, wrong, sessions = 0, 0, Counter[tuple[Any, ...]]()
    if releases:
        snapshots, sessions = _update_states(readings, states)
        unpredicted, wrong = _compare(predictions, readings, snapshots, releases)
    return Count(
        acknowledged=len(ledger.acknowledged),
        refused=len(ledger.refused),
        unconfirmed=len(ledger.unconfirmed),
        stored=len(stored),
        lost=len(ledger.acknowledged.keys() - stored.keys()),
        changed=sum(_values(row) != _values(offered[key]) for key, row in known.items()),
        duplicated=len(stored.keys() - offered.keys()) + rows.readings - len(stored),
        predictions=rows.predictions,
        unpredicted=unpredicted,
        wrong=wrong + rows.predictions - sum(map(len, predictions.values())),
        sessions=stored_sessions.total(),
        lost_sessions=(sessions - stored_sessions).total(),
        duplicated_sessions=(stored_sessions - sessions).total(),
    )


class _RowCounts:
    """Number of rows in a store, including rows with equal keys."""

    def __init__(self, dsn: str) -> None:
        ((self.readings,),) = _query(dsn, "SELECT count(*) FROM ev_telemetry WHERE voltage IS NOT NULL")
        ((self.predictions,),) = _query(dsn, "SELECT count(*) FROM battery_predictions WHERE role = 'champion'")


def _readings(dsn: str) -> dict[Key, Row]:
    values = _query(dsn, f"SELECT {', '.join(_READING)} FROM ev_telemetry WHERE voltage IS NOT NULL")
    rows = [dict(zip(_READING, row, strict=True)) for row in values]
    return {key_of(row): row for row in rows}


def _predictions(dsn: str) -> dict[Key, dict[str, tuple[float, str]]]:
    """By reading: target -> value and model version."""
    predictions: dict[Key, dict[str, tuple[float, str]]] = defaultdict(dict)
    for battery_id, time, target, value, version in _query(
        dsn,
        "SELECT battery_id, time, target, value, model_version FROM battery_predictions WHERE role = 'champion'",
    ):
        predictions[battery_id, time][target] = (value, version)
    return predictions


def _sessions(dsn: str, states: Mapping[str, FloatArray]) -> Counter[tuple[Any, ...]]:
    columns = ", ".join(_SESSION)
    return Counter(
        _query(
            dsn,
            f"SELECT {columns} FROM battery_cycles WHERE kind <> 'cycle' AND battery_id = ANY(%s)",
            list(states),
        )
    )


def _update_states(
    readings: Sequence[Row], states: Mapping[str, FloatArray]
) -> tuple[FeatureSnapshots, Counter[tuple[Any, ...]]]:
    """Feature snapshots after each of `readings` (sorted by battery and time), and the closed sessions."""
    ids = list(states)
    matrix = state_update.readings_matrix(pd.DataFrame([{**row} for row in readings], columns=_READING))
    battery_row = np.array([ids.index(str(row["battery_id"])) for row in readings], dtype=np.int64)
    memory = np.stack([states[battery_id].copy() for battery_id in ids])
    snapshots, updated, closed = update_each_with_sessions(memory, battery_row, matrix)
    assert (updated > 0).all()
    sessions = cycle_rows(closed, ids)
    return snapshots, Counter(tuple(row[name] for name in _SESSION) for row in sessions)


def _compare(
    predictions: Mapping[Key, Mapping[str, tuple[float, str]]],
    readings: Sequence[Row],
    snapshots: FeatureSnapshots,
    releases: Sequence[Predictor],
) -> tuple[int, int]:
    """Number of missing predictions, and of predictions that no release makes."""
    keys = [key_of(row) for row in readings]
    by_release = {frozenset(release.versions.items()): _predict(release, keys, snapshots) for release in releases}
    missing, wrong = 0, 0
    for key in keys:
        stored = predictions.get(key, {})
        versions = {(target, int(version)) for target, (_, version) in stored.items()}
        expected = next((values[key] for models, values in by_release.items() if versions <= models), None)
        if expected is None:  # no release has these models together
            wrong += len(stored)
            continue
        missing += len(expected.keys() - stored.keys())
        wrong += sum(expected.get(target) != value for target, (value, _) in stored.items())
    return missing, wrong + sum(len(predictions[key]) for key in predictions.keys() - set(keys))


def _predict(release: Predictor, keys: Sequence[Key], snapshots: FeatureSnapshots) -> dict[Key, dict[str, float]]:
    rows = Scorer(release).score([battery_id for battery_id, _ in keys], snapshots, datetime.now(UTC)).rows
    predictions: dict[Key, dict[str, float]] = {key: {} for key in keys}
    for row in rows:
        predictions[key_of(row)][str(row["target"])] = row["value"]  # type: ignore[assignment]
    return predictions


def _values(row: Row) -> dict[str, object]:
    return json_values(row, READING_FIELDS)


def _query(dsn: str, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
        cursor.execute(sql, values)
        return cursor.fetchall()
