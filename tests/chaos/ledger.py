"""Append-only log of the readings that a producer offered to its spool and of the spool's responses.

It has one line for each event: offered readings, the response, and the initial states of the batteries.  Each line is
synced before the producer continues; a line that a kill truncated is ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import orjson

from telemetry.batch import Batch, Row
from telemetry.spool.entries import decode_entry, encode_rows
from telemetry.spool.spool import Spool, SpoolFullError

#: Battery and time, the unique key of a reading.
Key = tuple[str, datetime]


class Ledger:
    """Writer of the ledger in the file `path`."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        self._write(b"started")

    def offered(self, readings: Sequence[Row]) -> None:
        """Record that `readings` are about to be appended to the spool."""
        self._write(b"offered", b"[" + b",".join(body for _, body in encode_rows(Batch(readings=readings))) + b"]")

    def acknowledged(self) -> None:
        """Record that the spool has acknowledged the last offered readings."""
        self._write(b"acknowledged")

    def refused(self) -> None:
        """Record that the spool has refused the last offered readings."""
        self._write(b"refused")

    def initial_states(self, states: Mapping[str, bytes]) -> None:
        """Record the states of batteries before their first offered reading."""
        self._write(b"states", orjson.dumps({name: state.decode() for name, state in states.items()}))

    def _write(self, kind: bytes, body: bytes = b"") -> None:
        # The leading newline ends a line that a kill may have truncated.
        os.write(self._descriptor, b"\n" + kind + b" " + body + b"\n")
        os.fsync(self._descriptor)


class LedgerSpool(Spool):
    """A spool that records its responses in a ledger."""

    def __init__(self, path: Path, *arguments: object, ledger: Ledger, **options: object) -> None:
        self._ledger = ledger
        super().__init__(path, *arguments, **options)  # type: ignore[arg-type]

    def append(self, batch: Batch, **more: object) -> int:
        """As `Spool.append`."""
        self._ledger.offered(batch.readings)
        try:
            offset = super().append(batch, **more)  # type: ignore[arg-type]
        except SpoolFullError:
            self._ledger.refused()
            raise
        self._ledger.acknowledged()
        return offset

    def advance(self, consumer: str, offset: int, **more: object) -> None:
        """As `Spool.advance`; states committed at offset 0 are the initial states."""
        if offset == 0:
            self._ledger.initial_states(more["states"])  # type: ignore[arg-type]
        super().advance(consumer, offset, **more)  # type: ignore[arg-type]


class EarlyAcknowledgingSpool(LedgerSpool):
    """The negative control: acknowledges a batch in memory and writes it only when the next one is appended."""

    def __init__(self, path: Path, *arguments: object, ledger: Ledger, **options: object) -> None:
        super().__init__(path, *arguments, ledger=ledger, **options)
        self._unwritten: tuple[Batch, Mapping[str, object]] | None = None

    def append(self, batch: Batch, **more: object) -> int:
        """Write the previous batch, and acknowledge this one."""
        self._ledger.offered(batch.readings)
        self._ledger.acknowledged()
        previous, self._unwritten = self._unwritten, (batch, more)
        return 0 if previous is None else Spool.append(self, previous[0], **previous[1])  # type: ignore[arg-type]


@dataclass
class LedgerSummary:
    """Content of a ledger.

    Attributes:
        acknowledged: readings that the spool acknowledged.
        refused: readings that the spool refused because it was full.
        unconfirmed: readings without a response, because the producer was killed: they may be stored or not.
        states: by battery, the state before its first reading, if it had one.
    """

    acknowledged: dict[Key, Row] = field(default_factory=dict)
    refused: dict[Key, Row] = field(default_factory=dict)
    unconfirmed: dict[Key, Row] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)


def read_ledger(path: Path) -> LedgerSummary:
    """Read the ledger `path`."""
    summary = LedgerSummary()
    offered: dict[Key, Row] = {}
    for kind, body in _lines(path):
        if kind == b"offered":
            summary.unconfirmed |= offered
            offered = {key_of(row): row for row in _readings(body)}
        elif kind == b"acknowledged":
            summary.acknowledged |= offered
            offered = {}
        elif kind == b"refused":
            summary.refused |= offered
            offered = {}
        elif kind == b"states":
            summary.states |= orjson.loads(body)
    summary.unconfirmed |= offered
    return summary


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
    except orjson.JSONDecodeError:  # truncated by a kill, so nothing was appended to the spool
        return []
    return [decode_entry(0, "reading", orjson.dumps(row)).row for row in rows]
