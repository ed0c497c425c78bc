"""A queue in front of a sink: what a sink does not take is kept in memory and written again."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from data.batch import Batch, merge
from data.sinks.base import Sink, SinkRefusedError, SinkUnavailableError

_MERGED_BATCHES = 100


class Outbox:
    """Delivers batches to one sink in order, from a thread of its own, so that a slow sink holds up nobody.

    Attributes:
        failures: deliveries that had to be repeated.
        refused_readings: readings that the sink will never take; they are lost, and counted here.
        last_error: the sentence of the newest failure.
    """

    def __init__(self, name: str, sink: Sink, retry_s: float = 0.5) -> None:
        self.name = name
        self.sink = sink
        self.failures = 0
        self.refused_readings = 0
        self.last_error: str | None = None
        self._retry_s = retry_s
        self._waiting: deque[Batch] = deque()
        self._changed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def waiting_readings(self) -> int:
        """Readings that the sink has not acknowledged yet."""
        return sum(len(batch.readings) for batch in self._waiting)

    def put(self, batch: Batch) -> None:
        """Take over `batch`; returns at once."""
        self._waiting.append(batch)
        self._empty.clear()
        self._changed.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        with ThreadPoolExecutor(1, thread_name_prefix=f"sink-{self.name}") as thread:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._deliver_waiting(thread)

    async def drain(self, timeout_s: float) -> bool:
        """Wait until all is delivered (or refused); False if `timeout_s` was not enough."""
        try:
            await asyncio.wait_for(self._empty.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def _deliver_waiting(self, thread: ThreadPoolExecutor) -> None:
        at_once = _MERGED_BATCHES
        while self._waiting:
            count = min(at_once, len(self._waiting))
            batch = merge(self._waiting[index] for index in range(count))
            try:
                await asyncio.get_running_loop().run_in_executor(thread, self._deliver, batch)
            except SinkUnavailableError as error:
                self.failures += 1
                self.last_error = str(error)
                await asyncio.sleep(self._retry_s)
                continue
            except SinkRefusedError as error:
                self.last_error = str(error)
                if count > 1:
                    at_once = 1  # find the bad one; its neighbours are delivered
                    continue
                self.refused_readings += len(batch.readings)
            for _ in range(count):
                self._waiting.popleft()
        self._empty.set()

    def _deliver(self, batch: Batch) -> None:
        self.sink.write(batch)
        self.sink.flush()
