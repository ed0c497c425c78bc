"""The telemetry store as the console sees it: a few connections, bounded in time, that cannot write."""

from __future__ import annotations

import math
import os
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from telemetry.errors import TwinError
from telemetry.stores.liveness import NOTICE_LOST_SERVER

#: One row of an answer: column -> value; NULL, NaN and infinities are None.
StoreRow = dict[str, Any]
Parameters = Mapping[str, object]

_CONNECT_TIMEOUT_S = 5
#: The server ends a statement in its time; so much later it is taken for hung, in a transaction of several later still.
_HUNG_AFTER_S = 1.0
_STATEMENTS_A_TRANSACTION = 4
#: What psycopg2 raises, and a sentence for anybody; the first that fits.
_SENTENCES: tuple[tuple[tuple[type[psycopg2.Error], ...], str], ...] = (
    (
        (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn, psycopg2.errors.UndefinedFunction),
        "The telemetry store is not set up: run python -m telemetry.stores.migrate.",
    ),
    ((psycopg2.errors.InsufficientPrivilege,), "The console's login may not do this in the telemetry store."),
    ((psycopg2.errors.ReadOnlySqlTransaction,), "The telemetry store can only be read: it is a standby, or set so."),
    ((psycopg2.errors.DiskFull,), "The telemetry store has no room on its disk."),
    ((psycopg2.Error,), "The telemetry store cannot be reached."),
)


class StoreUnavailableError(TwinError):
    """The store cannot answer now; the sentence holds neither SQL nor a password and may be shown to anybody."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, field="telemetry_dsn")


class Database:
    """A bounded number of connections, opened when needed and replaced when lost.  For use by several threads.

    psycopg2's own pools refuse instead of waiting, and close what exceeds the number that they opened at once.

    Args:
        statement_timeout_s: a statement that takes longer is ended by the server.
        read_only: the server refuses every write on these connections.
    """

    def __init__(
        self, dsn: str, *, connections: int = 8, statement_timeout_s: float = 5.0, read_only: bool = True
    ) -> None:
        self._dsn = dsn
        self._timeout_s = statement_timeout_s
        self._places = threading.BoundedSemaphore(connections)
        self._idle: deque[psycopg2.extensions.connection] = deque()
        # Appended, because what the address itself asks for (a schema, say) has to stay.
        options = [psycopg2.extensions.parse_dsn(dsn).get("options", "")]
        options += [f"-c statement_timeout={int(statement_timeout_s * 1000)}", "-c TimeZone=UTC"]
        options += ["-c default_transaction_read_only=on"] if read_only else []
        self._options = " ".join(options).strip()

    def fetch(self, sql: str, parameters: Parameters | None = None) -> list[StoreRow]:
        """Every row that `sql` gives.

        Raises:
            StoreUnavailableError: the store cannot be reached, has no schema yet, refused, or took too long.
        """
        with _explained(self._timeout_s):
            try:
                return self._fetch(sql, parameters)
            except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
                if not _is_lost(error):
                    raise
                # A restarted server leaves dead connections behind; they must not look like an outage.
                self.close()
                return self._fetch(sql, parameters)

    def fetch_one(self, sql: str, parameters: Parameters | None = None) -> StoreRow | None:
        """The first row, None where there is none."""
        rows = self.fetch(sql, parameters)
        return rows[0] if rows else None

    @contextmanager
    def transaction(self) -> Iterator[psycopg2.extensions.cursor]:
        """A `with` block whose statements are committed together, or not at all.

        Raises:
            StoreUnavailableError: as `fetch`; nothing of the block is stored then.
        """
        bound_s = _STATEMENTS_A_TRANSACTION * self._timeout_s
        with _explained(self._timeout_s), self._connection() as connection, _bounded(connection, bound_s):
            connection.autocommit = False
            try:
                with connection, connection.cursor() as cursor:
                    yield cursor
            finally:
                if not connection.closed:
                    connection.autocommit = True

    def close(self) -> None:
        """Close the connections that nobody uses; others are opened when needed again."""
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:  # another thread took the last one
                return

    def _fetch(self, sql: str, parameters: Parameters | None) -> list[StoreRow]:
        with self._connection() as connection, _bounded(connection, self._timeout_s), connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return rows_of(cursor)

    @contextmanager
    def _connection(self) -> Iterator[psycopg2.extensions.connection]:
        if not self._places.acquire(timeout=self._timeout_s):
            raise StoreUnavailableError("The telemetry store is busy: no connection became free in time.")
        try:
            connection = self._take()
            try:
                yield connection
            except psycopg2.Error as error:
                if _is_lost(error):
                    connection.close()
                raise
            finally:
                if not connection.closed:
                    self._idle.append(connection)
        finally:
            self._places.release()

    def _take(self) -> psycopg2.extensions.connection:
        try:
            return self._idle.pop()
        except IndexError:
            connection: psycopg2.extensions.connection = psycopg2.connect(
                self._dsn,
                options=self._options,
                connect_timeout=_CONNECT_TIMEOUT_S,
                application_name="battery-twin-console",
                **NOTICE_LOST_SERVER,
            )
            connection.autocommit = True
            return connection


def rows_of(cursor: psycopg2.extensions.cursor) -> list[StoreRow]:
    """What `cursor` has left, as rows."""
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, map(_finite, values), strict=True)) for values in cursor.fetchall()]


def is_finite(column: str) -> str:
    """A condition in SQL, for what is computed there: the store sorts NaN above every number."""
    return f"abs({column}) < 'Infinity'"


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _bounded(connection: psycopg2.extensions.connection, seconds: float) -> Iterator[None]:
    """Lose `connection` where the block takes much longer than `seconds`.

    A server that is paused or hung still holds its connections, so that no option of theirs ends the wait.
    """
    timer = threading.Timer(seconds + _HUNG_AFTER_S, _cut, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(connection: psycopg2.extensions.connection) -> None:
    # Of a copy, because libpq closes its own; what it waits for then ends as if the server had hung up.
    with (
        suppress(psycopg2.InterfaceError, OSError),  # closed meanwhile
        socket.socket(fileno=os.dup(connection.fileno())) as line,
    ):
        line.shutdown(socket.SHUT_RDWR)


def _is_lost(error: psycopg2.Error) -> bool:
    lost = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    return lost and not isinstance(error, psycopg2.errors.QueryCanceled)


@contextmanager
def _explained(timeout_s: float) -> Iterator[None]:
    """Turn what psycopg2 says, which may hold SQL or an address, into a sentence for anybody."""
    try:
        yield
    except psycopg2.errors.QueryCanceled as error:
        raise StoreUnavailableError(f"The telemetry store took longer than {timeout_s:g} s to answer.") from error
    except psycopg2.Error as error:
        raise StoreUnavailableError(next(said for kinds, said in _SENTENCES if isinstance(error, kinds))) from error
