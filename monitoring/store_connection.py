"""One connection to the telemetry store for whoever watches, reopened when it was lost; with a lock if need be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
import psycopg2.extensions

from telemetry.stores.liveness import NOTICE_LOST_CLIENT, NOTICE_LOST_SERVER


class StoreConnection:
    """Opened when first needed and again after it was lost.  Errors are those of psycopg2.

    Args:
        name: what the session calls itself in the database.
        statement_timeout_ms: longest time that a statement may take.
        advisory_lock: any number, the same for all of whom one works at a time.
        read_only: every transaction sees one moment and may change nothing.
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
        """Become the one of its kind on this database; False while another is.  Lasts as long as the connection."""
        with self.transaction() as cursor:
            if not self._is_locked:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", (self._advisory_lock,))
                (self._is_locked,) = cursor.fetchone() or (False,)
            return self._is_locked

    def close(self) -> None:
        """Close the connection, and with it give up the lock."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def transaction(self) -> Iterator[psycopg2.extensions.cursor]:
        """A cursor whose work is committed, or rolled back; a broken connection is not kept."""
        connection = self.connection()
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            connection.close()
            raise

    def connection(self) -> psycopg2.extensions.connection:
        """The connection, not in the middle of a transaction."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg2.connect(
                self._dsn, connect_timeout=5, application_name=self._name, **NOTICE_LOST_SERVER
            )
            self._is_locked = False
            if self._read_only:
                self._connection.set_session(readonly=True, isolation_level="REPEATABLE READ")
            with self._connection, self._connection.cursor() as cursor:
                cursor.execute(
                    f"{NOTICE_LOST_CLIENT}; SET statement_timeout = {self._statement_timeout_ms}; SET TIME ZONE 'UTC'"
                )
        return self._connection
