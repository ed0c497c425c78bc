"""The live loop: at every tick one reading of each battery, one prediction call, one row, one message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import perf_counter

from data.batch import Batch, Row, rows_of
from simulator.client import Answer, PredictionClient, PredictionError, prediction_rows
from simulator.live_battery import LiveBattery
from simulator.outbox import Outbox
from simulator.tally import Tally

HISTORY_CHUNK = 2000
#: Histories folded at once: more than the service has workers, so that it is never idle.
_HISTORIES_AT_ONCE = 2
#: Most readings that one call makes up for after an outage.
_READINGS_A_CALL = 2000


@dataclass
class LiveTwin:
    """One battery and what the service has said of it.

    Attributes:
        pending: readings that no successful call has carried yet.
    """

    battery: LiveBattery
    identity: Row
    state: str | None = None
    reading: Row | None = None
    answer: Answer | None = None
    pending: list[Row] = field(default_factory=list)
    call: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, battery: LiveBattery) -> LiveTwin:
        """The twin of `battery`, before any history."""
        return cls(battery, rows_of(battery.batteries_row())[0])

    @property
    def is_calling(self) -> bool:
        """True while a prediction call is under way."""
        return self.call is not None and not self.call.done()

    def take(self, reading: Row) -> None:
        """A new reading."""
        self.reading = reading
        self.pending.append(reading)

    def learn(self, answer: Answer) -> None:
        """A new answer of the service."""
        self.state = answer.state
        self.answer = answer


async def fold_histories(
    twins: Sequence[LiveTwin], client: PredictionClient, progress: Callable[[str, int, int], None]
) -> None:
    """Post every battery's past, so that it starts with the state that its life has given it.

    Args:
        progress: called with battery id, readings posted and readings in all.

    Raises:
        PredictionError: the service did not take a history.
    """
    places = asyncio.Semaphore(_HISTORIES_AT_ONCE)

    async def fold(twin: LiveTwin) -> None:
        async with places:
            readings = rows_of(twin.battery.history())
            for begin in range(0, len(readings), HISTORY_CHUNK):
                chunk = readings[begin : begin + HISTORY_CHUNK]
                twin.learn(await client.predict(twin.identity, chunk, twin.state))
                progress(twin.battery.battery_id, begin + len(chunk), len(readings))

    try:
        async with asyncio.TaskGroup() as group:
            for twin in twins:
                group.create_task(fold(twin))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the first ended the others


@dataclass
class LiveLoop:
    """Ticks at a fixed cadence of the monotonic clock; event time advances by `interval_s` x `speed` a tick.

    A tick that cannot start before the next one is due is counted as missed, and event time moves on without it.
    The calls of a tick run beside each other and beside the next ticks: a battery whose call is still under way,
    or has failed, posts all its waiting readings with the next one.

    Attributes:
        on_tick: called after every tick; it must be quick.
    """

    twins: Sequence[LiveTwin]
    client: PredictionClient
    outboxes: Mapping[str, Outbox]
    start: datetime
    interval_s: float
    speed: float
    tally: Tally = field(default_factory=Tally)
    on_tick: Callable[[], None] = lambda: None

    async def run(self, stop: asyncio.Event, for_s: float | None = None) -> None:
        """Tick until `stop` is set or `for_s` seconds have passed."""
        self._publish(Batch(batteries=[twin.identity for twin in self.twins]))
        clock = asyncio.get_running_loop().time
        began, tick = clock(), 0
        while for_s is None or tick * self.interval_s < for_s:
            due = began + tick * self.interval_s
            if await _set_within(stop, due - clock()):
                return
            missed = max(int((clock() - due) / self.interval_s), 0)
            self.tally.missed_ticks += missed
            tick += missed
            self._tick(self.start + timedelta(seconds=tick * self.interval_s * self.speed))
            self.on_tick()
            tick += 1

    async def finish(self, timeout_s: float) -> None:
        """Wait for the calls under way and make up for what failed, then for the sinks."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while (late := [twin for twin in self.twins if twin.pending]) and asyncio.get_running_loop().time() < deadline:
            calls = [self._call(twin) for twin in late]
            failed_before = self.tally.errors
            await asyncio.wait(calls, timeout=deadline - asyncio.get_running_loop().time())
            if self.tally.errors > failed_before:
                await asyncio.sleep(0.2)
        for twin in self.twins:
            if twin.call is not None:
                twin.call.cancel()
        await asyncio.gather(
            *(outbox.drain(max(deadline - asyncio.get_running_loop().time(), 1.0)) for outbox in self.outboxes.values())
        )

    def _tick(self, time: datetime) -> None:
        readings: list[Row] = []
        for twin in self.twins:
            reading = twin.battery.read(time)
            twin.take(reading)
            readings.append(reading)
        # Stored and published before any prediction: a reading waits for nobody.
        self._publish(Batch(readings=readings))
        for twin in self.twins:
            if twin.is_calling:
                self.tally.overdue += 1
            else:
                self._call(twin)
        self.tally.ticks += 1
        self.tally.produced += len(readings)
        self.tally.first_time = self.tally.first_time or time
        self.tally.last_time = time

    def _call(self, twin: LiveTwin) -> asyncio.Task[None]:
        if twin.call is None or twin.call.done():
            twin.call = asyncio.create_task(self._predict(twin))
        return twin.call

    async def _predict(self, twin: LiveTwin) -> None:
        readings = twin.pending[:_READINGS_A_CALL]
        began = perf_counter()
        try:
            answer = await self.client.predict(twin.identity, readings, twin.state)
        except PredictionError as error:
            self.tally.failed(str(error))
            return
        self.tally.predicted(perf_counter() - began)
        del twin.pending[: len(readings)]
        twin.learn(answer)
        self._publish(Batch(predictions=prediction_rows(twin.battery.battery_id, answer, datetime.now(UTC))))

    def _publish(self, batch: Batch) -> None:
        for outbox in self.outboxes.values():
            outbox.put(batch)


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Sleep for `seconds`, less where `event` is set meanwhile; True if it is."""
    if seconds > 0:
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return False
    else:
        await asyncio.sleep(0)
    return event.is_set()
