"""The live loop: at every tick one reading of each battery, on the disk before it counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Event

from simulator.live_twin import LiveTwin
from simulator.run_statistics import RunStatistics
from telemetry.batch import Batch
from telemetry.spool.delivery import Delivery
from telemetry.spool.spool import Spool, SpoolFullError

#: The name under which the spool keeps how far event time has come, and what each battery has to know to go on.
PRODUCER = "simulator"
NEWEST_TIME = "newest_time"
#: Readings of one tick that are kept at once; a larger fleet needs several steps.
_READINGS_AT_ONCE = 5000
_POLL_S = 0.02


def memory_of(battery_id: str) -> str:
    """The name under which the spool keeps what a battery has to know."""
    return f"battery/{battery_id}"


@dataclass
class LiveLoop:
    """Reads the batteries on a schedule and hands the readings to the spool, from where others take them.

    Attributes:
        deliveries: what takes them, the predictions among it.
        start: event time of the first tick.
        interval_s: between two ticks on the wall clock.
        speed: how much faster event time passes.
        on_tick: called after every tick.
    """

    twins: Sequence[LiveTwin]
    spool: Spool
    deliveries: Sequence[Delivery]
    start: datetime
    interval_s: float
    speed: float
    tally: RunStatistics = field(default_factory=RunStatistics)
    on_tick: Callable[[], None] = lambda: None
    _are_known: bool = False

    def run(self, stop: Event, for_s: float | None = None) -> None:
        """Tick until `stop` is set or `for_s` seconds have passed."""
        began, tick = time.monotonic(), 0
        end = math.inf if for_s is None else math.ceil(for_s / self.interval_s)
        while tick < end:
            due = began + tick * self.interval_s
            if stop.wait(max(due - time.monotonic(), 0.0)):
                return
            missed = max(int((time.monotonic() - due) / self.interval_s), 0)
            if tick + missed >= end:  # the rest of the schedule has passed
                self.tally.missed_ticks += int(end) - tick
                return
            self.tally.missed_ticks += missed
            tick += missed
            self._tick(self.start + timedelta(seconds=tick * self.interval_s * self.speed))
            self.on_tick()
            tick += 1

    def finish(self, timeout_s: float) -> None:
        """Wait until nothing waits in the spool any more: predictions first, which are delivered in their turn."""
        deadline = time.monotonic() + timeout_s
        while not all(delivery.is_drained for delivery in self.deliveries) and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def _tick(self, event_time: datetime) -> None:
        for twin in self.twins:
            twin.reading = twin.battery.read(event_time)
        self.tally.ticked(
            {delivery.consumer: delivery.last_error for delivery in self.deliveries if delivery.last_error}
        )
        for begin in range(0, len(self.twins), _READINGS_AT_ONCE):
            self._keep(self.twins[begin : begin + _READINGS_AT_ONCE], event_time)

    def _keep(self, twins: Sequence[LiveTwin], event_time: datetime) -> None:
        readings = [twin.reading for twin in twins if twin.reading is not None]
        memories = {memory_of(twin.battery.battery_id): twin.battery.memory() for twin in twins}
        # Whose readings these are goes with the first of them that are kept.
        identities = [] if self._are_known else [twin.identity for twin in self.twins]
        try:
            position = self.spool.append(
                Batch(readings=readings, batteries=identities),
                producer=PRODUCER,
                states={NEWEST_TIME: event_time.isoformat().encode(), **memories},
            )
        except SpoolFullError as error:
            self.tally.refused_by_spool(len(readings), str(error))
            return
        self._are_known = True
        self.tally.kept(position, len(readings), event_time)
