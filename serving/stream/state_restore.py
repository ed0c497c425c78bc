"""What the telemetry store knows of batteries: what they are made of, and the states that their past gives."""

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

T = TypeVar("T")

#: How long a battery's description is believed before it is looked up again.
_REFRESH_S = 60.0


class Past:
    """Reads the store over a connection of its own, opened when first needed and again after it was lost."""

    def __init__(self, dsn: str, refresh_s: float = _REFRESH_S) -> None:
        self._dsn = dsn
        self._refresh_s = refresh_s
        self._connection: history.Connection | None = None
        self._known: dict[str, Row] = {}
        self._known_since = float("-inf")

    def batteries(self, battery_ids: Sequence[str]) -> dict[str, Row]:
        """Rows of the table `batteries`, by id.

        One whose capacity is known is asked for every minute, any other each time: without it currents say little.

        Raises:
            SinkUnavailableError: the store did not answer.
        """
        if time.monotonic() - self._known_since > self._refresh_s:
            self._known = {}
            self._known_since = time.monotonic()
        missing = [battery_id for battery_id in battery_ids if battery_id not in self._known]
        found: dict[str, Row] = {}
        if missing:
            found = self._ask(lambda connection: history.batteries(connection, missing))
            self._known |= {key: row for key, row in found.items() if row["nominal_capacity_ah"] is not None}
        return self._known | found

    def state(self, battery_id: str, until: datetime) -> FloatArray:
        """One battery's state, float64[STATE_SIZE], as of just before `until`.

        Raises:
            SinkUnavailableError: the store did not answer.
        """
        state: FloatArray = self._ask(lambda connection: replay(connection, [battery_id], [until]))[0]
        return state

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, question: Callable[[history.Connection], T]) -> T:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg2.connect(
                    self._dsn, connect_timeout=5, application_name="battery-twin-scorer"
                )
            return question(self._connection)
        except psycopg2.Error as error:
            self.close()
            reason = str(error).strip().partition("\n")[0]
            raise SinkUnavailableError(f"The telemetry store did not answer: {reason}") from error
