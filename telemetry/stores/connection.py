"""PostgreSQL connection to the telemetry store that opens at first use and reopens after it was lost."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from telemetry.contract import EARLIEST, LATEST

Connection = psycopg2.extensions.connection
Cursor = psycopg2.extensions.cursor

_CONNECT_TIMEOUT_S = 5
#: The server cancels a statement after its timeout; this much later the server counts as hung.
_HANG_GRACE_S = 1.0
#: Settings of a session that holds a lock: the server closes it about a minute after the client's machine was lost, not
#: after the two hours that are an operating system's default.
_SERVER_KEEPALIVE = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
}


class StoreConnection:
    """Opens at first use and reopens after a connection loss.  Not thread-safe.  Errors are those of psycopg2.

    Args:
        name: `application_name` of the connection.
        statement_timeout_s: the server cancels a statement that takes longer; None: no limit.
        advisory_lock: key of the PostgreSQL advisory lock that `try_lock` takes.
        read_only: transactions are read-only, each on one snapshot (REPEATABLE READ).
        autocommit: statements outside of `transaction` need no commit.
        max_future_s: readings further ahead of the clock than this are not the newest, see `telemetry.stores.newest`;
            None: the setting of the database.
        prepare: called with each newly opened connection.
    """

    def __init__(
        self,
        dsn: str,
        name: str,
        *,
        statement_timeout_s: float | None = 60.0,
        advisory_lock: int | None = None,
        read_only: bool = False,
        autocommit: bool = False,
        max_future_s: float | None = None,
        prepare: Callable[[Connection], None] | None = None,
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._advisory_lock = advisory_lock
        self._autocommit = autocommit
        self._prepare = prepare
        self._connection: Connection | None = None
        self._is_locked = False
        # Not passed as `options` of the connection, which would replace those of a DSN.
        settings = {"TimeZone": "'UTC'"} | (_SERVER_KEEPALIVE if advisory_lock is not None else {})
        if statement_timeout_s is not None:
            settings["statement_timeout"] = str(int(statement_timeout_s * 1000))
        if max_future_s is not None:
            settings["twin.max_future_s"] = f"'{max_future_s}'"
        if read_only:
            settings |= {"default_transaction_read_only": "on", "default_transaction_isolation": "'repeatable read'"}
        self._settings_sql = "; ".join(f"SET {name} = {value}" for name, value in settings.items())

    def connection(self) -> Connection:
        """The connection, outside of a transaction."""
        if self._connection is None or self._connection.closed:
            self._is_locked = False
            connection = connect(self._dsn, self._name)
            try:
                with time_limit(connection, _CONNECT_TIMEOUT_S), connection, connection.cursor() as cursor:
                    cursor.execute(self._settings_sql)
                connection.autocommit = self._autocommit
                if self._prepare is not None:
                    self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    @contextmanager
    def open(self) -> Iterator[Connection]:
        """The connection, which is closed if it is lost in the block."""
        connection = self.connection()
        try:
            yield connection
        except psycopg2.Error as error:
            if is_lost(error):
                connection.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """A cursor in a transaction: committed, or rolled back on an error."""
        with self.open() as connection, connection.cursor() as cursor:
            try:
                yield cursor
            except BaseException:
                if not connection.closed:  # else the rollback would raise an error that hides the first one
                    connection.rollback()
                raise
            connection.commit()

    def try_lock(self) -> bool:
        """Take the advisory lock, held until `unlock` or the end of the connection; False while another has it."""
        with self.transaction() as cursor:
            if not self._is_locked:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", (self._advisory_lock,))
                (self._is_locked,) = cursor.fetchone() or (False,)
            return self._is_locked

    def unlock(self) -> None:
        """Release the lock; no effect if it is not held or the connection was lost."""
        if self._is_locked and self._connection is not None and not self._connection.closed:
            with self.transaction() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", (self._advisory_lock,))
        self._is_locked = False

    def close(self) -> None:
        """Close the connection, which releases the lock; the next use opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def connect(dsn: str, name: str) -> Connection:
    """A new connection with `application_name` `name`, which detects a lost server within about 20 s."""
    connection: Connection = psycopg2.connect(
        dsn,
        application_name=name,
        client_encoding="UTF8",
        connect_timeout=_CONNECT_TIMEOUT_S,
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=2,
        tcp_user_timeout=20_000,
    )
    psycopg2.extensions.register_type(_TIME, connection)
    return connection


def _contract_time(text: str | bytes | None, cursor: Cursor) -> datetime | None:
    try:
        time: datetime | None = psycopg2.extensions.PYDATETIMETZ(text, cursor)
        return time if time is not None and EARLIEST <= time <= LATEST else None
    except (ValueError, OverflowError):
        return None


#: A time that Python cannot represent, or outside of the contract, counts as missing: it must not end a reader.
_TIME = psycopg2.extensions.new_type((1184,), "CONTRACT_TIME", _contract_time)  # 1184: timestamptz


def is_lost(error: psycopg2.Error) -> bool:
    """Whether the connection cannot be used after `error`."""
    lost = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    return lost and not isinstance(error, psycopg2.errors.QueryCanceled)


@contextmanager
def time_limit(connection: Connection, seconds: float) -> Iterator[None]:
    """Shut `connection` down if the block takes `_HANG_GRACE_S` longer than `seconds`.

    A server that is paused or hung keeps its TCP connections open, so that no timeout of the client library applies.
    """
    timer = threading.Timer(seconds + _HANG_GRACE_S, _shut_down, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shut_down(connection: Connection) -> None:
    # On a duplicate of the file descriptor, because libpq closes its own; a pending read then ends with an error.
    with (
        suppress(psycopg2.InterfaceError, OSError),  # closed in the meantime
        socket.socket(fileno=os.dup(connection.fileno())) as duplicate,
    ):
        duplicate.shutdown(socket.SHUT_RDWR)
