"""An ordered log of rows in one SQLite file, with a durable cursor for each of its consumers.

A row is kept until every consumer of its kind has passed it.  Space is bounded: a producer that would exceed it
is refused, and nothing is ever evicted.  A part of the space is left to consumers, because one that appends what
it made of the rows it read (predictions) frees more than it takes.
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

from data.batch import Batch
from data.errors import TwinError
from data.spool.entries import KINDS, Entry, Kind, bodies, entry

#: Raise when the tables change; a file of another version is refused, not converted in silence.
SPOOL_VERSION = 1
MIN_BYTES = 32 * 2**20
#: What the write-ahead log may take beside the database: it is folded in every 1,000 pages.
_LOG_BYTES = 8 * 2**20
_PRODUCERS_SHARE = 0.75
_BUSY_TIMEOUT_S = 30.0

_SCHEMA = f"""
CREATE TABLE entries (
    position INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, appended_at REAL NOT NULL, body BLOB NOT NULL);
CREATE INDEX entries_by_kind ON entries (kind, position);
CREATE TABLE consumers (name TEXT NOT NULL, kind TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (name, kind));
CREATE TABLE states (consumer TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (consumer, name));
CREATE TABLE set_aside (
    consumer TEXT NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL);
PRAGMA user_version = {SPOOL_VERSION};
"""


class SpoolFullError(TwinError):
    """Nothing of the batch was kept; the producer still has it and may try again."""


@dataclass(frozen=True)
class Depth:
    """What waits for one consumer.

    Attributes:
        entries: rows of the consumer's kinds behind which its cursor stands.
        readings: those of them that are readings.
        oldest_s: how long the oldest has waited; 0 where nothing waits.
    """

    entries: int
    readings: int
    oldest_s: float


@dataclass(frozen=True)
class SetAside:
    """A row that a consumer will never take, and why."""

    consumer: str
    kind: Kind
    body: bytes
    reason: str


class Spool:
    """The log in the file `path`; for any number of threads of one process.

    Args:
        consumers: who reads which kinds of rows.  A new consumer begins with the oldest row that is still there;
            one that is not named any more gives up its place, and `forgotten` says what it had not read.
        max_bytes: of the file with its write-ahead log, at least MIN_BYTES.

    Raises:
        TwinError: another process has the file, it is of another version, or `max_bytes` is too small.
    """

    def __init__(self, path: Path, consumers: Mapping[str, Collection[Kind]], *, max_bytes: int) -> None:
        if max_bytes < MIN_BYTES:
            raise TwinError(
                f"spool_max_bytes is {max_bytes}: give the spool at least {MIN_BYTES} bytes",
                field="spool_max_bytes",
                value=max_bytes,
            )
        self.path = path
        self.consumers = {name: tuple(kinds) for name, kinds in consumers.items()}
        self.forgotten: dict[str, int] = {}
        self._max_bytes = max_bytes
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._appended = threading.Condition()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._owner = _own(path)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    # The producer's side

    def append(self, batch: Batch) -> int:
        """Keep `batch` and return the position of its last row; it is on the disk then.

        Raises:
            SpoolFullError: there is no room for it; nothing of it was kept.
        """
        with self._transaction() as connection:
            used = self._used_bytes(connection)
            if used > self._producers_bytes:
                raise SpoolFullError(
                    f"the spool {self.path} is full ({used} of {self._producers_bytes} bytes): bring back the sink "
                    "that it waits for, or raise TWIN_SPOOL_MAX_BYTES",
                    field="spool_max_bytes",
                    value=self._max_bytes,
                )
            position = _insert(connection, batch)
        self._notify()
        return position

    # The consumers' side

    def read(self, consumer: str, limit: int = 1000) -> list[Entry]:
        """The next rows for `consumer`, in order; empty where there are none."""
        marks = ", ".join("?" * len(self.consumers[consumer]))
        found = self._connection().execute(
            f"SELECT position, kind, body FROM entries WHERE kind IN ({marks}) AND position > "  # noqa: S608 - marks only
            "(SELECT max(position) FROM consumers WHERE name = ?) ORDER BY position LIMIT ?",
            (*self.consumers[consumer], consumer, limit),
        )
        return [entry(*row) for row in found]

    def advance(
        self,
        consumer: str,
        position: int,
        *,
        append: Batch | None = None,
        states: Mapping[str, bytes] | None = None,
    ) -> None:
        """Move the cursor of `consumer` to `position`, with all that goes with it: everything or nothing.

        Args:
            append: rows that the consumer made of those it has read.
            states: by name, what the consumer has to know to go on from `position`.

        Raises:
            SpoolFullError: there is no room for `append` now; nothing was done.
        """
        with self._transaction() as connection:
            if append is not None:
                _insert(connection, append)
            if states:
                connection.executemany(
                    "INSERT INTO states VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body",
                    [(consumer, name, body) for name, body in states.items()],
                )
            self._move(connection, consumer, position)
        if append is not None:
            self._notify()

    def set_aside(self, consumer: str, refused: Entry, reason: str) -> None:
        """Keep a row that `consumer` will never take, with the reason, and move on behind it."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO set_aside SELECT ?, kind, body, ?, ? FROM entries WHERE position = ?",
                (consumer, reason, time.time(), refused.position),
            )
            self._move(connection, consumer, refused.position)

    def states(self, consumer: str) -> dict[str, bytes]:
        """What `consumer` kept with its cursor, by name."""
        found = self._connection().execute("SELECT name, body FROM states WHERE consumer = ?", (consumer,))
        return dict(found.fetchall())

    def wait(self, timeout_s: float) -> None:
        """Return when something was appended, or after `timeout_s`."""
        with self._appended:
            self._appended.wait(timeout_s)

    # What can be said of it

    def depth(self, consumer: str) -> Depth:
        """What waits for `consumer`."""
        marks = ", ".join("?" * len(self.consumers[consumer]))
        entries, readings, oldest = (
            self._connection()
            .execute(
                "SELECT count(*), count(*) FILTER (WHERE kind = 'reading'), min(appended_at) FROM entries "  # noqa: S608
                f"WHERE kind IN ({marks}) AND position > (SELECT max(position) FROM consumers WHERE name = ?)",
                (*self.consumers[consumer], consumer),
            )
            .fetchone()
        )
        return Depth(entries, readings, 0.0 if oldest is None else max(time.time() - oldest, 0.0))

    def all_set_aside(self) -> list[SetAside]:
        """Every row that a consumer would not take."""
        found = self._connection().execute("SELECT consumer, kind, body, reason FROM set_aside ORDER BY rowid")
        return [SetAside(*row) for row in found]

    def used_bytes(self) -> int:
        """Bytes of rows and their keeping, without pages that are free again."""
        return self._used_bytes(self._connection())

    def close(self) -> None:
        """Let go of the file.  Harmless when repeated; no other thread may use the spool any more."""
        self._notify()
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
        self._owner.close()

    @property
    def _producers_bytes(self) -> int:
        return int((self._max_bytes - _LOG_BYTES) * _PRODUCERS_SHARE)

    def _prepare(self) -> None:
        connection = self._connection()
        connection.execute("PRAGMA journal_mode = WAL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        elif version != SPOOL_VERSION:
            raise TwinError(
                f"the spool {self.path} is of version {version} and this is version {SPOOL_VERSION}: let the version "
                "that wrote it deliver what it holds, then remove the file",
                field="spool",
                value=version,
            )
        with self._transaction() as connection:
            self._register(connection)

    def _register(self, connection: sqlite3.Connection) -> None:
        known = {name for (name,) in connection.execute("SELECT DISTINCT name FROM consumers")}
        for name in sorted(known - self.consumers.keys()):
            (unread,) = connection.execute(
                "SELECT count(*) FROM entries e JOIN consumers c ON c.kind = e.kind AND e.position > c.position "
                "WHERE c.name = ?",
                (name,),
            ).fetchone()
            self.forgotten[name] = unread
            connection.execute("DELETE FROM consumers WHERE name = ?", (name,))
            connection.execute("DELETE FROM states WHERE consumer = ?", (name,))
        for name, kinds in self.consumers.items():
            (position,) = connection.execute(
                "SELECT coalesce(max(position), 0) FROM consumers WHERE name = ?", (name,)
            ).fetchone()
            connection.execute("DELETE FROM consumers WHERE name = ?", (name,))
            connection.executemany("INSERT INTO consumers VALUES (?, ?, ?)", [(name, kind, position) for kind in kinds])
        _forget_what_everybody_has(connection)

    def _move(self, connection: sqlite3.Connection, consumer: str, position: int) -> None:
        connection.execute(
            "UPDATE consumers SET position = max(position, ?) WHERE name = ?",
            (position, consumer),
        )
        _forget_what_everybody_has(connection)

    def _used_bytes(self, connection: sqlite3.Connection) -> int:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; nothing but an error leaves it before it is on the disk."""
        connection = self._connection()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                with suppress(sqlite3.Error):  # SQLite has rolled back by itself where the disk is full
                    connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError) and _is_full(error):
                raise SpoolFullError(
                    f"the spool {self.path} could not be written ({error}): make room on its disk, or bring back the "
                    "sink that it waits for",
                    field="spool",
                    value=str(self.path),
                ) from error
            raise

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA synchronous = FULL")  # a commit returns when it is on the disk
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
            (size,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute(f"PRAGMA max_page_count = {(self._max_bytes - _LOG_BYTES) // size}")
            with self._lock:
                self._connections.append(connection)
            self._local.connection = connection
        return connection

    def _notify(self) -> None:
        with self._appended:
            self._appended.notify_all()


def set_aside_in(path: Path) -> Sequence[SetAside]:
    """Rows that were set aside in the spool `path`, also while another process has it."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        found = connection.execute("SELECT consumer, kind, body, reason FROM set_aside ORDER BY rowid").fetchall()
    return [SetAside(*row) for row in found]


def _insert(connection: sqlite3.Connection, batch: Batch) -> int:
    now = time.time()
    connection.executemany(
        "INSERT INTO entries (kind, appended_at, body) VALUES (?, ?, ?)",
        [(kind, now, body) for kind, body in bodies(batch)],
    )
    # Not last_insert_rowid: an empty batch inserts nothing.
    (position,) = connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()
    return int(position)


def _forget_what_everybody_has(connection: sqlite3.Connection) -> None:
    for kind in KINDS:
        connection.execute(
            "DELETE FROM entries WHERE kind = ? AND position <= "
            "coalesce((SELECT min(position) FROM consumers WHERE kind = ?), 9e18)",
            (kind, kind),
        )


def _is_full(error: sqlite3.OperationalError) -> bool:
    name = getattr(error, "sqlite_errorname", "")
    return name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR")


def _own(path: Path) -> TextIOWrapper:
    """The lock that says that this process has the spool; the kernel takes it back from a process that was killed."""
    file = path.with_suffix(".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise TwinError(
            f"the spool {path} is in use by another process: stop that one, or give this one a TWIN_VAR of its own",
            field="spool",
            value=str(path),
        ) from None
    return file
