"""What is in a store in the end, against what its producers were told and what an offline fold predicts from it."""

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
from features.state_update import closed_table
from serving.feature_snapshots import FeatureSnapshots, update_each_with_sessions
from serving.prediction_rows import prediction_rows
from serving.predictor import Predictor
from serving.session_rows import cycle_rows
from telemetry.batch import Row
from telemetry.contract import READING_FIELDS, names
from telemetry.wire import json_values
from tests.chaos.ledger import Account, Key, key_of

_READING = names(READING_FIELDS)
_SESSION = ("battery_id", "kind", "start_time", "end_time", "cycle_index", "throughput_ah")


@dataclass(frozen=True)
class Count:
    """One store after the chaos.

    Attributes:
        acknowledged, refused, doubtful: readings by what their producer was told.
        stored: readings in the store, those in doubt among them.
        lost: acknowledged readings that are not there.
        changed: readings that are there with another value.
        doubled: readings that are there twice, or that nobody was told are kept.
        predictions: of the champion, in the store.
        unpredicted: predictions that are missing.
        wrong: predictions that are not, bit for bit, what one release says after a fold of every reading once.
        sessions: charges and drives that ended, in the store.
        lost_sessions, doubled_sessions: those of an offline fold that are not there, and those it does not have.
    """

    acknowledged: int
    refused: int
    doubtful: int
    stored: int
    lost: int
    changed: int
    doubled: int
    predictions: int
    unpredicted: int
    wrong: int
    sessions: int
    lost_sessions: int
    doubled_sessions: int

    @property
    def is_whole(self) -> bool:
        """Nothing is lost, and nothing is there twice."""
        return not (self.all_lost or self.all_doubled)

    @property
    def all_lost(self) -> int:
        """Whatever is missing or not as it was."""
        return self.lost + self.changed + self.unpredicted + self.wrong + self.lost_sessions

    @property
    def all_doubled(self) -> int:
        """Whatever is there and should not be."""
        return self.doubled + self.doubled_sessions

    def table(self) -> list[tuple[str, int]]:
        """Every figure with its name."""
        return [(field.name.replace("_", " "), getattr(self, field.name)) for field in fields(self)]


def count(dsn: str, account: Account, states: Mapping[str, FloatArray], releases: Sequence[Predictor]) -> Count:
    """Compare the store behind `dsn` with `account`.

    Args:
        states: by battery, float64[STATE_SIZE] before its first reading.
        releases: whoever may have predicted; a prediction counts if it is that of one of them, whole.  Without any,
            only readings are compared.
    """
    kept, stored_rows = _readings(dsn), _Counted(dsn)
    offered = account.taken | account.doubtful
    known = {key: row for key, row in kept.items() if key in offered}
    readings = [known[key] for key in sorted(known)]
    said, stored_sessions = _predictions(dsn), _sessions(dsn, states)
    unpredicted, wrong, sessions = 0, 0, Counter[tuple[Any, ...]]()
    if releases:
        moments, sessions = _folded(readings, states)
        unpredicted, wrong = _compare(said, readings, moments, releases)
    return Count(
        acknowledged=len(account.taken),
        refused=len(account.refused),
        doubtful=len(account.doubtful),
        stored=len(kept),
        lost=len(account.taken.keys() - kept.keys()),
        changed=sum(_values(row) != _values(offered[key]) for key, row in known.items()),
        doubled=len(kept.keys() - offered.keys()) + stored_rows.readings - len(kept),
        predictions=stored_rows.predictions,
        unpredicted=unpredicted,
        wrong=wrong + stored_rows.predictions - sum(map(len, said.values())),
        sessions=stored_sessions.total(),
        lost_sessions=(sessions - stored_sessions).total(),
        doubled_sessions=(stored_sessions - sessions).total(),
    )


class _Counted:
    """How many rows a store has, whatever their keys."""

    def __init__(self, dsn: str) -> None:
        ((self.readings,),) = _query(dsn, "SELECT count(*) FROM ev_telemetry WHERE voltage IS NOT NULL")
        ((self.predictions,),) = _query(dsn, "SELECT count(*) FROM battery_predictions WHERE role = 'champion'")


def _readings(dsn: str) -> dict[Key, Row]:
    found = _query(dsn, f"SELECT {', '.join(_READING)} FROM ev_telemetry WHERE voltage IS NOT NULL")
    rows = [dict(zip(_READING, row, strict=True)) for row in found]
    return {key_of(row): row for row in rows}


def _predictions(dsn: str) -> dict[Key, dict[str, tuple[float, str]]]:
    """By reading: target -> value and version of the model."""
    said: dict[Key, dict[str, tuple[float, str]]] = defaultdict(dict)
    for battery_id, time, target, value, version in _query(
        dsn,
        "SELECT battery_id, time, target, value, model_version FROM battery_predictions WHERE role = 'champion'",
    ):
        said[battery_id, time][target] = (value, version)
    return said


def _sessions(dsn: str, states: Mapping[str, FloatArray]) -> Counter[tuple[Any, ...]]:
    columns = ", ".join(_SESSION)
    return Counter(
        _query(
            dsn,
            f"SELECT {columns} FROM battery_cycles WHERE kind <> 'cycle' AND battery_id = ANY(%s)",
            list(states),
        )
    )


def _folded(
    readings: Sequence[Row], states: Mapping[str, FloatArray]
) -> tuple[FeatureSnapshots, Counter[tuple[Any, ...]]]:
    """The moments after each of `readings` (by battery and time), and the sessions that ended."""
    ids = list(states)
    matrix = state_update.readings_matrix(pd.DataFrame([{**row} for row in readings], columns=_READING))
    battery_row = np.array([ids.index(str(row["battery_id"])) for row in readings], dtype=np.int64)
    memory = np.stack([states[battery_id].copy() for battery_id in ids])
    moments, folded, closed = update_each_with_sessions(memory, battery_row, matrix)
    assert folded.all()
    ended = cycle_rows(closed_table(closed), ids)
    return moments, Counter(tuple(row[name] for name in _SESSION) for row in ended)


def _compare(
    said: Mapping[Key, Mapping[str, tuple[float, str]]],
    readings: Sequence[Row],
    moments: FeatureSnapshots,
    releases: Sequence[Predictor],
) -> tuple[int, int]:
    """Predictions that are missing, and those that no release gives."""
    keys = [key_of(row) for row in readings]
    told = {frozenset(one.versions.items()): _told_by(one, keys, moments) for one in releases}
    missing, wrong = 0, 0
    for key in keys:
        given = said.get(key, {})
        versions = {(target, int(version)) for target, (_, version) in given.items()}
        expected = next((values[key] for models, values in told.items() if versions <= models), None)
        if expected is None:  # no release has these models together
            wrong += len(given)
            continue
        missing += len(expected.keys() - given.keys())
        wrong += sum(expected.get(target) != value for target, (value, _) in given.items())
    return missing, wrong + sum(len(said[key]) for key in said.keys() - set(keys))


def _told_by(release: Predictor, keys: Sequence[Key], moments: FeatureSnapshots) -> dict[Key, dict[str, float]]:
    rows = prediction_rows(
        [battery_id for battery_id, _ in keys],
        moments,
        release.predict_snapshots(moments),
        release.horizons,
        role="champion",
        predicted_at=datetime.now(UTC),
    )
    told: dict[Key, dict[str, float]] = {key: {} for key in keys}
    for row in rows:
        told[key_of(row)][str(row["target"])] = row["value"]  # type: ignore[assignment]
    return told


def _values(row: Row) -> dict[str, object]:
    return json_values(row, READING_FIELDS)


def _query(dsn: str, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
        cursor.execute(sql, values)
        return cursor.fetchall()
