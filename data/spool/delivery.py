"""From the spool to one sink, on a thread of its own: a sink that is away holds up nobody."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence

from data.errors import TwinError
from data.sinks.base import Sink, SinkError, SinkRefusedError
from data.spool.entries import Entry, batch_of
from data.spool.spool import Spool

logger = logging.getLogger(__name__)

BATCH_ROWS = 2000
#: Waits between attempts at a sink that is away double from the first to the last.
FIRST_RETRY_S, LAST_RETRY_S = 0.25, 10.0
_IDLE_S = 1.0


class Delivery:
    """Hands the rows of one consumer to `sink` in order, at least once each, until it is stopped.

    The cursor moves when the sink has acknowledged.  A batch that the sink refuses is halved until the rows at
    fault stand alone; those are set aside with the sink's reason, and the rest goes on.

    Attributes:
        delivered: rows that the sink has acknowledged.
        failures: attempts that have to be repeated.
        refused: rows set aside.
        last_error: the sentence of the newest failure or refusal; None after a success.
    """

    def __init__(self, spool: Spool, consumer: str, sink: Sink) -> None:
        self.consumer = consumer
        self.sink = sink
        self.delivered = 0
        self.failures = 0
        self.refused = 0
        self.last_error: str | None = None
        self._spool = spool
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"spool-{consumer}", daemon=True)

    def start(self) -> None:
        """Begin; the sink is made ready by the thread, again and again while it is away."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Stop after the batch at hand and close the sink; False if it took longer than `timeout_s`."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self.sink.close()
        return True

    @property
    def is_drained(self) -> bool:
        """True when nothing waits for this sink."""
        return self._spool.depth(self.consumer).entries == 0

    def _run(self) -> None:
        is_ready = False
        while not self._stopping.is_set():
            try:
                is_ready = is_ready or self._attempt(self.sink.setup)
                entries = self._spool.read(self.consumer, BATCH_ROWS) if is_ready else []
                if entries:
                    self._deliver(entries)
                else:
                    self._spool.wait(_IDLE_S)
            except Exception as error:  # of a kind that nobody foresaw: the rows are still there, so go on
                logger.exception("%s: a delivery failed", self.consumer)
                self.failures += 1
                self.last_error = f"{type(error).__name__}: {error}"
                self._stopping.wait(LAST_RETRY_S)

    def _deliver(self, entries: Sequence[Entry]) -> None:
        """Deliver `entries` and move the cursor behind them; returns early only when stopping."""

        def write() -> None:
            self.sink.write(batch_of(entries))
            self.sink.flush()

        try:
            acknowledged = self._attempt(write)
        except SinkRefusedError as error:
            if len(entries) > 1:
                half = len(entries) // 2
                self._deliver(entries[:half])
                if not self._stopping.is_set():
                    self._deliver(entries[half:])
                return
            self._spool.set_aside(self.consumer, entries[0], str(error))
            self.refused += 1
            self.last_error = str(error)
            logger.error("%s does not take a %s: %s", self.consumer, entries[0].kind, error)
            return
        if acknowledged:
            self._spool.advance(self.consumer, entries[-1].position)
            self.delivered += len(entries)
            self.last_error = None

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
