"""What a live run counts, and the verdict on it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

#: Latencies that the percentiles look back on: more than two hours at 2 Hz.
_LATENCIES = 20_000


@dataclass
class RunStatistics:
    """Counts of one live run; the loop and the predictions write it from two threads.

    Attributes:
        predicts: whether predictions are asked for.
        ticks: moments at which every battery was read.
        missed_ticks: moments of the schedule at which that did not happen in time.
        produced: readings made and kept.
        refused: readings made that the spool had no room for.
        predictions: answers of the service, one reading each.
        errors: calls that gave no prediction; they are repeated.
        overdue: ticks at which readings of an earlier tick had no prediction yet.
        troubles: what goes wrong now, by who says it.
    """

    predicts: bool = True
    ticks: int = 0
    missed_ticks: int = 0
    produced: int = 0
    refused: int = 0
    predictions: int = 0
    errors: int = 0
    overdue: int = 0
    last_error: str | None = None
    first_time: datetime | None = None
    last_time: datetime | None = None
    troubles: Mapping[str, str] = field(default_factory=dict)
    _kept_at: deque[tuple[int, float]] = field(default_factory=deque)
    _latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ticked(self, troubles: Mapping[str, str]) -> None:
        """Every battery was read."""
        self.ticks += 1
        self.troubles = troubles

    def kept(self, position: int, readings: int, event_time: datetime) -> None:
        """`readings` are on the disk, the last of them at `position` of the spool."""
        if self.predicts:
            with self._lock:
                self.overdue += bool(self._kept_at)
                self._kept_at.append((position, time.perf_counter()))
        self.produced += readings
        self.first_time = self.first_time or event_time
        self.last_time = event_time

    def refused_by_spool(self, readings: int, reason: str) -> None:
        """`readings` were made and not kept."""
        self.refused += readings
        self.failed(reason)

    def predicted(self, position: int, readings: int) -> None:
        """The predictions from `readings`, the last of them at `position`, are on the disk."""
        now = time.perf_counter()
        with self._lock:
            self.predictions += readings
            while self._kept_at and self._kept_at[0][0] <= position:
                self._latencies_s.append(now - self._kept_at.popleft()[1])

    def failed(self, reason: str) -> None:
        """Count something that went wrong and is repeated, or counted as refused."""
        with self._lock:
            self.errors += 1
            self.last_error = reason

    @property
    def latency(self) -> str:
        """Median and 99th percentile of the newest ticks, for people."""
        if not self._latencies_s:
            return "no prediction yet"
        return f"p50 {self.latency_ms(50):.1f} ms, p99 {self.latency_ms(99):.1f} ms"

    def latency_ms(self, percentile: float) -> float:
        """From a tick's readings on the disk to their predictions on the disk, ms; NaN before the first."""
        with self._lock:
            latencies = np.asarray(self._latencies_s)
        return float(np.percentile(latencies, percentile)) * 1e3 if len(latencies) else float("nan")


@dataclass(frozen=True)
class Summary:
    """The end of a live run.

    Attributes:
        stored: readings of the run that a SELECT found in the store; None where the store could not be asked.
        waiting: readings that wait in the spool, by who has not taken them; the next run delivers them.
        set_aside: rows that somebody will never take, by whom; `python -m telemetry.spool` shows them.
        unstored: readings that the store has not taken and that the spool still has, those set aside among them.
        acknowledged: rows or messages that each sink has acknowledged.
    """

    tally: RunStatistics
    stored: int | None
    waiting: Mapping[str, int]
    set_aside: Mapping[str, int]
    unstored: int
    acknowledged: Mapping[str, int]

    @property
    def lost(self) -> list[str]:
        """What was lost, a sentence each; empty where all is well."""
        tally = self.tally
        reasons = []
        if tally.refused:
            reasons.append(f"{tally.refused} readings were refused: the spool had no room")
        if self.stored is not None:
            missing = tally.produced - self.stored - self.unstored
            if missing > 0:
                reasons.append(f"{missing} readings are neither in the store nor in the spool")
        reasons += [f"{count} rows were refused by {name}" for name, count in self.set_aside.items() if count]
        return reasons

    @property
    def unfinished(self) -> list[str]:
        """What has not arrived yet, a sentence each."""
        reasons = [f"{count} readings wait for {name}" for name, count in self.waiting.items() if count]
        if self.stored is None:
            reasons.append("the store could not be asked what it holds")
        if self.tally.predicts and self.tally.predictions == 0:
            reasons.append("no prediction came")
        return reasons

    def lines(self) -> Sequence[tuple[str, str]]:
        """What was measured: label and value."""
        tally = self.tally
        predicted = [
            ("predictions made", f"{tally.predictions:,}"),
            ("from reading to prediction", tally.latency),
            ("predictions overdue", f"{tally.overdue:,} of {tally.ticks:,} ticks"),
        ]
        return [
            ("readings produced", f"{tally.produced:,}"),
            ("readings in the store", "unknown" if self.stored is None else f"{self.stored:,}"),
            ("readings refused", f"{tally.refused:,}"),
            *(predicted if tally.predicts else []),
            ("missed ticks", f"{tally.missed_ticks:,} of {tally.ticks + tally.missed_ticks:,}"),
            ("errors", f"{tally.errors:,}" + (f" (last: {tally.last_error})" if tally.last_error else "")),
            *((f"{name}: acknowledged", f"{count:,}") for name, count in self.acknowledged.items()),
        ]
