"""Ordered log of rows in one SQLite file, with a durable cursor for each consumer.

A row is stored until the cursors of all consumers of its kind have passed it.  Space is bounded: a producer that would
exceed it is refused, and nothing is evicted.  A part of the space is reserved for consumers, because one that appends
output (predictions) of the rows it has read frees more than it takes.
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal

from telemetry.batch import Batch, RowKind
from telemetry.errors import TwinError
from telemetry.spool.disk_reserve import DiskReserve
from telemetry.spool.entries import KINDS, Entry, decode_entry, encode_rows

#: Increase when the tables change; a file of another version is refused, not converted.
SPOOL_VERSION = 1
MIN_BYTES = 32 * 2**20
#: Limit of the write-ahead log beside the database.
_LOG_BYTES = 8 * 2**20
#: Preallocated for consumers, for the case that the disk is full.
_RESERVE_BYTES = 8 * 2**20
#: Limit of one batch, which is in the log and in the database for a while.
MAX_BATCH_BYTES = _LOG_BYTES // 2
_PRODUCERS_SHARE = 0.75
_BUSY_TIMEOUT_S = 30.0

# Names of existing files: an offset is `position` here, and quarantined rows are in `set_aside`.
_SCHEMA = f"""
CREATE TABLE entries (
    position INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, appended_at REAL NOT NULL, bytes INTEGER NOT NULL,
    body BLOB NOT NULL);
-- Covers the queries for a consumer's backlog without reading the row bodies.
CREATE INDEX entries_by_kind ON entries (kind, position, bytes);
CREATE TABLE consumers (name TEXT NOT NULL, kind TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (name, kind));
CREATE TABLE states (consumer TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (consumer, name));
CREATE TABLE set_aside (
    consumer TEXT NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL);
PRAGMA user_version = {SPOOL_VERSION};
"""

_QUARANTINED = "SELECT consumer, kind, body, reason FROM set_aside ORDER BY rowid"
_EntryRow = tuple[RowKind, float, int, bytes]


class SpoolFullError(TwinError):
    """The batch was not stored; the producer may retry it."""


@dataclass(frozen=True)
class Depth:
    """Undelivered rows of one consumer.

    Attributes:
        entries: rows of the consumer's kinds after its cursor.
        readings: readings among them.
        bytes: their size as stored.
        oldest_s: age of the oldest; 0 where there is none.
    """

    entries: int
    readings: int
    bytes: int
    oldest_s: float


@dataclass(frozen=True)
class Quarantined:
    """A row that a consumer refused, and the reason."""

    consumer: str
    kind: RowKind
    body: bytes
    reason: str


class Spool:
    """The log in the file `path`; thread-safe, for one process at a time.

    Args:
        consumers: name -> kinds of rows that it reads.  A new consumer begins with the oldest stored row; the cursor of
            one that is no longer configured is deleted, and `removed_consumers` has the count of its undelivered rows.
        max_bytes: limit of the file with its write-ahead log and the disk reserve, at least MIN_BYTES.

    Raises:
        TwinError: another process uses the file, it is of another version, or `max_bytes` is too small.
    """

    def __init__(self, path: Path, consumers: Mapping[str, Collection[RowKind]], *, max_bytes: int) -> None:
        if max_bytes < MIN_BYTES:
            raise TwinError(
                f"spool_max_bytes is {max_bytes}: give the spool at least {MIN_BYTES} bytes",
                field="spool_max_bytes",
                value=max_bytes,
            )
        self.path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._reserve = DiskReserve(path.with_name(f"{path.name}-reserve"), _RESERVE_BYTES)
        self.consumers = {name: tuple(kinds) for name, kinds in consumers.items()}
        self.removed_consumers: dict[str, int] = {}
        self.max_bytes = max_bytes
        # One connection for all threads: before SQLite 3.51.3, two connections that write and checkpoint at the same
        # time can corrupt the file (the WAL-reset bug), and a reader beside a writer lets the log grow.
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._appended = threading.Condition()
        self._appends = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._process_lock = _lock_file(path)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    # For producers

    def append(self, batch: Batch, *, producer: str = "", states: Mapping[str, bytes] | None = None) -> int:
        """Store `batch` durably and return the offset of its last row.

        Args:
            states: by name, the state from which `producer` resumes after `batch`; stored with it, see `states`.

        Raises:
            SpoolFullError: there is no space; nothing of it was stored.
            TwinError: it is larger than MAX_BATCH_BYTES.
        """
        rows = _rows(batch)
        with self._lock:
            if not self._reserve.fill():
                raise self._full("its disk is full")
            with self._transaction() as connection:
                used = _used_bytes(connection) + _size(rows)
                if used > self.producers_max_bytes:
                    raise SpoolFullError(
                        f"the spool {self.path} is full ({used} of {self.producers_max_bytes} bytes): make the "
                        "unavailable sink available again, or raise TWIN_SPOOL_MAX_BYTES",
                        field="spool_max_bytes",
                        value=self.max_bytes,
                    )
                offset = _insert(connection, rows)
                _store_states(connection, producer, states or {})
        self._notify()
        return offset

    # For consumers

    def read(self, consumer: str, limit: int = 1000) -> list[Entry]:
        """The next rows for `consumer`, in order; empty where there are none."""
        undelivered, values = self._undelivered(consumer)
        found = self._select(
            f"SELECT position, kind, body FROM entries WHERE {undelivered} ORDER BY position LIMIT ?",  # noqa: S608
            (*values, limit),
        )
        return [decode_entry(*row) for row in found]

    def advance(
        self,
        consumer: str,
        offset: int,
        *,
        append: Batch | None = None,
        states: Mapping[str, bytes] | None = None,
    ) -> None:
        """Advance the cursor of `consumer` to `offset` and store its output, in one transaction.

        With `append` or `states` it is on the disk when this returns.

        Args:
            append: output rows of the consumer.
            states: by name, the state from which the consumer resumes after `offset`.

        Raises:
            SpoolFullError: there is no space for `append` now; nothing was changed.
        """
        rows = [] if append is None else _rows(append)

        def commit(connection: sqlite3.Connection) -> None:
            _insert(connection, rows)
            _store_states(connection, consumer, states or {})
            _advance_cursor(connection, consumer, offset)

        # A cursor alone is not synced: after a power cut it is some rows back, and these are delivered again.
        self._by_consumer(commit, synchronous="FULL" if rows or states else "NORMAL")
        if rows:
            self._notify()

    def quarantine(self, consumer: str, refused: Entry, reason: str) -> None:
        """Store a row that `consumer` refused, with the reason, and advance the cursor past it."""

        def commit(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO set_aside SELECT ?, kind, body, ?, ? FROM entries WHERE position = ?",
                (consumer, reason, time.time(), refused.offset),
            )
            _advance_cursor(connection, consumer, refused.offset)

        self._by_consumer(commit)

    def states(self, owner: str) -> dict[str, bytes]:
        """States that a consumer stored with its cursor, or a producer with its batch, by name."""
        return dict(self._select("SELECT name, body FROM states WHERE consumer = ?", (owner,)))

    @property
    def appends(self) -> int:
        """Number of appends since this spool was opened; see `wait`."""
        return self._appends

    def wait(self, appends: int, timeout_s: float) -> None:
        """Return when there were more appends than `appends`, which the caller read before, or after `timeout_s`."""
        with self._appended:
            self._appended.wait_for(lambda: self._appends != appends, timeout_s)

    # For monitoring

    def depth(self, consumer: str) -> Depth:
        """The undelivered rows of `consumer`."""
        undelivered, values = self._undelivered(consumer)
        with self._lock:
            ((entries, readings, size),) = self._select(
                "SELECT count(*), count(*) FILTER (WHERE kind = 'reading'), coalesce(sum(bytes), 0) FROM entries "  # noqa: S608
                f"INDEXED BY entries_by_kind WHERE {undelivered}",
                values,
            )
            oldest = self._select(
                f"SELECT appended_at FROM entries WHERE {undelivered} ORDER BY position LIMIT 1",  # noqa: S608
                values,
            )
        return Depth(entries, readings, size, max(time.time() - oldest[0][0], 0.0) if oldest else 0.0)

    def is_drained(self, consumer: str) -> bool:
        """Whether `consumer` has no undelivered rows."""
        undelivered, values = self._undelivered(consumer)
        sql = f"SELECT EXISTS (SELECT 1 FROM entries WHERE {undelivered})"  # noqa: S608 - constant text
        ((is_waiting,),) = self._select(sql, values)
        return not is_waiting

    def quarantined(self) -> list[Quarantined]:
        """All rows that a consumer refused."""
        return [Quarantined(*row) for row in self._select(_QUARANTINED)]

    def used_bytes(self) -> int:
        """Bytes of rows and indexes, without free pages."""
        with self._lock:
            return _used_bytes(self._opened())

    def close(self) -> None:
        """Close the file and release its lock.  Idempotent; no other thread may use the spool afterwards."""
        self._notify()
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._process_lock.close()

    @property
    def producers_max_bytes(self) -> int:
        """Used bytes above which `append` refuses; the rest is reserved for consumers."""
        return int(self._database_bytes * _PRODUCERS_SHARE)

    @property
    def _database_bytes(self) -> int:
        return self.max_bytes - _LOG_BYTES - _RESERVE_BYTES

    def _undelivered(self, consumer: str) -> tuple[str, tuple[str, ...]]:
        """The condition for undelivered rows of `consumer`, and its parameters."""
        kinds = self.consumers[consumer]
        placeholders = ", ".join("?" * len(kinds))
        cursor = "SELECT max(position) FROM consumers WHERE name = ?"
        return f"kind IN ({placeholders}) AND position > ({cursor})", (*kinds, consumer)

    def _prepare(self) -> None:
        try:
            version = self._begin()
        except sqlite3.DatabaseError as error:
            raise TwinError(
                f"the spool {self.path} cannot be opened ({error}): if it is damaged, move it away to start with an "
                "empty one; its undelivered rows are lost then",
                field="spool",
                value=str(self.path),
            ) from error
        if version not in (0, SPOOL_VERSION):
            raise TwinError(
                f"the spool {self.path} has version {version} and this program reads version {SPOOL_VERSION}: deliver "
                "its rows with the program that wrote it, then remove the file",
                field="spool",
                value=version,
            )
        self._by_consumer(self._register)

    def _begin(self) -> int:
        """Create the tables where there are none, and return the version of existing ones, else 0."""
        while True:
            try:
                connection = self._opened()
                connection.execute("PRAGMA journal_mode = WAL")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version == 0:
                    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            except sqlite3.OperationalError as error:
                if not _is_full(error) or not self._reserve.release():
                    raise
            else:
                return int(version)

    def _register(self, connection: sqlite3.Connection) -> None:
        known = {name for (name,) in connection.execute("SELECT DISTINCT name FROM consumers")}
        for name in sorted(known - self.consumers.keys()):
            (unread,) = connection.execute(
                "SELECT count(*) FROM entries e JOIN consumers c ON c.kind = e.kind AND e.position > c.position "
                "WHERE c.name = ?",
                (name,),
            ).fetchone()
            self.removed_consumers[name] = unread
            connection.execute("DELETE FROM consumers WHERE name = ?", (name,))
            connection.execute("DELETE FROM states WHERE consumer = ?", (name,))
        for name, kinds in self.consumers.items():
            (offset,) = connection.execute(
                "SELECT coalesce(max(position), 0) FROM consumers WHERE name = ?", (name,)
            ).fetchone()
            connection.execute("DELETE FROM consumers WHERE name = ?", (name,))
            connection.executemany("INSERT INTO consumers VALUES (?, ?, ?)", [(name, kind, offset) for kind in kinds])
        _delete_delivered(connection)

    def _by_consumer(
        self, work: Callable[[sqlite3.Connection], None], synchronous: Literal["FULL", "NORMAL"] = "FULL"
    ) -> None:
        """Run `work` in a transaction; where the disk is full, release the disk reserve and retry."""
        with self._lock:
            try:
                with self._transaction(synchronous) as connection:
                    work(connection)
            except SpoolFullError:
                if not self._reserve.release():
                    raise
                with self._transaction(synchronous) as connection:
                    work(connection)

    @contextmanager
    def _transaction(self, synchronous: Literal["FULL", "NORMAL"] = "FULL") -> Iterator[sqlite3.Connection]:
        """Transaction.  FULL: on the disk when the block ends; NORMAL: safe from a kill at once, on the disk later."""
        with self._lock:
            connection = self._opened()
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):  # SQLite has rolled back by itself where the disk is full
                        connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError) and _is_full(error):
                    raise self._full(str(error)) from error
                raise
            if self._log.stat().st_size > _LOG_BYTES // 4:
                with suppress(sqlite3.OperationalError):  # disk full: the log stays, and the next commit retries
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _full(self, reason: str) -> SpoolFullError:
        return SpoolFullError(
            f"the spool {self.path} could not be written ({reason}): free disk space, or make the unavailable sink "
            "available again",
            field="spool",
            value=str(self.path),
        )

    def _select(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        with self._lock:
            return self._opened().execute(sql, values).fetchall()

    def _opened(self) -> sqlite3.Connection:
        """The connection, for use while `_lock` is held."""
        if self._connection is None:
            if self._process_lock.closed:
                raise TwinError(f"the spool {self.path} is closed", field="spool")
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
            (size,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute(f"PRAGMA max_page_count = {self._database_bytes // size}")
            self._connection = connection
        return self._connection

    def _notify(self) -> None:
        with self._appended:
            self._appends += 1
            self._appended.notify_all()


def read_quarantined(path: Path) -> Sequence[Quarantined]:
    """Quarantined rows of the spool `path`, also while another process uses it."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        found = connection.execute(_QUARANTINED).fetchall()
    return [Quarantined(*row) for row in found]


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _rows(batch: Batch) -> list[_EntryRow]:
    """Rows to store for `batch`: kind, time, bytes, body."""
    now = time.time()
    rows = [(kind, now, len(body), body) for kind, body in encode_rows(batch)]
    if (size := _size(rows)) > MAX_BATCH_BYTES:
        raise TwinError(
            f"a batch of {len(rows)} rows has {size} bytes and the spool accepts {MAX_BATCH_BYTES} at once: append it "
            "in parts",
            field="batch",
            value=len(rows),
        )
    return rows


def _size(rows: Sequence[_EntryRow]) -> int:
    return sum(size for _, _, size, _ in rows)


def _insert(connection: sqlite3.Connection, rows: Sequence[_EntryRow]) -> int:
    connection.executemany("INSERT INTO entries (kind, appended_at, bytes, body) VALUES (?, ?, ?, ?)", rows)
    # Not last_insert_rowid: an empty batch inserts nothing.
    (offset,) = connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()
    return int(offset)


def _store_states(connection: sqlite3.Connection, owner: str, states: Mapping[str, bytes]) -> None:
    connection.executemany(
        "INSERT INTO states VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body",
        [(owner, name, body) for name, body in states.items()],
    )


def _advance_cursor(connection: sqlite3.Connection, consumer: str, offset: int) -> None:
    connection.execute("UPDATE consumers SET position = max(position, ?) WHERE name = ?", (offset, consumer))
    _delete_delivered(connection)


def _delete_delivered(connection: sqlite3.Connection) -> None:
    """Delete rows that the cursors of all consumers of their kind have passed."""
    for kind in KINDS:
        connection.execute(
            "DELETE FROM entries WHERE kind = ? AND position <= "
            "coalesce((SELECT min(position) FROM consumers WHERE kind = ?), 9e18)",
            (kind, kind),
        )


def _is_full(error: sqlite3.OperationalError) -> bool:
    name = getattr(error, "sqlite_errorname", "")
    return name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR")


def _lock_file(path: Path) -> TextIOWrapper:
    """Lock the spool for this process; the kernel releases the lock of a killed process."""
    file = path.with_suffix(".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise TwinError(
            f"the spool {path} is in use by another process: stop that process, or set another TWIN_VAR for this one",
            field="spool",
            value=str(path),
        ) from None
    return file
