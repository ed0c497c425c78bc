"""Loop that reads every battery at each tick and appends the readings to the spool."""

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

#: Owner of the states that the spool stores for the simulator: newest event time, and the state of each battery.
PRODUCER = "simulator"
NEWEST_TIME = "newest_time"
#: Most readings in one append; a larger fleet needs several for each tick.
_READINGS_AT_ONCE = 5000
_POLL_S = 0.02


def state_key(battery_id: str) -> str:
    """Name of a battery's state in the spool."""
    return f"battery/{battery_id}"


@dataclass
class LiveLoop:
    """Reads the batteries on a schedule and appends the readings to the spool.

    Attributes:
        deliveries: of all consumers of the spool, the prediction consumer included.
        start: event time of the first tick.
        interval_s: wall-clock time between two ticks.
        speed: event time per wall-clock time.
        on_tick: called after every tick.
    """

    twins: Sequence[LiveTwin]
    spool: Spool
    deliveries: Sequence[Delivery]
    start: datetime
    interval_s: float
    speed: float
    statistics: RunStatistics = field(default_factory=RunStatistics)
    on_tick: Callable[[], None] = lambda: None
    _identities_spooled: bool = False

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
                self.statistics.missed_ticks += int(end) - tick
                return
            self.statistics.missed_ticks += missed
            tick += missed
            self._tick(self.start + timedelta(seconds=tick * self.interval_s * self.speed))
            self.on_tick()
            tick += 1

    def finish(self, timeout_s: float) -> None:
        """Wait until all consumers have drained the spool, including the predictions that are appended meanwhile."""
        deadline = time.monotonic() + timeout_s
        while not all(delivery.is_drained for delivery in self.deliveries) and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def _tick(self, event_time: datetime) -> None:
        for twin in self.twins:
            twin.reading = twin.battery.read(event_time)
        self.statistics.count_tick(
            {delivery.consumer: delivery.last_error for delivery in self.deliveries if delivery.last_error}
        )
        for begin in range(0, len(self.twins), _READINGS_AT_ONCE):
            self._append(self.twins[begin : begin + _READINGS_AT_ONCE], event_time)

    def _append(self, twins: Sequence[LiveTwin], event_time: datetime) -> None:
        readings = [twin.reading for twin in twins if twin.reading is not None]
        states = {state_key(twin.battery.battery_id): twin.battery.save_state() for twin in twins}
        # The first append carries the rows of the batteries table.
        identities = [] if self._identities_spooled else [twin.identity for twin in self.twins]
        try:
            position = self.spool.append(
                Batch(readings=readings, batteries=identities),
                producer=PRODUCER,
                states={NEWEST_TIME: event_time.isoformat().encode(), **states},
            )
        except SpoolFullError as error:
            self.statistics.count_refused(len(readings), str(error))
            return
        self._identities_spooled = True
        self.statistics.count_spooled(position, len(readings), event_time)
