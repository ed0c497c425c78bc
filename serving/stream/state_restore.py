"""Reads battery descriptions and restores battery states from the telemetry store for the stream scorer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

import psycopg2

from features.state import FloatArray
from serving.replay import replay
from telemetry.batch import Row
from telemetry.sinks.base import SinkUnavailableError
from telemetry.stores import history
from telemetry.stores.connection import StoreConnection

T = TypeVar("T")

#: Refresh interval of cached battery descriptions.
_REFRESH_S = 60.0


class StoreHistory:
    """Reads the store over one connection, which is opened at the first query and reopened after a failure."""

    def __init__(self, dsn: str, refresh_s: float = _REFRESH_S) -> None:
        self._store = StoreConnection(dsn, "battery-twin-scorer", statement_timeout_s=None)
        self._refresh_s = refresh_s
        self._cached: dict[str, Row] = {}
        self._cached_at = float("-inf")

    def batteries(self, battery_ids: Sequence[str]) -> dict[str, Row]:
        """Rows of the table `batteries`, by id.

        Rows with a capacity are cached for a minute; others are queried each time, because many features need the
        capacity.

        Raises:
            SinkUnavailableError: the store is unavailable.
        """
        if time.monotonic() - self._cached_at > self._refresh_s:
            self._cached = {}
            self._cached_at = time.monotonic()
        missing = [battery_id for battery_id in battery_ids if battery_id not in self._cached]
        found: dict[str, Row] = {}
        if missing:
            found = self._query(lambda connection: history.batteries(connection, missing))
            self._cached |= {key: row for key, row in found.items() if row["nominal_capacity_ah"] is not None}
        return self._cached | found

    def state(self, battery_id: str, until: datetime) -> FloatArray:
        """Replay one battery's state, float64[STATE_SIZE], as of just before `until`.

        Raises:
            SinkUnavailableError: the store is unavailable.
        """
        state: FloatArray = self._query(lambda connection: replay(connection, [battery_id], [until]))[0]
        return state

    def close(self) -> None:
        """Close the connection."""
        self._store.close()

    def _query(self, query: Callable[[history.Connection], T]) -> T:
        try:
            with self._store.open() as connection:
                return query(connection)
        except psycopg2.Error as error:
            reason = str(error).strip().partition("\n")[0]
            raise SinkUnavailableError(f"the telemetry store is unavailable: {reason}") from error
