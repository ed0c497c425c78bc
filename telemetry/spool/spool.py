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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal

from telemetry.batch import Batch, Kind
from telemetry.errors import TwinError
from telemetry.spool.disk_reserve import Reserve
from telemetry.spool.entries import KINDS, Entry, bodies, entry

#: Raise when the tables change; a file of another version is refused, not converted in silence.
SPOOL_VERSION = 1
MIN_BYTES = 32 * 2**20
#: What the write-ahead log may take beside the database.
_LOG_BYTES = 8 * 2**20
#: What is kept free for consumers on a disk that others, or the spool itself, have filled.
_RESERVE_BYTES = 8 * 2**20
#: Most that one batch may be: it is in the log and in the database for a while.
MAX_BATCH_BYTES = _LOG_BYTES // 2
_PRODUCERS_SHARE = 0.75
_BUSY_TIMEOUT_S = 30.0

_SCHEMA = f"""
CREATE TABLE entries (
    position INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, appended_at REAL NOT NULL, bytes INTEGER NOT NULL,
    body BLOB NOT NULL);
-- Answers what waits for a consumer without touching the rows themselves.
CREATE INDEX entries_by_kind ON entries (kind, position, bytes);
CREATE TABLE consumers (name TEXT NOT NULL, kind TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (name, kind));
CREATE TABLE states (consumer TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (consumer, name));
CREATE TABLE set_aside (
    consumer TEXT NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL);
PRAGMA user_version = {SPOOL_VERSION};
"""


_SET_ASIDE = "SELECT consumer, kind, body, reason FROM set_aside ORDER BY rowid"
_EntryRow = tuple[Kind, float, int, bytes]


class SpoolFullError(TwinError):
    """Nothing of the batch was kept; the producer still has it and may try again."""


@dataclass(frozen=True)
class Depth:
    """What waits for one consumer.

    Attributes:
        entries: rows of the consumer's kinds behind which its cursor stands.
        readings: those of them that are readings.
        bytes: of them, as they are kept.
        oldest_s: how long the oldest has waited; 0 where nothing waits.
    """

    entries: int
    readings: int
    bytes: int
    oldest_s: float


@dataclass(frozen=True)
class Quarantined:
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
        max_bytes: of the file with its write-ahead log and what is kept free, at least MIN_BYTES.

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
        self._log = path.with_name(f"{path.name}-wal")
        self._reserve = Reserve(path.with_name(f"{path.name}-reserve"), _RESERVE_BYTES)
        self.consumers = {name: tuple(kinds) for name, kinds in consumers.items()}
        self.forgotten: dict[str, int] = {}
        self.max_bytes = max_bytes
        # One connection for all threads: before SQLite 3.51.3, two that write and checkpoint at one moment can corrupt
        # the file (the WAL-reset bug), and a reader beside a writer lets the log grow.
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._grown = threading.Condition()
        self._appends = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._owner = _own(path)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    # The producer's side

    def append(self, batch: Batch, *, producer: str = "", states: Mapping[str, bytes] | None = None) -> int:
        """Keep `batch` and return the position of its last row; it is on the disk then.

        Args:
            states: by name, what `producer` has to know to go on after `batch`; kept with it, see `states`.

        Raises:
            SpoolFullError: there is no room for it; nothing of it was kept.
            TwinError: it is larger than MAX_BATCH_BYTES.
        """
        rows = _rows(batch)
        with self._lock:
            if not self._reserve.fill():
                raise self._full("its disk has no room")
            with self._transaction() as connection:
                used = _used_bytes(connection) + _size(rows)
                if used > self.producers_max_bytes:
                    raise SpoolFullError(
                        f"the spool {self.path} is full ({used} of {self.producers_max_bytes} bytes): bring back the "
                        "sink that it waits for, or raise TWIN_SPOOL_MAX_BYTES",
                        field="spool_max_bytes",
                        value=self.max_bytes,
                    )
                position = _insert(connection, rows)
                _keep_states(connection, producer, states or {})
        self._notify()
        return position

    # The consumers' side

    def read(self, consumer: str, limit: int = 1000) -> list[Entry]:
        """The next rows for `consumer`, in order; empty where there are none."""
        waiting, values = self._waiting(consumer)
        found = self._select(
            f"SELECT position, kind, body FROM entries WHERE {waiting} ORDER BY position LIMIT ?",  # noqa: S608
            (*values, limit),
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

        With `append` or `states` it is on the disk when this returns.

        Args:
            append: rows that the consumer made of those it has read.
            states: by name, what the consumer has to know to go on from `position`.

        Raises:
            SpoolFullError: there is no room for `append` now; nothing was done.
        """
        rows = [] if append is None else _rows(append)

        def move(connection: sqlite3.Connection) -> None:
            _insert(connection, rows)
            _keep_states(connection, consumer, states or {})
            _move(connection, consumer, position)

        # A place alone does not wait for the disk: after a power cut it is some rows back, and they come again.
        self._by_consumer(move, synchronous="FULL" if rows or states else "NORMAL")
        if rows:
            self._notify()

    def set_aside(self, consumer: str, refused: Entry, reason: str) -> None:
        """Keep a row that `consumer` will never take, with the reason, and move on behind it."""

        def keep(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO set_aside SELECT ?, kind, body, ?, ? FROM entries WHERE position = ?",
                (consumer, reason, time.time(), refused.position),
            )
            _move(connection, consumer, refused.position)

        self._by_consumer(keep)

    def states(self, owner: str) -> dict[str, bytes]:
        """What a consumer kept with its cursor, or a producer with its batch, by name."""
        return dict(self._select("SELECT name, body FROM states WHERE consumer = ?", (owner,)))

    @property
    def appends(self) -> int:
        """How often something was appended since this spool was opened; see `wait`."""
        return self._appends

    def wait(self, appends: int, timeout_s: float) -> None:
        """Return when more was appended than `appends` said before the caller looked, or after `timeout_s`."""
        with self._grown:
            self._grown.wait_for(lambda: self._appends != appends, timeout_s)

    # What can be said of it

    def depth(self, consumer: str) -> Depth:
        """What waits for `consumer`."""
        waiting, values = self._waiting(consumer)
        with self._lock:
            ((entries, readings, size),) = self._select(
                "SELECT count(*), count(*) FILTER (WHERE kind = 'reading'), coalesce(sum(bytes), 0) FROM entries "  # noqa: S608
                f"INDEXED BY entries_by_kind WHERE {waiting}",
                values,
            )
            oldest = self._select(
                f"SELECT appended_at FROM entries WHERE {waiting} ORDER BY position LIMIT 1",  # noqa: S608 - our own text
                values,
            )
        return Depth(entries, readings, size, max(time.time() - oldest[0][0], 0.0) if oldest else 0.0)

    def is_drained(self, consumer: str) -> bool:
        """Whether nothing waits for `consumer`."""
        waiting, values = self._waiting(consumer)
        sql = f"SELECT EXISTS (SELECT 1 FROM entries WHERE {waiting})"  # noqa: S608 - our own text
        ((waits,),) = self._select(sql, values)
        return not waits

    def all_quarantined(self) -> list[Quarantined]:
        """Every row that a consumer would not take."""
        return [Quarantined(*row) for row in self._select(_SET_ASIDE)]

    def used_bytes(self) -> int:
        """Bytes of rows and their keeping, without pages that are free again."""
        with self._lock:
            return _used_bytes(self._opened())

    def close(self) -> None:
        """Let go of the file.  Harmless when repeated; no other thread may use the spool any more."""
        self._notify()
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._owner.close()

    @property
    def producers_max_bytes(self) -> int:
        """What may be in use before `append` refuses; the rest is the consumers'."""
        return int(self._database_bytes * _PRODUCERS_SHARE)

    @property
    def _database_bytes(self) -> int:
        return self.max_bytes - _LOG_BYTES - _RESERVE_BYTES

    def _waiting(self, consumer: str) -> tuple[str, tuple[str, ...]]:
        """The condition for rows that wait for `consumer`, and its values."""
        kinds = self.consumers[consumer]
        marks = ", ".join("?" * len(kinds))
        place = "SELECT max(position) FROM consumers WHERE name = ?"
        return f"kind IN ({marks}) AND position > ({place})", (*kinds, consumer)

    def _prepare(self) -> None:
        try:
            version = self._begin()
        except sqlite3.DatabaseError as error:
            raise TwinError(
                f"the spool {self.path} cannot be opened ({error}): if it is damaged, move it away to begin anew; what "
                "waits in it is not delivered then",
                field="spool",
                value=str(self.path),
            ) from error
        if version not in (0, SPOOL_VERSION):
            raise TwinError(
                f"the spool {self.path} is of version {version} and this is version {SPOOL_VERSION}: let the version "
                "that wrote it deliver what it holds, then remove the file",
                field="spool",
                value=version,
            )
        self._by_consumer(self._register)

    def _begin(self) -> int:
        """Make the tables where there are none, and return the version of those that there were."""
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

    def _by_consumer(
        self, work: Callable[[sqlite3.Connection], None], synchronous: Literal["FULL", "NORMAL"] = "FULL"
    ) -> None:
        """Do `work` in a transaction; where the disk is full, in the room that is kept for it."""
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
        """All or nothing.  FULL: on the disk when it is left; NORMAL: a bit later, though at once safe from a kill."""
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
                with suppress(sqlite3.OperationalError):  # no room: the log stays, and the next commit tries again
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _full(self, what: str) -> SpoolFullError:
        return SpoolFullError(
            f"the spool {self.path} could not be written ({what}): make room on its disk, or bring back the sink that "
            "it waits for",
            field="spool",
            value=str(self.path),
        )

    def _select(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        with self._lock:
            return self._opened().execute(sql, values).fetchall()

    def _opened(self) -> sqlite3.Connection:
        """The connection, for use while `_lock` is held."""
        if self._connection is None:
            if self._owner.closed:
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
        with self._grown:
            self._appends += 1
            self._grown.notify_all()


def quarantined_in(path: Path) -> Sequence[Quarantined]:
    """Rows that were set aside in the spool `path`, also while another process has it."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        found = connection.execute(_SET_ASIDE).fetchall()
    return [Quarantined(*row) for row in found]


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _rows(batch: Batch) -> list[_EntryRow]:
    """What is kept of `batch`: kind, time, bytes, body."""
    now = time.time()
    rows = [(kind, now, len(body), body) for kind, body in bodies(batch)]
    if (size := _size(rows)) > MAX_BATCH_BYTES:
        raise TwinError(
            f"a batch of {len(rows)} rows takes {size} bytes and the spool takes {MAX_BATCH_BYTES} at once: append it "
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
    (position,) = connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()
    return int(position)


def _keep_states(connection: sqlite3.Connection, owner: str, states: Mapping[str, bytes]) -> None:
    connection.executemany(
        "INSERT INTO states VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body",
        [(owner, name, body) for name, body in states.items()],
    )


def _move(connection: sqlite3.Connection, consumer: str, position: int) -> None:
    connection.execute("UPDATE consumers SET position = max(position, ?) WHERE name = ?", (position, consumer))
    _forget_what_everybody_has(connection)


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
