"""Spool: order, durable cursors, space limits, crash safety and recovery of torn logs."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from telemetry.batch import Batch, RowKind
from telemetry.errors import TwinError
from telemetry.spool.spool import MAX_BATCH_BYTES, MIN_BYTES, Spool, SpoolFullError, read_quarantined
from tests.chaos.small_disk import small_disk
from tests.telemetry.spool.rows import CONSUMERS, prediction, reading

ROOT = Path(__file__).resolve().parents[3]


def numbers(spool: Spool, consumer: str, limit: int = 10_000) -> list[int]:
    """Undelivered rows of `consumer`, by the number passed to `reading` and `prediction`."""
    return [
        int(str(entry.row["current" if entry.kind == "reading" else "value"]).split(".")[0])
        for entry in spool.read(consumer, limit)
    ]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.db", CONSUMERS, max_bytes=MIN_BYTES)
    yield spool
    spool.close()


def test_row_round_trip_drops_missing_values(spool: Spool) -> None:
    spool.append(Batch(readings=[reading(1, soc=math.nan, is_charging=True, ambient_temperature=None)]))
    (entry,) = spool.read("mqtt")
    assert entry.kind == "reading"
    assert entry.row == reading(1, is_charging=True)


def test_each_consumer_has_its_own_cursor(spool: Spool) -> None:
    spool.append(Batch(readings=[reading(n) for n in range(5)]))
    spool.advance("mqtt", spool.read("mqtt", 3)[-1].offset)
    assert numbers(spool, "mqtt") == [3, 4]
    assert numbers(spool, "store") == [0, 1, 2, 3, 4]
    assert (spool.depth("mqtt").readings, spool.depth("store").readings) == (2, 5)


def test_cursor_survives_a_restart_and_never_moves_back(spool: Spool) -> None:
    last = spool.append(Batch(readings=[reading(n) for n in range(5)]))
    spool.advance("mqtt", last - 1)
    spool.advance("mqtt", 1)
    spool.close()
    again = Spool(spool.path, CONSUMERS, max_bytes=MIN_BYTES)
    assert numbers(again, "mqtt") == [4]
    assert again.append(Batch(readings=[reading(5)])) > last
    again.close()


def test_cursor_output_and_states_are_committed_atomically(spool: Spool) -> None:
    last = spool.append(Batch(readings=[reading(0)]))
    with pytest.raises(AttributeError):
        spool.advance("mqtt", last, append=Batch(predictions=[None]), states={"EV-1": b"one"})  # type: ignore[list-item]
    assert numbers(spool, "mqtt") == [0]
    assert spool.states("mqtt") == {}
    spool.advance("mqtt", last, append=Batch(predictions=[prediction(7)]), states={"EV-1": b"one"})
    assert numbers(spool, "mqtt") == []
    assert numbers(spool, "store") == [0, 7]
    assert spool.states("mqtt") == {"EV-1": b"one"}


def test_cursor_of_a_removed_consumer_is_deleted_and_its_undelivered_rows_counted(spool: Spool) -> None:
    spool.append(Batch(readings=[reading(0), reading(1)]))
    spool.advance("store", 2)
    spool.close()
    again = Spool(spool.path, {"store": CONSUMERS["store"], "kafka": ("reading",)}, max_bytes=MIN_BYTES)
    assert again.removed_consumers == {"mqtt": 2}
    assert numbers(again, "store") == []
    assert numbers(again, "kafka") == [0, 1]  # a new consumer begins with the oldest stored row
    again.close()


def test_refused_row_is_quarantined_with_its_reason(spool: Spool) -> None:
    spool.append(Batch(readings=[reading(0), reading(1)]))
    spool.quarantine("store", spool.read("store")[0], "too hot")
    assert numbers(spool, "store") == [1]
    (quarantined,) = read_quarantined(spool.path)
    assert (quarantined.consumer, quarantined.kind, quarantined.reason) == ("store", "reading", "too hot")


def test_second_process_is_refused(spool: Spool) -> None:
    with pytest.raises(TwinError, match="in use by another process"):
        Spool(spool.path, CONSUMERS, max_bytes=MIN_BYTES)


def test_file_of_another_version_is_refused(spool: Spool) -> None:
    spool.close()
    with sqlite3.connect(spool.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(TwinError, match="version 99"):
        Spool(spool.path, CONSUMERS, max_bytes=MIN_BYTES)


def test_file_of_version_1_opens(tmp_path: Path) -> None:
    """Table and column names are persisted in existing files and must not change."""
    path = tmp_path / "spool.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """
            CREATE TABLE entries (position INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL,
                appended_at REAL NOT NULL, bytes INTEGER NOT NULL, body BLOB NOT NULL);
            CREATE INDEX entries_by_kind ON entries (kind, position, bytes);
            CREATE TABLE consumers (name TEXT NOT NULL, kind TEXT NOT NULL, position INTEGER NOT NULL,
                PRIMARY KEY (name, kind));
            CREATE TABLE states (consumer TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL,
                PRIMARY KEY (consumer, name));
            CREATE TABLE set_aside (consumer TEXT NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL,
                reason TEXT NOT NULL, at REAL NOT NULL);
            INSERT INTO entries (kind, appended_at, bytes, body) VALUES
                ('reading', 1.0, 2, CAST('{"current":1}' AS BLOB)), ('reading', 2.0, 2, CAST('{"current":2}' AS BLOB));
            INSERT INTO consumers VALUES ('store', 'reading', 1), ('mqtt', 'reading', 0);
            INSERT INTO states VALUES ('mqtt', 'EV-1', CAST('state' AS BLOB));
            INSERT INTO set_aside VALUES ('store', 'reading', CAST('{}' AS BLOB), 'refused', 3.0);
            PRAGMA user_version = 1;
            """
        )
    connection.close()
    spool = Spool(path, CONSUMERS, max_bytes=MIN_BYTES)
    assert (numbers(spool, "store"), numbers(spool, "mqtt")) == ([2], [1, 2])
    assert spool.states("mqtt") == {"EV-1": b"state"}
    assert [row.reason for row in spool.quarantined()] == ["refused"]
    spool.close()


def test_too_little_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TwinError, match="spool_max_bytes"):
        Spool(tmp_path / "spool.db", CONSUMERS, max_bytes=MIN_BYTES - 1)


def test_full_spool_refuses_readings_and_evicts_nothing(spool: Spool) -> None:
    accepted = fill(spool)
    files = sum(file.stat().st_size for file in spool.path.parent.glob("spool.db*"))
    assert files <= MIN_BYTES
    assert spool.depth("store").readings == spool.depth("mqtt").readings == accepted
    # A consumer may still append its output, and its advancing cursor frees space.
    spool.advance("mqtt", spool.read("mqtt", 2000)[-1].offset, append=Batch(predictions=[prediction(1)] * 500))
    spool.advance("store", spool.read("store", accepted)[-1].offset)
    spool.append(Batch(readings=[reading(accepted)]))
    waiting = numbers(spool, "mqtt", accepted)
    assert (waiting[0], waiting[-1], len(waiting)) == (2000, accepted, accepted - 1999)


def fill(spool: Spool, rows: int = 2000) -> int:
    accepted = 0
    while True:
        try:
            spool.append(Batch(readings=[reading(accepted + n) for n in range(rows)]))
        except SpoolFullError:
            return accepted
        accepted += rows


def test_reading_is_refused_when_the_disk_is_full(spool: Spool) -> None:
    spool.append(Batch(readings=[reading(0)]))
    limit_pages(spool)
    with pytest.raises(SpoolFullError, match="free disk space"):
        spool.append(Batch(readings=[reading(n) for n in range(10_000)]))
    assert numbers(spool, "store") == [0]


@pytest.fixture
def disk() -> Iterator[Path]:
    """A file system of 24 MiB; not in pytest's temporary folder, which pytest would try to empty."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            stack.enter_context(small_disk(folder, "24m"))
        except PermissionError as error:
            pytest.skip(str(error))
        yield folder


def test_full_disk_loses_no_stored_rows_and_lets_consumers_free_space(disk: Path) -> None:
    path = disk / "spool.db"
    spool = Spool(path, CONSUMERS, max_bytes=4 * MIN_BYTES)
    stored = fill(spool)
    assert stored > 10_000
    with pytest.raises(SpoolFullError, match="free disk space"):
        spool.append(Batch(readings=[reading(stored + n) for n in range(2000)]))
    assert numbers(spool, "store", 10**6) == list(range(stored))
    spool.close()
    assert shutil.disk_usage(disk).free < 2**20
    # The same after a restart: consumers advance by means of the disk reserve, and producers can append again.
    again = Spool(path, CONSUMERS, max_bytes=4 * MIN_BYTES)
    assert numbers(again, "store", 10**6) == list(range(stored))
    for consumer in CONSUMERS:
        while entries := again.read(consumer, 2000):
            again.advance(consumer, entries[-1].offset)
    again.append(Batch(readings=[reading(stored)]))
    assert numbers(again, "mqtt") == [stored]
    again.close()


def limit_pages(spool: Spool) -> None:
    """Simulates a full disk: SQLite reports both with the same error."""
    connection = spool._opened()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")


def test_too_large_batch_is_refused_with_advice(spool: Spool) -> None:
    with pytest.raises(TwinError, match="append it in parts"):
        spool.append(Batch(readings=[reading(n) for n in range(MAX_BATCH_BYTES // 100)]))
    assert numbers(spool, "store") == []


def test_producer_state_is_committed_with_its_batch(spool: Spool) -> None:
    spool.append(Batch(readings=[reading(0)]), producer="car", states={"time": b"now"})
    assert spool.states("car") == {"time": b"now"}
    limit_pages(spool)
    with pytest.raises(SpoolFullError):
        spool.append(Batch(readings=[reading(n) for n in range(10_000)]), producer="car", states={"time": b"later"})
    assert spool.states("car") == {"time": b"now"}


def test_damaged_file_is_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    path.write_bytes(b"not a database " * 1000)
    with pytest.raises(TwinError, match="move it away"):
        Spool(path, CONSUMERS, max_bytes=MIN_BYTES)


def test_reads_from_many_threads_open_no_further_files(spool: Spool) -> None:
    """Each scrape of the metrics runs in a new thread."""
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    spool.append(Batch(readings=[reading(0)]))
    for _ in range(20):
        thread = threading.Thread(target=spool.depth, args=("store",))
        thread.start()
        thread.join()
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_files + 2
    depth = spool.depth("store")
    assert (depth.entries, depth.readings) == (1, 1)
    assert 50 < depth.bytes < 300
    assert 0 <= depth.oldest_s < 60


def test_producers_and_consumers_in_many_threads(spool: Spool) -> None:
    """Every row is delivered once and in order, and the files stay within the limit."""
    delivered: dict[str, list[int]] = {consumer: [] for consumer in CONSUMERS}
    largest = 0

    def consume(consumer: str) -> None:
        while len(delivered[consumer]) < 4 * 300 * 5:
            appends = spool.appends
            if entries := spool.read(consumer, 500):
                delivered[consumer] += [int(str(entry.row["current"]).split(".")[0]) for entry in entries]
                spool.advance(consumer, entries[-1].offset)
            else:
                spool.wait(appends, 1.0)

    def produce(first: int) -> None:
        for number in range(300):
            spool.append(Batch(readings=[reading(first + 5 * number + n) for n in range(5)]))

    threads = [threading.Thread(target=consume, args=(consumer,)) for consumer in CONSUMERS]
    threads += [threading.Thread(target=produce, args=(10_000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.01)
            largest = max(largest, sum(file.stat().st_size for file in spool.path.parent.glob("spool.db*")))
    assert largest <= MIN_BYTES
    for consumed in delivered.values():
        for first in range(0, 40_000, 10_000):
            of_producer = [number for number in consumed if first <= number < first + 10_000]
            assert of_producer == list(range(first, first + 1500))
    assert all(spool.is_drained(consumer) for consumer in CONSUMERS)


class Cursors(RuleBasedStateMachine):
    """State machine that compares the spool with a list and one index per consumer."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[RowKind, int]] = []
        self.cursors = dict.fromkeys(CONSUMERS, 0)
        self.states: dict[str, bytes] = {}
        self.folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"spool-{os.getpid()}-{random.random()}"  # noqa: S108
        self.spool: Spool | None = None

    @initialize()
    def open(self) -> None:
        self.spool = Spool(self.folder / "spool.db", CONSUMERS, max_bytes=MIN_BYTES)

    @rule(count=st.integers(0, 4), predictions=st.integers(0, 2))
    def append(self, count: int, predictions: int) -> None:
        assert self.spool is not None
        first = len(self.log)
        kinds: list[RowKind] = ["reading"] * count + ["prediction"] * predictions
        self.log += [(kind, first + n) for n, kind in enumerate(kinds)]
        batch = Batch(
            readings=[reading(first + n) for n in range(count)],
            predictions=[prediction(first + count + n) for n in range(predictions)],
        )
        assert self.spool.append(batch) == len(self.log)

    @rule(consumer=st.sampled_from(sorted(CONSUMERS)), count=st.integers(1, 5))
    def consume(self, consumer: str, count: int) -> None:
        assert self.spool is not None
        entries = self.spool.read(consumer, count)
        assert [entry.offset for entry in entries] == [n + 1 for n in self.waiting(consumer)[:count]]
        if entries:
            self.spool.advance(consumer, entries[-1].offset)
            self.cursors[consumer] = entries[-1].offset

    @rule(limit=st.integers(1, 5))
    def append_output(self, limit: int) -> None:
        """As the prediction consumer: output, states and cursor are committed together."""
        assert self.spool is not None
        if entries := self.spool.read("mqtt", limit):
            first = len(self.log)
            output = Batch(predictions=[prediction(first + n) for n in range(len(entries))])
            self.log += [("prediction", first + n) for n in range(len(entries))]
            self.cursors["mqtt"] = entries[-1].offset
            self.states["newest"] = str(first).encode()
            self.spool.advance("mqtt", entries[-1].offset, append=output, states=self.states)

    @rule()
    def restart(self) -> None:
        assert self.spool is not None
        self.spool.close()
        self.open()

    @invariant()
    def nothing_is_lost_or_duplicated(self) -> None:
        if self.spool is not None:
            for consumer in CONSUMERS:
                waiting = self.waiting(consumer)
                assert numbers(self.spool, consumer) == waiting
                assert self.spool.depth(consumer).entries == len(waiting)
                assert self.spool.is_drained(consumer) == (not waiting)
            assert self.spool.states("mqtt") == self.states

    def waiting(self, consumer: str) -> list[int]:
        kinds = CONSUMERS[consumer]
        return [number for kind, number in self.log[self.cursors[consumer] :] if kind in kinds]

    def teardown(self) -> None:
        if self.spool is not None:
            self.spool.close()
        shutil.rmtree(self.folder, ignore_errors=True)


TestCursors = Cursors.TestCase
TestCursors.settings = settings(max_examples=25, stateful_step_count=20, deadline=None, derandomize=True)


PRODUCER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from telemetry.batch import Batch, RowKind
from telemetry.spool.spool import MIN_BYTES, Spool
from tests.telemetry.spool.rows import CONSUMERS, prediction, reading

spool = Spool(Path(sys.argv[1]), CONSUMERS, max_bytes=MIN_BYTES)
number = int(sys.argv[3])
while True:
    spool.append(Batch(readings=[reading(number), reading(number + 1)]))
    number += 2
    print(number, flush=True)
    for entry in spool.read("mqtt", 1):
        done = int(entry.row["current"])
        output = Batch(predictions=[prediction(done)])
        spool.advance("mqtt", entry.offset, append=output, states={"done": b"%d" % done})
"""


def test_sigkill_loses_and_duplicates_no_row(tmp_path: Path) -> None:
    path, acknowledged, rng = tmp_path / "spool.db", 0, random.Random(7)
    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", PRODUCER, str(path), str(ROOT), str(acknowledged)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert child.stdout is not None
        for _ in range(rng.randrange(1, 40)):
            acknowledged = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split(b"\n")[:-1]  # an incomplete line acknowledges nothing
        child.stdout.close()
        child.wait()
        acknowledged = int(rest[-1]) if rest else acknowledged
        spool = Spool(path, CONSUMERS, max_bytes=MIN_BYTES)
        stored = [int(str(e.row["current"]).split(".")[0]) for e in spool.read("store", 10**6) if e.kind == "reading"]
        # Complete pairs, possibly with one that was on the disk before it was acknowledged.
        assert stored == list(range(len(stored)))
        assert len(stored) in (acknowledged, acknowledged + 2)
        acknowledged = len(stored)
        done = int(spool.states("mqtt").get("done", b"-1"))
        predicted = [int(str(e.row["value"]).split(".")[0]) for e in spool.read("store", 10**6) if e.kind != "reading"]
        assert predicted == list(range(done + 1))
        assert numbers(spool, "mqtt", 10**6) == list(range(done + 1, acknowledged))
        spool.close()


def test_torn_log_is_recovered_to_the_last_complete_transaction(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", CONSUMERS, max_bytes=MIN_BYTES)
    log = tmp_path / "spool.db-wal"
    sizes = []
    for number in range(4):
        spool.append(Batch(readings=[reading(number)]))
        sizes.append(log.stat().st_size)
    frozen = tmp_path / "frozen"
    frozen.mkdir()
    for file in ("spool.db", "spool.db-wal"):
        shutil.copy(tmp_path / file, frozen / file)
    spool.close()
    whole = (frozen / "spool.db-wal").read_bytes()
    # Every byte near a transaction boundary, and some in between.
    cuts = {size + offset for size in sizes for offset in (-2, -1, 0, 1)} | set(range(sizes[0], sizes[-1], 997))
    for number, cut in enumerate(sorted(cuts & set(range(len(whole) + 1)))):
        torn = whole[:cut] + (bytes(len(whole) - cut) if number % 2 else b"")
        assert recovered(frozen, torn, tmp_path / "torn") == list(range(sum(size <= cut for size in sizes))), cut
    garbled = bytearray(whole)
    garbled[sizes[2] + 500] ^= 0xFF
    assert recovered(frozen, bytes(garbled), tmp_path / "torn") == [0, 1, 2]


def test_log_torn_or_corrupted_at_any_byte_of_the_last_transaction(tmp_path: Path) -> None:
    """With SQLite only, in memory: any of 4,000 bytes missing, zero or wrong leaves the previous transaction."""
    spool = Spool(tmp_path / "spool.db", CONSUMERS, max_bytes=MIN_BYTES)
    log = tmp_path / "spool.db-wal"
    spool.append(Batch(readings=[reading(0)]))
    before = log.stat().st_size
    spool.append(Batch(readings=[reading(1)]))
    database, whole = (tmp_path / "spool.db").read_bytes(), log.read_bytes()
    spool.close()
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path  # noqa: S108 - nothing secret
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        torn = Path(folder) / "torn.db"
        assert positions(torn, database, whole) == [1, 2]
        last_frame = len(whole) - (4096 + 24)
        for cut in range(last_frame, len(whole)):
            kind = cut % 3
            tail = whole[:cut] if kind == 0 else whole[:cut] + bytes(len(whole) - cut)
            if kind == 2:
                tail = whole[:cut] + bytes([whole[cut] ^ 0xFF]) + whole[cut + 1 :]
            # Where the rest is zero already, zeros change nothing.
            expected = [1, 2] if tail == whole else [1]
            assert positions(torn, database, tail) == expected, cut
        assert before < last_frame


def positions(path: Path, database: bytes, log: bytes) -> list[int]:
    path.write_bytes(database)
    path.with_name(f"{path.name}-wal").write_bytes(log)
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # needs no shared memory, the most expensive part
        return [position for (position,) in connection.execute("SELECT position FROM entries ORDER BY position")]
    finally:
        connection.close()
        for part in ("-wal", "-shm"):
            path.with_name(f"{path.name}{part}").unlink(missing_ok=True)


def recovered(frozen: Path, log: bytes, folder: Path) -> list[int]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(frozen / "spool.db", folder / "spool.db")
    (folder / "spool.db-wal").write_bytes(log)
    spool = Spool(folder / "spool.db", CONSUMERS, max_bytes=MIN_BYTES)
    try:
        return numbers(spool, "store")
    finally:
        spool.close()
