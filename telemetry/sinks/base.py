"""Sink protocol: interface and exceptions of every destination of live telemetry."""

from __future__ import annotations

from typing import Protocol

from telemetry.batch import Batch, RowKind
from telemetry.errors import TwinError


class SinkOffError(TwinError):
    """The settings configure no destination of this kind; the message names the setting."""


class SinkError(RuntimeError):
    """A batch was not delivered; nothing written since the last successful `flush` counts as delivered."""


class SinkUnavailableError(SinkError):
    """The destination is unavailable or timed out: retry the same batch later."""


class SinkRefusedError(SinkError):
    """The destination refused this batch permanently: retrying it is useless."""


class Sink(Protocol):
    """A destination of batches.

    Delivery is at least once: a batch counts as delivered when a `flush` after its `write` has returned.
    If either raises, the caller writes again everything since the last successful `flush`.
    Calls block for a bounded time and are made from one thread at a time.

    Attributes:
        kinds: the kinds of rows that it accepts; it is given no others.
        acknowledged: rows or messages that the destination has acknowledged so far, including duplicates.
    """

    kinds: tuple[RowKind, ...]
    acknowledged: int

    def setup(self) -> None:
        """Prepare the destination (connect, migrate); idempotent."""
        ...

    def write(self, batch: Batch) -> None:
        """Write `batch`; rows of other kinds are ignored."""
        ...

    def flush(self) -> None:
        """Return when the destination has acknowledged everything written."""
        ...

    def close(self) -> None:
        """Close connections; unflushed rows may be lost.  Idempotent."""
        ...
