"""What a producer was told of each of its readings, on the disk outside of whatever is killed.

One line for each thing that happened: readings that were offered to the spool, its answer, and the states that
batteries began with.  A line is on the disk before the producer goes on, and one that a kill cut short says nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import orjson

from telemetry.batch import Batch, Row
from telemetry.spool.entries import bodies, entry
from telemetry.spool.spool import Spool, SpoolFullError

#: What tells a reading from every other one.
Key = tuple[str, datetime]


class Ledger:
    """Adds to the ledger in the file `path`."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        self._write(b"began")

    def offered(self, readings: Sequence[Row]) -> None:
        """`readings` are about to be handed to the spool."""
        self._write(b"offered", b"[" + b",".join(body for _, body in bodies(Batch(readings=readings))) + b"]")

    def taken(self) -> None:
        """The spool has acknowledged what was offered last."""
        self._write(b"taken")

    def refused(self) -> None:
        """The spool has refused what was offered last."""
        self._write(b"refused")

    def began_with(self, states: Mapping[str, bytes]) -> None:
        """The batteries of `states` have these before the first reading that is offered."""
        self._write(b"states", orjson.dumps({name: state.decode() for name, state in states.items()}))

    def _write(self, kind: bytes, body: bytes = b"") -> None:
        # A line of its own even after one that was cut short.
        os.write(self._descriptor, b"\n" + kind + b" " + body + b"\n")
        os.fsync(self._descriptor)


class LedgerSpool(Spool):
    """A spool whose producer keeps a ledger."""

    def __init__(self, path: Path, *arguments: object, ledger: Ledger, **options: object) -> None:
        self._ledger = ledger
        super().__init__(path, *arguments, **options)  # type: ignore[arg-type]

    def append(self, batch: Batch, **more: object) -> int:
        """As `Spool.append`."""
        self._ledger.offered(batch.readings)
        try:
            position = super().append(batch, **more)  # type: ignore[arg-type]
        except SpoolFullError:
            self._ledger.refused()
            raise
        self._ledger.taken()
        return position

    def advance(self, consumer: str, position: int, **more: object) -> None:
        """As `Spool.advance`; what is kept at position 0 is what batteries begin with."""
        if position == 0:
            self._ledger.began_with(more["states"])  # type: ignore[arg-type]
        super().advance(consumer, position, **more)  # type: ignore[arg-type]


class HastySpool(LedgerSpool):
    """The negative control: acknowledges a batch when it has it in memory, and writes it when the next one comes."""

    def __init__(self, path: Path, *arguments: object, ledger: Ledger, **options: object) -> None:
        super().__init__(path, *arguments, ledger=ledger, **options)
        self._unwritten: tuple[Batch, Mapping[str, object]] | None = None

    def append(self, batch: Batch, **more: object) -> int:
        """Write the batch before, and acknowledge this one."""
        self._ledger.offered(batch.readings)
        self._ledger.taken()
        before, self._unwritten = self._unwritten, (batch, more)
        return 0 if before is None else Spool.append(self, before[0], **before[1])  # type: ignore[arg-type]


@dataclass
class Account:
    """What a ledger says.

    Attributes:
        taken: readings that were acknowledged.
        refused: readings whose producer was told that there is no room for them.
        doubtful: readings on which the producer was killed before it had an answer: they may be kept or not.
        states: by battery, the state before its first reading, where it has one.
    """

    taken: dict[Key, Row] = field(default_factory=dict)
    refused: dict[Key, Row] = field(default_factory=dict)
    doubtful: dict[Key, Row] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)


def read_ledger(path: Path) -> Account:
    """Everything that happened according to the ledger `path`."""
    account = Account()
    offered: dict[Key, Row] = {}
    for kind, body in _lines(path):
        if kind == b"offered":
            account.doubtful |= offered
            offered = {key_of(row): row for row in _readings(body)}
        elif kind == b"taken":
            account.taken |= offered
            offered = {}
        elif kind == b"refused":
            account.refused |= offered
            offered = {}
        elif kind == b"states":
            account.states |= orjson.loads(body)
    account.doubtful |= offered
    return account


def key_of(row: Row) -> Key:
    """Battery and time of a reading."""
    return str(row["battery_id"]), row["time"]  # type: ignore[return-value]


def _lines(path: Path) -> Iterator[tuple[bytes, bytes]]:
    for line in path.read_bytes().split(b"\n"):
        if line:
            kind, _, body = line.partition(b" ")
            yield kind, body


def _readings(body: bytes) -> list[Row]:
    try:
        rows = orjson.loads(body)
    except orjson.JSONDecodeError:  # cut short by a kill, so that nothing was handed over
        return []
    return [entry(0, "reading", orjson.dumps(row)).row for row in rows]
