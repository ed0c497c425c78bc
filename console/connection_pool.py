"""Thread-safe pool of database connections with timeouts, read-only by default, and readable errors."""

from __future__ import annotations

import math
import queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from telemetry.errors import TwinError
from telemetry.stores.connection import StoreConnection, is_lost, time_limit

#: One result row: column -> value; NULL, NaN and infinities are None.
StoreRow = dict[str, Any]
Parameters = Mapping[str, object]

_MAX_STATEMENTS_PER_TRANSACTION = 4
#: Errors of psycopg2 and the message shown for them; the first match wins.
_MESSAGES: tuple[tuple[tuple[type[psycopg2.Error], ...], str], ...] = (
    (
        (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn, psycopg2.errors.UndefinedFunction),
        "Telemetry store has no schema: run python -m telemetry.stores.migrate.",
    ),
    ((psycopg2.errors.InsufficientPrivilege,), "Telemetry store: the database user of the console lacks a privilege."),
    ((psycopg2.errors.ReadOnlySqlTransaction,), "Telemetry store is read-only: it is a standby, or configured so."),
    ((psycopg2.errors.DiskFull,), "Telemetry store: the disk is full."),
    ((psycopg2.Error,), "Telemetry store unavailable: the connection failed."),
)


class StoreUnavailableError(TwinError):
    """The telemetry store cannot serve a query now; the message contains neither SQL nor a password."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, field="telemetry_dsn")


class Database:
    """Bounded, thread-safe connection pool; opens connections lazily and replaces lost ones.

    psycopg2's own pools raise instead of waiting, and close returned connections above their minimum size.

    Args:
        statement_timeout_s: the server cancels a statement that takes longer.
        read_only: the server rejects every write on these connections.
        max_future_s: readings further ahead of the database clock than this are not the newest, s; None: the setting
            of the database.
    """

    def __init__(
        self,
        dsn: str,
        *,
        connections: int = 8,
        statement_timeout_s: float = 5.0,
        read_only: bool = True,
        max_future_s: float | None = None,
    ) -> None:
        self._timeout_s = statement_timeout_s
        # The connection that was used last comes first, so that no more than needed are opened.
        self._free: queue.LifoQueue[StoreConnection] = queue.LifoQueue()
        for _ in range(connections):
            self._free.put(
                StoreConnection(
                    dsn,
                    "battery-twin-console",
                    statement_timeout_s=statement_timeout_s,
                    read_only=read_only,
                    autocommit=True,
                    max_future_s=max_future_s,
                )
            )

    def fetch(self, sql: str, parameters: Parameters | None = None) -> list[StoreRow]:
        """All result rows of `sql`.

        Raises:
            StoreUnavailableError: the store is unreachable, has no schema, rejected the statement, or timed out.
        """
        with _readable_errors(self._timeout_s):
            try:
                return self._fetch(sql, parameters)
            except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
                if not is_lost(error):
                    raise
                # After a restart of the server the pooled connections are dead: retry once on a new one.
                self.close()
                return self._fetch(sql, parameters)

    def fetch_one(self, sql: str, parameters: Parameters | None = None) -> StoreRow | None:
        """The first result row, None if there is none."""
        rows = self.fetch(sql, parameters)
        return rows[0] if rows else None

    @contextmanager
    def transaction(self) -> Iterator[psycopg2.extensions.cursor]:
        """Context manager for one transaction: commits on success, rolls back on an exception.

        Raises:
            StoreUnavailableError: as `fetch`; the transaction is rolled back.
        """
        limit_s = _MAX_STATEMENTS_PER_TRANSACTION * self._timeout_s
        with (
            _readable_errors(self._timeout_s),
            self._connection(limit_s) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            yield cursor

    def close(self) -> None:
        """Close the idle connections; new ones are opened on demand."""
        idle = []
        with suppress(queue.Empty):
            while True:
                idle.append(self._free.get_nowait())
        for connection in idle:
            connection.close()
            self._free.put(connection)

    def _fetch(self, sql: str, parameters: Parameters | None) -> list[StoreRow]:
        with self._connection(self._timeout_s) as connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return read_rows(cursor)

    @contextmanager
    def _connection(self, limit_s: float) -> Iterator[psycopg2.extensions.connection]:
        try:
            free = self._free.get(timeout=self._timeout_s)
        except queue.Empty:
            raise StoreUnavailableError(
                f"Telemetry store busy: no connection became free within {self._timeout_s:g} s."
            ) from None
        try:
            with free.open() as connection, time_limit(connection, limit_s):
                yield connection
        finally:
            self._free.put(free)


def read_rows(cursor: psycopg2.extensions.cursor) -> list[StoreRow]:
    """The remaining rows of `cursor`."""
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, map(_finite, values), strict=True)) for values in cursor.fetchall()]


def is_finite(column: str) -> str:
    """SQL condition that excludes NaN and infinities: PostgreSQL sorts NaN above every number."""
    return f"abs({column}) < 'Infinity'"


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _readable_errors(timeout_s: float) -> Iterator[None]:
    """Raise errors of psycopg2, which may contain SQL or an address, as `StoreUnavailableError` with a safe message."""
    try:
        yield
    except psycopg2.errors.QueryCanceled as error:
        raise StoreUnavailableError(f"Telemetry store query took longer than {timeout_s:g} s.") from error
    except psycopg2.Error as error:
        raise StoreUnavailableError(
            next(message for kinds, message in _MESSAGES if isinstance(error, kinds))
        ) from error
