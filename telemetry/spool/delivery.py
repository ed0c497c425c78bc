"""What consumes a spool, each on a thread of its own: one that is away holds up nobody."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from telemetry.batch import Batch
from telemetry.errors import TwinError
from telemetry.sinks.base import Sink, SinkError, SinkRefusedError
from telemetry.spool.entries import Entry, batch_of
from telemetry.spool.spool import Spool

logger = logging.getLogger(__name__)

BATCH_ROWS = 2000
#: Waits between attempts at something that is away double from the first to the last.
FIRST_RETRY_S, LAST_RETRY_S = 0.25, 5.0
_IDLE_S = 1.0


@dataclass(frozen=True)
class Made:
    """What a consumer made of rows: kept in one step with its place behind them.

    Attributes:
        append: rows for the other consumers.
        states: by name, what it has to know to go on.
    """

    append: Batch | None = None
    states: Mapping[str, bytes] = field(default_factory=dict)


class Worker(Protocol):
    """What is done with the rows of one consumer; errors are those of a sink, see `telemetry.sinks.base`."""

    def setup(self) -> None:
        """Make ready; harmless when repeated."""
        ...

    def handle(self, entries: Sequence[Entry]) -> Made:
        """Deal with `entries`, perhaps not for the first time."""
        ...

    def kept(self, entries: Sequence[Entry], made: Made) -> None:
        """`made` is on the disk and `entries` will not come again."""
        ...

    def close(self) -> None:
        """Let go of everything; harmless when repeated."""
        ...


class SinkWorker:
    """Writes rows to a sink."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    def setup(self) -> None:
        """Make the sink ready."""
        self.sink.setup()

    def handle(self, entries: Sequence[Entry]) -> Made:
        """Write `entries` and wait for the sink's word that it has them."""
        self.sink.write(batch_of(entries))
        self.sink.flush()
        return Made()

    def kept(self, entries: Sequence[Entry], made: Made) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Close the sink."""
        self.sink.close()


class Delivery:
    """Hands the rows of one consumer to `worker` in order, at least once each, until it is stopped.

    The cursor moves when the worker has done its work.  A batch that it refuses is halved until the rows at
    fault stand alone; those are set aside with its reason, and the rest goes on.

    Attributes:
        delivered: rows that were dealt with.
        failures: attempts that have to be repeated.
        refused: rows set aside, and `refused_readings` of them readings.
        last_error: the sentence of the newest failure or refusal; None after a success.
    """

    def __init__(self, spool: Spool, consumer: str, worker: Worker, *, batch_rows: int = BATCH_ROWS) -> None:
        self.consumer = consumer
        self.delivered = 0
        self.failures = 0
        self.refused = 0
        self.refused_readings = 0
        self.last_error: str | None = None
        self._spool = spool
        self._worker = worker
        self._batch_rows = batch_rows
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"spool-{consumer}", daemon=True)

    def start(self) -> None:
        """Begin; the worker is made ready by the thread, again and again while it is away."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Stop after the batch at hand and close the worker; False if it took longer than `timeout_s`."""
        self.stop_soon()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self._worker.close()
        return True

    def stop_soon(self) -> None:
        """Stop after the batch at hand, without waiting for it."""
        self._stopping.set()

    @property
    def is_drained(self) -> bool:
        """True when nothing waits for this consumer."""
        return self._spool.is_drained(self.consumer)

    def _run(self) -> None:
        is_ready = False
        while not self._stopping.is_set():
            try:
                is_ready = is_ready or self._attempt(self._worker.setup)
                appends = self._spool.appends
                entries = self._spool.read(self.consumer, self._batch_rows) if is_ready else []
                if entries:
                    self._deliver(entries)
                else:
                    self._spool.wait(appends, _IDLE_S)
            except Exception as error:  # of a kind that nobody foresaw: the rows are still there, so go on
                logger.exception("%s: a delivery failed", self.consumer)
                self.failures += 1
                self.last_error = f"{type(error).__name__}: {error}"
                self._stopping.wait(LAST_RETRY_S)

    def _deliver(self, entries: Sequence[Entry]) -> None:
        """Deliver `entries` and move the cursor behind them; returns early only when stopping."""

        def work() -> None:
            made = self._worker.handle(entries)
            self._spool.advance(self.consumer, entries[-1].position, append=made.append, states=made.states)
            self._worker.kept(entries, made)

        try:
            done = self._attempt(work)
        except SinkRefusedError as error:
            if len(entries) > 1:
                half = len(entries) // 2
                self._deliver(entries[:half])
                if not self._stopping.is_set():
                    self._deliver(entries[half:])
            else:
                self._set_aside(entries[0], str(error))
            return
        if done:
            self.delivered += len(entries)
            self.last_error = None

    def _set_aside(self, refused: Entry, reason: str) -> None:
        if self._attempt(lambda: self._spool.set_aside(self.consumer, refused, reason)):
            self.refused += 1
            self.refused_readings += refused.kind == "reading"
            self.last_error = reason
            logger.error("%s does not take a %s: %s", self.consumer, refused.kind, reason)

    def _attempt(self, call: Callable[[], None]) -> bool:
        """Repeat `call` until it returns; False if told to stop before.

        Raises:
            SinkRefusedError: repeating it is useless.
        """
        wait_s = FIRST_RETRY_S
        while not self._stopping.is_set():
            try:
                call()
            except SinkRefusedError:
                raise
            except (SinkError, TwinError) as error:
                self.failures += 1
                if self.last_error != str(error):
                    logger.warning("%s: %s", self.consumer, error)
                self.last_error = str(error)
                # Spread, so that many deliveries do not come back to a sink at one moment.
                self._stopping.wait(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
                wait_s = min(2 * wait_s, LAST_RETRY_S)
            else:
                return True
        return False
