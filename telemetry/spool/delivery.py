"""Delivers spooled rows to each consumer on its own thread with retries; an unavailable sink does not delay others."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from telemetry.backoff import backoff
from telemetry.batch import Batch
from telemetry.errors import TwinError
from telemetry.sinks.base import Sink, SinkError, SinkRefusedError
from telemetry.spool.entries import Entry, batch_of
from telemetry.spool.spool import Spool

logger = logging.getLogger(__name__)

BATCH_ROWS = 2000
#: Exponential backoff between attempts: from the first to the last.
FIRST_RETRY_S, LAST_RETRY_S = 0.25, 5.0
_IDLE_S = 1.0


@dataclass(frozen=True)
class WorkResult:
    """Output of a consumer, committed in one transaction with its cursor.

    Attributes:
        append: rows for the other consumers.
        states: by name, the consumer's state from which it resumes.
    """

    append: Batch | None = None
    states: Mapping[str, bytes] = field(default_factory=dict)


class Worker(Protocol):
    """Processes the rows of one consumer; errors are those of a sink, see `telemetry.sinks.base`."""

    def setup(self) -> None:
        """Prepare for rows; idempotent."""
        ...

    def handle(self, entries: Sequence[Entry]) -> WorkResult:
        """Process `entries`, at least once."""
        ...

    def committed(self, entries: Sequence[Entry], result: WorkResult) -> None:
        """Called when `result` is on the disk and `entries` will not be delivered again."""
        ...

    def close(self) -> None:
        """Release all resources; idempotent."""
        ...


class SinkWorker:
    """Writes rows to a sink."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    def setup(self) -> None:
        """Set up the sink."""
        self.sink.setup()

    def handle(self, entries: Sequence[Entry]) -> WorkResult:
        """Write `entries` and wait for the sink's acknowledgement."""
        self.sink.write(batch_of(entries))
        self.sink.flush()
        return WorkResult()

    def committed(self, entries: Sequence[Entry], result: WorkResult) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Close the sink."""
        self.sink.close()


class Delivery:
    """Delivers the rows of one consumer to `worker` in order, at least once, until it is stopped.

    The cursor advances when the worker has processed the rows.  A refused batch is halved until the invalid rows are
    isolated; these are quarantined with the reason, and the others are delivered.

    Attributes:
        delivered: delivered rows.
        failures: failed attempts, which are retried.
        refused: quarantined rows; `refused_readings` of them are readings.
        last_error: message of the newest failure or refusal; None after a success.
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
        """Start the thread, which sets up the worker and retries while its sink is unavailable."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Stop after the current batch and close the worker; False if it took longer than `timeout_s`."""
        self.stop_soon()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self._worker.close()
        return True

    def stop_soon(self) -> None:
        """Stop after the current batch, without waiting for it."""
        self._stopping.set()

    @property
    def is_drained(self) -> bool:
        """True when this consumer has no undelivered rows."""
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
            except Exception as error:  # unexpected: the rows are still in the spool, so retry
                logger.exception("%s: a delivery failed", self.consumer)
                self.failures += 1
                self.last_error = f"{type(error).__name__}: {error}"
                self._stopping.wait(LAST_RETRY_S)

    def _deliver(self, entries: Sequence[Entry]) -> None:
        """Deliver `entries` and advance the cursor past them; returns early only when stopping."""

        def work() -> None:
            result = self._worker.handle(entries)
            self._spool.advance(self.consumer, entries[-1].offset, append=result.append, states=result.states)
            self._worker.committed(entries, result)

        try:
            done = self._attempt(work)
        except SinkRefusedError as error:
            if len(entries) > 1:
                half = len(entries) // 2
                self._deliver(entries[:half])
                if not self._stopping.is_set():
                    self._deliver(entries[half:])
            else:
                self._quarantine(entries[0], str(error))
            return
        if done:
            self.delivered += len(entries)
            self.last_error = None

    def _quarantine(self, refused: Entry, reason: str) -> None:
        if self._attempt(lambda: self._spool.quarantine(self.consumer, refused, reason)):
            self.refused += 1
            self.refused_readings += refused.kind == "reading"
            self.last_error = reason
            logger.error("%s refused a %s, which is quarantined: %s", self.consumer, refused.kind, reason)

    def _attempt(self, call: Callable[[], None]) -> bool:
        """Retry `call` with backoff until it returns; False if stopped before.

        Raises:
            SinkRefusedError: retrying is useless.
        """
        pauses_s = backoff(FIRST_RETRY_S, LAST_RETRY_S)
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
                # Jitter, so that many deliveries do not retry a sink at the same time.
                self._stopping.wait(next(pauses_s) * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
            else:
                return True
        return False
