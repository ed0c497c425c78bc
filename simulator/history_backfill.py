"""Backfill of the simulated batteries' histories: their states at the service, and their rows in the telemetry store.

The store gets the readings of the last month, thinned predictions from them and the sessions of the whole life, so
that charts, outcomes and drift windows are complete before the first live reading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import cast

import psycopg2

from simulator.live_twin import LiveTwin
from simulator.service_client import BatteryPredictions, BatteryReadings, PredictionClient
from telemetry.batch import Batch, Row, rows_of
from telemetry.spool.spool import Spool
from telemetry.stores.postgres import PostgresStore
from telemetry.stores.retention import RETENTION_DAYS

#: Name of the spool consumer that requests predictions, and owner of the batteries' states.
CONSUMER = "predictions"
HISTORY_CHUNK = 2000
#: Histories backfilled concurrently: more than the service has workers, so that none of them is idle.
_HISTORIES_AT_ONCE = 2
#: Readings are stored from here on: shorter than the retention, which would delete them.
STORED_FOR = timedelta(days=RETENTION_DAYS) - timedelta(hours=1)
#: One prediction in so many seconds is stored, as often as the evaluation compares one with its label; in the last
#: hours more.
PREDICTION_INTERVAL_S = 300.0
LAST_HOURS = timedelta(hours=6)
LAST_HOURS_INTERVAL_S = 60.0

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PredictedHistory:
    """Result of predicting from a history.

    Attributes:
        state: of the battery after it.
        batch: rows for the telemetry store.
    """

    state: str
    batch: Batch


def backfill_histories(
    twins: Sequence[LiveTwin],
    client: PredictionClient,
    spool: Spool,
    dsn: str | None,
    progress: Progress,
    stop: Event,
) -> str | None:
    """Backfill batteries without a state in the spool: history to the store, then state to the spool.

    A battery that has readings in the store already gets the state only, so that its history is never stored twice.

    Args:
        dsn: of the store; None to store states only.

    Returns:
        The store's error where it did not take a history; live readings are stored nevertheless.

    Raises:
        PredictionError: the service did not accept a history.
    """

    def backfill(twin: LiveTwin) -> str | None:
        predicted = predict_history(twin, client, progress, stop)
        if predicted is None:
            return None
        try:
            if dsn is not None:
                _store(dsn, twin.battery.battery_id, predicted.batch)
            error = None
        except psycopg2.Error as raised:
            error = str(raised).strip().partition("\n")[0]
        # Position 0 leaves the cursor unchanged.
        spool.advance(CONSUMER, 0, states={twin.battery.battery_id: predicted.state.encode()})
        return error

    with ThreadPoolExecutor(_HISTORIES_AT_ONCE, thread_name_prefix="history") as pool:
        futures = [pool.submit(backfill, twin) for twin in twins]
        try:
            errors = [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return next((error for error in errors if error is not None), None)


def predict_history(
    twin: LiveTwin, client: PredictionClient, progress: Progress = lambda *_: None, stop: Event | None = None
) -> PredictedHistory | None:
    """Post a battery's history to the service; None where it is empty or `stop` was set meanwhile.

    Args:
        progress: called with battery id, posted readings and total readings.

    Raises:
        PredictionError: the service did not accept the history.
    """
    history, now = rows_of(twin.battery.history()), datetime.now(UTC)
    battery_id = twin.battery.battery_id
    stored = [reading for reading in history if now - STORED_FOR < _time(reading) <= now]
    first_stored = len(history) - len(stored)
    predictions: list[Row] = []
    cycles: list[Row] = []
    state: str | None = None
    begin, last_interval = 0, None
    while begin < len(history):
        if stop is not None and stop.is_set():
            return None
        is_stored = begin >= first_stored
        end = min(begin + HISTORY_CHUNK, len(history) if is_stored else first_stored)
        request = BatteryReadings(battery_id, history[begin:end], state, twin.identity)
        (responses,) = client.predict([request], every_reading=is_stored)
        for response in responses:
            cycles += response.closed_cycles
        if is_stored:
            for reading, response in zip(history[begin:end], responses, strict=True):
                if (interval := _interval(_time(reading), now)) != last_interval or reading is stored[-1]:
                    last_interval = interval
                    predictions += response.rows(now)
        newest: BatteryPredictions = responses[-1]
        state, twin.predictions = newest.state, newest
        begin = end
        progress(battery_id, begin, len(history))
    if not state:
        return None
    return PredictedHistory(state, Batch(stored, predictions, [twin.identity], cycles))


def _time(reading: Row) -> datetime:
    return cast(datetime, reading["time"])


def _interval(time: datetime, now: datetime) -> tuple[float, float]:
    """The interval of which the first prediction is stored."""
    length_s = LAST_HOURS_INTERVAL_S if time > now - LAST_HOURS else PREDICTION_INTERVAL_S
    return length_s, time.timestamp() // length_s


def _store(dsn: str, battery_id: str, batch: Batch) -> None:
    """Store the history of one battery in one transaction, unless the store has readings of the battery."""
    with closing(PostgresStore(dsn)) as store:
        if store.newest_time([battery_id]) is not None:
            return
        with store.transaction() as transaction:
            transaction.write(batch)
            # A silent battery has been so since its newest reading, and not since now.
            transaction.cursor.execute(
                "UPDATE ev_telemetry SET created_at = time WHERE battery_id = %s AND time = "
                "(SELECT max(time) FROM ev_telemetry WHERE battery_id = %s)",
                (battery_id, battery_id),
            )
