"""Processes one batch of new rows in one transaction: lock the batteries, read, update states, predict and store.

Each process locks the `twin_states` rows of the batteries it processes and skips those locked by others (SKIP LOCKED),
so that any number of processes can share a store.  Read progress, states and predictions are committed together: a
process that is killed has completed a batch or none of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import cast

import numpy as np
import pandas as pd

from features.state import FloatArray
from features.state_update import readings_matrix
from serving.batch_scoring import BatchReadings, BatchResult, score_readings
from serving.database import state_tables
from serving.database.late_rows import LateRowDetector
from serving.database.predictor_metrics import DatabaseMetrics
from serving.database.row_source import NO_ROWS, NewRows, RowSource
from serving.database.state_tables import StoredState
from serving.scorer import Scorer
from serving.state_restore import StateRestorer
from telemetry.batch import Batch, Row, rows_of
from telemetry.contract import READING_FIELDS, names
from telemetry.stores.postgres import PostgresStore, StoreTransaction
from telemetry.wire import utc

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
        restorer: loads the states, and replays the history of a battery whose state is unusable.
        predict_past: whether to predict from the rows that were there before the consumer's first start.
    """

    def __init__(
        self,
        store: PostgresStore,
        restorer: StateRestorer,
        row_source: RowSource,
        metrics: DatabaseMetrics,
        *,
        consumer: str = "database",
        limits: BatchLimits | None = None,
        predict_past: bool = False,
        late: LateRowDetector | None = None,
    ) -> None:
        self._store = store
        self._restorer = restorer
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
            RestoreIncompleteError: the next batch continues to restore states.
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
            rows, result = self._process(transaction, locked, scorer)
        # Counted only after the commit.
        self._late.mark_stored(late)
        self._restorer.commit()
        for stored in locked:
            if stored.battery_id in rows.keys:
                self._late.record_read(stored.battery_id, stored.read_until, rows.keys[stored.battery_id])
        self._metrics.waiting.set(len(waiting))
        self._metrics.late.inc(sum(map(len, late.values())))
        self._metrics.descriptions.count(self._restorer.take_invalid())
        causes = self._restorer.take_causes()
        self._metrics.replays.inc(causes["unusable"] + causes["described"] + causes["event"])
        self._metrics.record_batch(rows, result, time.perf_counter() - started)
        return bool(rows.keys) and (rows.more or len(waiting) > len(locked))

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

    def _process(
        self, transaction: StoreTransaction, locked: Sequence[StoredState], scorer: Scorer
    ) -> tuple[NewRows, BatchResult | None]:
        """The new rows of the locked batteries and the result of scoring them, None without new rows."""
        if not locked:
            return NO_ROWS, None
        keys = {stored.battery_id: stored.read_until for stored in locked}
        rows = self._row_source.read(transaction.cursor, keys, math.ceil(self._limits.rows / len(locked)))
        batteries = [stored for stored in locked if stored.battery_id in rows.keys]
        if not batteries:
            return rows, None
        ids = [stored.battery_id for stored in batteries]
        readings = BatchReadings(
            battery_ids=ids,
            # `lock_states` returns the batteries in the order of their ids.
            battery_row=np.searchsorted(ids, rows.readings["battery_id"].to_numpy(dtype=str)),
            matrix=readings_matrix(rows.readings),
            soh=rows.readings["soh"].to_numpy(),
            rows_where=lambda mask: _contract_rows(rows.readings[mask]),
        )
        states = self._load_states(batteries, readings)
        predict_after = [-math.inf if (time := one.predict_after) is None else time.timestamp() for one in batteries]
        result = score_readings(
            readings, states, scorer, now=datetime.now(UTC), stores_readings=not self._row_source.is_store,
            predict_after=np.array(predict_after)[readings.battery_row],
        )  # fmt: skip
        result = replace(result, batch=replace(result.batch, cycles=_not_stored_yet(result.batch.cycles, batteries)))
        transaction.write(result.batch)
        new_states = {key: (state, rows.keys[key][-1]) for key, state in zip(ids, states, strict=True)}
        state_tables.save_states(transaction.cursor, self._consumer, new_states)
        return rows, result

    def _load_states(self, batteries: Sequence[StoredState], readings: BatchReadings) -> FloatArray:
        """The states before the new rows; a new battery's state starts with its history in the store."""
        first = dict(zip(*np.unique(readings.battery_row, return_index=True), strict=True))
        until = [
            stored.time + _MICROSECOND
            if stored.time is not None
            else utc(readings.matrix[first[i], 0])
            if i in first
            else None
            for i, stored in enumerate(batteries)
        ]
        first_new = [utc(readings.matrix[first[i], 0]) if i in first else None for i in range(len(batteries))]
        return self._restorer.load(readings.battery_ids, [stored.state for stored in batteries], until, first_new)


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
