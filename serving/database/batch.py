"""Processes one batch of new rows in one transaction: lock the batteries, read, update states, predict and store.

Each process locks the `twin_states` rows of the batteries it processes and skips those locked by others (SKIP LOCKED),
so that any number of processes can share a store.  Read progress, states and predictions are committed together: a
process that is killed has completed a batch or none of it.
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
from serving.api_fields import utc
from serving.database import state_tables
from serving.database.late_rows import LateRowDetector
from serving.database.predictor_metrics import BatchResult, DatabaseMetrics
from serving.database.row_source import NO_ROWS, RowSource
from serving.database.state_tables import StoredState
from serving.feature_snapshots import update_each_with_sessions, update_states
from serving.replay import replay, set_battery_from_row
from serving.scorer import Scorer
from serving.session_rows import cycle_rows
from telemetry.batch import Batch, Row, rows_of
from telemetry.contract import READING_FIELDS, names
from telemetry.stores.postgres import PostgresStore, StoreTransaction

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class BatchLimits:
    """Size of one batch.

    Attributes:
        rows, batteries: maximum numbers; together they bound memory and the time that locks are held.
        discover_s: interval between two checks for new batteries.
    """

    rows: int = 5_000
    batteries: int = 500
    discover_s: float = 5.0


class BatchWorker:
    """Processes the new rows of one row source for one consumer, batch by batch.

    Args:
        store: where states and predictions are stored.
        reader: opens a connection to the store, to replay the history of a battery whose state is lost.
        predict_past: whether to predict from the rows that were there before the consumer's first start.
    """

    def __init__(
        self,
        store: PostgresStore,
        reader: Callable[[], psycopg2.extensions.connection],
        row_source: RowSource,
        metrics: DatabaseMetrics,
        *,
        consumer: str = "database",
        limits: BatchLimits | None = None,
        predict_past: bool = False,
        late: LateRowDetector | None = None,
    ) -> None:
        self._store = store
        self._reader = reader
        self._row_source = row_source
        self._metrics = metrics
        self._consumer = consumer
        self._limits = limits or BatchLimits()
        self._predict_past = predict_past
        self._late = late or LateRowDetector(row_source)
        self._discovered_at = -math.inf

    def run_batch(self, scorer: Scorer) -> bool:
        """Process one batch with one scorer; True if more rows are waiting.

        Raises:
            psycopg2.Error: the store or the site's database failed; nothing of the batch was committed.
        """
        started = time.perf_counter()
        if time.monotonic() - self._discovered_at >= self._limits.discover_s:
            self._discover()
        with self._store.transaction() as transaction:
            cursor = transaction.cursor
            followed = state_tables.followed_batteries(cursor, self._consumer)
            waiting = self._row_source.waiting(cursor, followed)
            late = self._late.find(cursor, followed)
            if late:
                transaction.write(Batch(late=_contract_rows(self._row_source.at(cursor, late).readings)))
            locked = state_tables.lock_states(cursor, self._consumer, waiting[: self._limits.batteries])
            result = self._process(transaction, locked, scorer)
        # Counted only after the commit.
        self._late.mark_stored(late)
        keys = result.rows.keys
        for stored in locked:
            if stored.battery_id in keys:
                self._late.record_read(stored.battery_id, stored.read_until, keys[stored.battery_id])
        self._metrics.waiting.set(len(waiting))
        self._metrics.late.inc(sum(map(len, late.values())))
        self._metrics.record_batch(result, time.perf_counter() - started)
        return bool(keys) and (result.rows.more or len(waiting) > len(locked))

    def _discover(self) -> None:
        """Follow new batteries; at the consumer's first start all are new and their existing rows are history."""
        with self._store.transaction() as transaction:
            cursor = transaction.cursor
            is_first_start = state_tables.register_consumer(cursor, self._consumer)
            followed = state_tables.followed_batteries(cursor, self._consumer)
            new = [battery_id for battery_id in self._row_source.batteries(cursor) if battery_id not in followed]
            skip_history = is_first_start and not self._predict_past and new
            predict_after = self._row_source.newest(cursor, new) if skip_history else {}
            state_tables.follow(cursor, self._consumer, new, predict_after)
        self._discovered_at = time.monotonic()

    def _process(self, transaction: StoreTransaction, locked: Sequence[StoredState], scorer: Scorer) -> BatchResult:
        if not locked:
            return BatchResult(NO_ROWS)
        keys = {stored.battery_id: stored.read_until for stored in locked}
        rows = self._row_source.read(transaction.cursor, keys, math.ceil(self._limits.rows / len(locked)))
        batteries = [stored for stored in locked if stored.battery_id in rows.keys]
        ids = [stored.battery_id for stored in batteries]
        # `lock_states` returns the batteries in the order of their ids.
        battery_row = np.searchsorted(ids, rows.readings["battery_id"].to_numpy(dtype=str))
        matrix, soh = readings_matrix(rows.readings), rows.readings["soh"].to_numpy()
        states = self._restore_states(batteries, battery_row, matrix[:, 0])
        history = matrix[:, 0] <= _seconds([stored.predict_after for stored in batteries])[battery_row]
        _, closed_in_history = update_states(states, battery_row[history], matrix[history])
        snapshots, applied, closed = update_each_with_sessions(states, battery_row[~history], matrix[~history])
        late = np.zeros(len(history), dtype=np.bool_)
        late[~history] = snapshots.late(applied, matrix[~history, 0])
        on_time = history.copy()
        on_time[~history] = applied
        sessions = [
            *cycle_rows(closed_table(closed_in_history), ids, battery_row=battery_row[history], soh=soh[history]),
            *cycle_rows(closed_table(closed), ids, battery_row=battery_row[~history], soh=soh[~history]),
        ]
        new_snapshots = snapshots.where(applied)
        scores = scorer.score(new_snapshots)
        predicted_ids = [ids[row] for row in battery_row[~history][applied]]
        batch = Batch(
            readings=[] if self._row_source.is_store else _contract_rows(rows.readings[on_time]),
            predictions=scorer.rows(predicted_ids, new_snapshots, scores, predicted_at=datetime.now(UTC)),
            cycles=_not_stored_yet(sessions, batteries),
            late=_contract_rows(rows.readings[late]),
        )
        transaction.write(batch)
        new_states_of = {
            battery_id: (state, _time_of(state), rows.keys[battery_id][-1])
            for battery_id, state in zip(ids, states, strict=True)
        }
        state_tables.save_states(transaction.cursor, self._consumer, new_states_of)
        duplicates = len(history) - int(on_time.sum() + late.sum())
        return BatchResult(rows, scores, int(history.sum()), int(late.sum()), duplicates, len(batch.cycles))

    def _restore_states(
        self, batteries: Sequence[StoredState], battery_row: IntArray, time_s: FloatArray
    ) -> FloatArray:
        """float64[k, STATE_SIZE]: the states before the new rows, with the batteries' descriptions set.

        A new battery starts with the sessions before its first reading that are in the store.  A state of another
        state version is restored by replay from the store.
        """
        states = new_states(len(batteries))
        lost = []
        for i, stored in enumerate(batteries):
            if stored.state is not None:
                states[i] = stored.state
            elif stored.time is not None:
                lost.append((i, stored.time + _MICROSECOND))
            elif len(first := np.flatnonzero(battery_row == i)):
                lost.append((i, utc(float(time_s[first[0]]))))
        if lost:
            with closing(self._reader()) as connection:
                rows = [i for i, _ in lost]
                states[rows] = replay(connection, [batteries[i].battery_id for i in rows], [until for _, until in lost])
            self._metrics.replays.inc(sum(batteries[i].time is not None for i in rows))
        for state, stored in zip(states, batteries, strict=True):
            set_battery_from_row(state, stored.description)
        return states


def _contract_rows(readings: pd.DataFrame) -> list[Row]:
    return rows_of(readings[names(READING_FIELDS)])


def _not_stored_yet(sessions: Sequence[Row], batteries: Sequence[StoredState]) -> list[Row]:
    """Sessions that were not in `battery_cycles` before their battery was followed."""
    after = {stored.battery_id: stored.cycles_after for stored in batteries}
    return [
        row
        for row in sessions
        if (limit := after[cast(str, row["battery_id"])]) is None or cast(datetime, row["start_time"]) >= limit
    ]


def _seconds(times: Sequence[datetime | None]) -> FloatArray:
    return np.array([-math.inf if time is None else time.timestamp() for time in times])


def _time_of(state: FloatArray) -> datetime | None:
    seen = view(state)
    return utc(seen.time_s) if seen.has_reading else None
