"""A connection to the telemetry store that reopens when lost and can hold an advisory lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
import psycopg2.extensions

from telemetry.stores.keepalive import CLIENT_KEEPALIVE, SERVER_KEEPALIVE_SQL


class StoreConnection:
    """Opens lazily and reopens after a connection loss.  Errors are those of psycopg2.

    Args:
        name: `application_name` of the connection.
        statement_timeout_ms: of each statement.
        advisory_lock: key of the PostgreSQL advisory lock that `try_lock` takes.
        read_only: transactions are read-only, each on one snapshot (REPEATABLE READ).
    """

    def __init__(
        self,
        dsn: str,
        name: str,
        *,
        statement_timeout_ms: int = 60_000,
        advisory_lock: int | None = None,
        read_only: bool = False,
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._statement_timeout_ms = statement_timeout_ms
        self._advisory_lock = advisory_lock
        self._read_only = read_only
        self._connection: psycopg2.extensions.connection | None = None
        self._is_locked = False

    def try_lock(self) -> bool:
        """Take the advisory lock, held until the connection ends; False while another process holds it."""
        with self.transaction() as cursor:
            if not self._is_locked:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", (self._advisory_lock,))
                (self._is_locked,) = cursor.fetchone() or (False,)
            return self._is_locked

    def close(self) -> None:
        """Close the connection, which releases the lock."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def transaction(self) -> Iterator[psycopg2.extensions.cursor]:
        """A cursor in a transaction: committed, or rolled back on an error; a broken connection is closed."""
        connection = self.connection()
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            connection.close()
            raise

    def connection(self) -> psycopg2.extensions.connection:
        """The connection, outside of a transaction."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg2.connect(
                self._dsn, connect_timeout=5, application_name=self._name, **CLIENT_KEEPALIVE
            )
            self._is_locked = False
            if self._read_only:
                self._connection.set_session(readonly=True, isolation_level="REPEATABLE READ")
            with self._connection, self._connection.cursor() as cursor:
                cursor.execute(
                    f"{SERVER_KEEPALIVE_SQL}; SET statement_timeout = {self._statement_timeout_ms}; SET TIME ZONE 'UTC'"
                )
        return self._connection
