"""One batch of the database predictor: claim, read, fold, predict and store, all in one transaction.

A battery belongs to whoever holds the lock on its row of `twin_states`, so any number of processes can share a store:
each takes batteries that nobody else has (SKIP LOCKED).  Position, state and predictions change together, so a process
that is killed at any moment has done all of a batch or nothing of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

import numpy as np
import pandas as pd
import psycopg2.extensions

from features.state import FloatArray, new_states, view
from features.state_update import IntArray, closed_table, readings_matrix
from serving.database import state_tables
from serving.database.late_rows import LateRows
from serving.database.predictor_metrics import DatabaseMetrics
from serving.database.row_source import NO_ROWS, Feed, Rows
from serving.database.state_tables import Twin
from serving.feature_snapshots import advance, update_each_with_sessions
from serving.replay import replay, tell
from serving.scorer import Scorer, Scores
from serving.session_rows import cycle_rows
from serving.surface import utc
from telemetry.batch import Batch, Row, rows_of
from telemetry.contract import READING_FIELDS, names
from telemetry.stores.postgres import PostgresStore, StoreTransaction

_AFTER = timedelta(microseconds=1)


@dataclass(frozen=True)
class Done:
    """What one batch did.

    Attributes:
        scores: None where there was nothing to predict from.
        past: rows that were folded only, being older than the consumer.
        late: rows older than their battery's state; stored and flagged, never folded.
        duplicates: rows of the time at which their battery's state stands, not folded.
        cycles: sessions that ended and were stored.
    """

    twins: Sequence[Twin]
    rows: Rows
    scores: Scores | None = None
    past: int = 0
    late: int = 0
    duplicates: int = 0
    cycles: int = 0


@dataclass(frozen=True)
class Limits:
    """How much one batch takes.

    Attributes:
        rows, batteries: at most so many; together they bound memory and the time that locks are held.
        discover_s: time between two looks for batteries that are new.
    """

    rows: int = 5_000
    batteries: int = 500
    discover_s: float = 5.0


class Worker:
    """Follows one feed for one consumer, batch by batch.

    Args:
        store: where states and predictions are kept.
        reader: opens a connection to it, for the past of a battery whose state is lost.
        predict_past: whether what was there before the consumer's first start is predicted, too.
    """

    def __init__(
        self,
        store: PostgresStore,
        reader: Callable[[], psycopg2.extensions.connection],
        feed: Feed,
        metrics: DatabaseMetrics,
        *,
        consumer: str = "database",
        limits: Limits | None = None,
        predict_past: bool = False,
        late: LateRows | None = None,
    ) -> None:
        self._store = store
        self._reader = reader
        self._feed = feed
        self._metrics = metrics
        self._consumer = consumer
        self._limits = limits or Limits()
        self._predict_past = predict_past
        self._late = late or LateRows(feed)
        self._discovered_at = -math.inf

    def work(self, scorer: Scorer) -> bool:
        """Do one batch with one release; True if there is more to do at once.

        Raises:
            psycopg2.Error: the store or the site's database did not answer; nothing of the batch was done.
        """
        started = time.perf_counter()
        if time.monotonic() - self._discovered_at >= self._limits.discover_s:
            self._discover()
        with self._store.transaction() as transaction:
            cursor = transaction.cursor
            known = state_tables.known(cursor, self._consumer)
            waiting = self._feed.waiting(cursor, known)
            late = self._late.look(cursor, known)
            if late:
                transaction.write(Batch(late=_contract_rows(self._feed.at(cursor, late).readings)))
            twins = state_tables.claim(cursor, self._consumer, waiting[: self._limits.batteries])
            done = self._batch(transaction, twins, scorer)
        # Only what was committed counts.
        self._late.told(late)
        for twin in done.twins:
            self._late.remember(twin.battery_id, twin.read_until, done.rows.keys[twin.battery_id])
        self._metrics.waiting.set(len(waiting))
        self._metrics.late.inc(sum(map(len, late.values())))
        self._metrics.done(done, time.perf_counter() - started)
        return bool(done.twins) and (done.rows.more or len(waiting) > len(twins))

    def _discover(self) -> None:
        """Follow batteries that are new; at the first start all of them are, and have a past."""
        with self._store.transaction() as transaction:
            cursor = transaction.cursor
            is_first_start = state_tables.begin(cursor, self._consumer)
            followed = state_tables.known(cursor, self._consumer)
            new = [battery_id for battery_id in self._feed.batteries(cursor) if battery_id not in followed]
            has_past = is_first_start and not self._predict_past
            state_tables.add(cursor, self._consumer, new, self._feed.newest(cursor, new) if has_past and new else {})
        self._discovered_at = time.monotonic()

    def _batch(self, transaction: StoreTransaction, twins: Sequence[Twin], scorer: Scorer) -> Done:
        if not twins:
            return Done([], NO_ROWS)
        keys = {twin.battery_id: twin.read_until for twin in twins}
        rows = self._feed.read(transaction.cursor, keys, math.ceil(self._limits.rows / len(twins)))
        twins = [twin for twin in twins if twin.battery_id in rows.keys]
        ids = [twin.battery_id for twin in twins]
        # In the order of their ids, as they were claimed.
        battery_row = np.searchsorted(ids, rows.readings["battery_id"].to_numpy(dtype=str))
        matrix, soh = readings_matrix(rows.readings), rows.readings["soh"].to_numpy()
        memory = self._memory(twins, battery_row, matrix[:, 0])
        past = matrix[:, 0] <= _seconds([twin.predict_after for twin in twins])[battery_row]
        _, closed_before = advance(memory, battery_row[past], matrix[past])
        moments, folded, closed = update_each_with_sessions(memory, battery_row[~past], matrix[~past])
        late = np.zeros(len(past), dtype=np.bool_)
        late[~past] = moments.late(folded, matrix[~past, 0])
        stored = past.copy()
        stored[~past] = folded
        sessions = [
            *cycle_rows(closed_table(closed_before), ids, battery_row=battery_row[past], soh=soh[past]),
            *cycle_rows(closed_table(closed), ids, battery_row=battery_row[~past], soh=soh[~past]),
        ]
        given = moments.where(folded)
        scores = scorer.score(given)
        predicted_of = [ids[row] for row in battery_row[~past][folded]]
        batch = Batch(
            readings=[] if self._feed.is_store else _contract_rows(rows.readings[stored]),
            predictions=scorer.rows(predicted_of, given, scores, predicted_at=datetime.now(UTC)),
            cycles=_not_stored_yet(sessions, twins),
            late=_contract_rows(rows.readings[late]),
        )
        transaction.write(batch)
        kept = {one: (state, _time_of(state), rows.keys[one][-1]) for one, state in zip(ids, memory, strict=True)}
        state_tables.save(transaction.cursor, self._consumer, kept)
        duplicates = len(past) - int(stored.sum() + late.sum())
        return Done(twins, rows, scores, int(past.sum()), int(late.sum()), duplicates, len(batch.cycles))

    def _memory(self, twins: Sequence[Twin], battery_row: IntArray, time_s: FloatArray) -> FloatArray:
        """float64[k, STATE_SIZE]: where each twin stands before its new rows, told what its battery is made of.

        A battery that is new begins with the sessions from before its first reading, as far as the store knows any.
        A state that was written by another version of the fold is rebuilt from the store.
        """
        memory = new_states(len(twins))
        lost = []
        for i, twin in enumerate(twins):
            if twin.state is not None:
                memory[i] = twin.state
            elif twin.time is not None:
                lost.append((i, twin.time + _AFTER))
            elif len(first := np.flatnonzero(battery_row == i)):
                lost.append((i, utc(float(time_s[first[0]]))))
        if lost:
            with closing(self._reader()) as connection:
                rows = [i for i, _ in lost]
                memory[rows] = replay(connection, [twins[i].battery_id for i in rows], [until for _, until in lost])
            self._metrics.replays.inc(sum(twins[i].time is not None for i in rows))
        for state, twin in zip(memory, twins, strict=True):
            tell(state, twin.facts)
        return memory


def _contract_rows(readings: pd.DataFrame) -> list[Row]:
    return rows_of(readings[names(READING_FIELDS)])


def _not_stored_yet(sessions: Sequence[Row], twins: Sequence[Twin]) -> list[Row]:
    """Sessions that are not in `battery_cycles` since before their battery was followed."""
    after = {twin.battery_id: twin.cycles_after for twin in twins}
    return [
        row
        for row in sessions
        if (limit := after[cast(str, row["battery_id"])]) is None or cast(datetime, row["start_time"]) >= limit
    ]


def _seconds(times: Sequence[datetime | None]) -> FloatArray:
    return np.array([-math.inf if one is None else one.timestamp() for one in times])


def _time_of(state: FloatArray) -> datetime | None:
    seen = view(state)
    return utc(seen.time_s) if seen.has_reading else None
