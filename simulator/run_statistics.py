"""Counters and latencies of a live run, and the final summary with losses and undelivered readings."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

#: Number of newest latencies in the percentiles: more than two hours at 2 Hz.
_LATENCIES = 20_000


@dataclass
class RunStatistics:
    """Counters of one live run; updated by the live loop and by the prediction consumer from two threads.

    Attributes:
        predicts: whether predictions are requested.
        ticks: ticks at which every battery was read.
        missed_ticks: scheduled ticks that were skipped because the loop was late.
        produced: readings appended to the spool.
        refused: readings that the full spool refused.
        predictions: predictions received, one for each reading.
        errors: failed requests, which are repeated, and refused appends.
        overdue: ticks at which readings of an earlier tick had no prediction yet.
        current_errors: newest error of each consumer that fails now.
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
    current_errors: Mapping[str, str] = field(default_factory=dict)
    _spooled_at: deque[tuple[int, float]] = field(default_factory=deque)
    _latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count_tick(self, current_errors: Mapping[str, str]) -> None:
        """Count a tick at which every battery was read."""
        self.ticks += 1
        self.current_errors = current_errors

    def count_spooled(self, position: int, readings: int, event_time: datetime) -> None:
        """Count `readings` that were appended to the spool, the last of them at `position`."""
        if self.predicts:
            with self._lock:
                self.overdue += bool(self._spooled_at)
                self._spooled_at.append((position, time.perf_counter()))
        self.produced += readings
        self.first_time = self.first_time or event_time
        self.last_time = event_time

    def count_refused(self, readings: int, reason: str) -> None:
        """Count `readings` that the spool refused."""
        self.refused += readings
        self.count_error(reason)

    def count_predicted(self, position: int, readings: int) -> None:
        """Count `readings`, the last of them at `position`, whose predictions are in the spool."""
        now = time.perf_counter()
        with self._lock:
            self.predictions += readings
            while self._spooled_at and self._spooled_at[0][0] <= position:
                self._latencies_s.append(now - self._spooled_at.popleft()[1])

    def count_error(self, reason: str) -> None:
        """Count a failed request or a refused append."""
        with self._lock:
            self.errors += 1
            self.last_error = reason

    @property
    def latency(self) -> str:
        """Median and 99th percentile of the newest ticks as text."""
        if not self._latencies_s:
            return "no prediction yet"
        return f"p50 {self.latency_ms(50):.1f} ms, p99 {self.latency_ms(99):.1f} ms"

    def latency_ms(self, percentile: float) -> float:
        """Latency from readings to their predictions, both on disk, ms; NaN before the first."""
        with self._lock:
            latencies = np.asarray(self._latencies_s)
        return float(np.percentile(latencies, percentile)) * 1e3 if len(latencies) else float("nan")


@dataclass(frozen=True)
class Summary:
    """Result of a live run.

    Attributes:
        stored: readings of the run that a SELECT found in the telemetry store; None where it was unavailable.
        waiting: readings waiting in the spool, by consumer; the next run delivers them.
        quarantined: rows that a consumer refused for good, by consumer; `python -m telemetry.spool` shows them.
        unstored: readings in the spool that are not in the store, quarantined ones included.
        acknowledged: rows or messages that each sink has acknowledged.
    """

    statistics: RunStatistics
    stored: int | None
    waiting: Mapping[str, int]
    quarantined: Mapping[str, int]
    unstored: int
    acknowledged: Mapping[str, int]

    @property
    def lost(self) -> list[str]:
        """Losses, one sentence each; empty where nothing was lost."""
        statistics = self.statistics
        reasons = []
        if statistics.refused:
            reasons.append(f"{statistics.refused} readings were refused: the spool was full")
        if self.stored is not None:
            missing = statistics.produced - self.stored - self.unstored
            if missing > 0:
                reasons.append(f"{missing} readings are neither in the store nor in the spool")
        reasons += [f"{count} rows were refused by {name}" for name, count in self.quarantined.items() if count]
        return reasons

    @property
    def unfinished(self) -> list[str]:
        """Deliveries that are not finished, one sentence each."""
        reasons = [f"{count} readings wait for {name}" for name, count in self.waiting.items() if count]
        if self.stored is None:
            reasons.append("the telemetry store was unavailable: its readings were not counted")
        if self.statistics.predicts and self.statistics.predictions == 0:
            reasons.append("no prediction was received")
        return reasons

    def lines(self) -> Sequence[tuple[str, str]]:
        """Table rows of the summary: label and value."""
        statistics = self.statistics
        last_error = f" (last: {statistics.last_error})" if statistics.last_error else ""
        predicted = [
            ("predictions made", f"{statistics.predictions:,}"),
            ("latency, reading to prediction", statistics.latency),
            ("predictions overdue", f"{statistics.overdue:,} of {statistics.ticks:,} ticks"),
        ]
        return [
            ("readings produced", f"{statistics.produced:,}"),
            ("readings in the store", "unknown" if self.stored is None else f"{self.stored:,}"),
            ("readings refused", f"{statistics.refused:,}"),
            *(predicted if statistics.predicts else []),
            ("missed ticks", f"{statistics.missed_ticks:,} of {statistics.ticks + statistics.missed_ticks:,}"),
            ("errors", f"{statistics.errors:,}{last_error}"),
            *((f"{name}: acknowledged", f"{count:,}") for name, count in self.acknowledged.items()),
        ]
