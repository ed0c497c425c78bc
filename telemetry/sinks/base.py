"""What every destination of live telemetry offers."""

from __future__ import annotations

from typing import Protocol

from telemetry.batch import Batch, Kind
from telemetry.errors import TwinError


class SinkOffError(TwinError):
    """The settings name no destination of this kind; the sentence names the setting."""


class SinkError(RuntimeError):
    """A batch was not delivered; nothing may be taken as delivered since the last `flush` that returned."""


class SinkUnavailableError(SinkError):
    """The destination cannot be reached or did not answer: write the same batch again later."""


class SinkRefusedError(SinkError):
    """The destination will never take this batch as it is: writing it again is useless."""


class Sink(Protocol):
    """A destination of batches.

    Delivery is at least once: a batch counts as delivered when a `flush` after its `write` has returned.
    If either raises, the caller writes again everything since the last `flush` that returned.
    Calls block for a bounded time and are made from one thread at a time.

    Attributes:
        kinds: the rows that it has a place for; it is given no others.
        acknowledged: rows or messages that the destination has acknowledged so far, repeated ones included.
    """

    kinds: tuple[Kind, ...]
    acknowledged: int

    def setup(self) -> None:
        """Make the destination ready (connect, migrate); harmless when repeated."""
        ...

    def write(self, batch: Batch) -> None:
        """Take over `batch`; rows that this sink has no place for are ignored."""
        ...

    def flush(self) -> None:
        """Return when everything written is acknowledged by the destination."""
        ...

    def close(self) -> None:
        """Let go of connections; what was not flushed may be lost.  Harmless when repeated."""
        ...
