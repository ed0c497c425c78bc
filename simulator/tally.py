"""What a live run counts, and the verdict on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

#: Latencies that the percentiles look back on: more than a minute of 100 batteries at 2 Hz.
_LATENCIES = 20_000


@dataclass
class Tally:
    """Counts of one live run.

    Attributes:
        ticks: moments at which every battery was read.
        missed_ticks: moments of the schedule at which that did not happen in time.
        produced: readings made.
        predictions: answers of the service, one battery each.
        errors: calls that gave no prediction; their readings went with a later call.
        overdue: ticks, by battery, at which the previous call was still under way.
    """

    ticks: int = 0
    missed_ticks: int = 0
    produced: int = 0
    predictions: int = 0
    errors: int = 0
    overdue: int = 0
    last_error: str | None = None
    first_time: datetime | None = None
    last_time: datetime | None = None
    _latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))

    def predicted(self, latency_s: float) -> None:
        """Count an answer."""
        self.predictions += 1
        self._latencies_s.append(latency_s)

    def failed(self, reason: str) -> None:
        """Count a call without an answer."""
        self.errors += 1
        self.last_error = reason

    @property
    def latency(self) -> str:
        """Median and 99th percentile of the newest calls, for people."""
        if not self._latencies_s:
            return "no prediction yet"
        return f"p50 {self.latency_ms(50):.1f} ms, p99 {self.latency_ms(99):.1f} ms"

    def latency_ms(self, percentile: float) -> float:
        """Of the newest calls, in ms; NaN before the first."""
        if not self._latencies_s:
            return float("nan")
        return float(np.percentile(np.asarray(self._latencies_s), percentile)) * 1e3


@dataclass(frozen=True)
class Summary:
    """The end of a live run.

    Attributes:
        stored: readings of the run that a SELECT found in the store; None where the store could not be asked.
        unpredicted: readings that no successful call has carried.
        acknowledged: rows or messages that each sink has acknowledged.
        undelivered: readings that a sink had not acknowledged at the end, by sink.
    """

    tally: Tally
    stored: int | None
    unpredicted: int
    acknowledged: dict[str, int]
    undelivered: dict[str, int]

    @property
    def lost(self) -> list[str]:
        """What was lost, a sentence each; empty where all is well."""
        tally = self.tally
        reasons = []
        if self.stored is None:
            reasons.append("the store could not be asked what it holds")
        elif self.stored != tally.produced:
            reasons.append(f"{tally.produced - self.stored} readings are not in the store")
        if self.unpredicted:
            reasons.append(f"{self.unpredicted} readings were never predicted from")
        if tally.predictions == 0:
            reasons.append("no prediction came")
        reasons += [f"{count} readings did not reach {name}" for name, count in self.undelivered.items() if count]
        return reasons

    def lines(self) -> Sequence[tuple[str, str]]:
        """What was measured: label and value."""
        tally = self.tally
        return [
            ("readings produced", f"{tally.produced:,}"),
            ("readings in the store", "unknown" if self.stored is None else f"{self.stored:,}"),
            ("predictions made", f"{tally.predictions:,}"),
            ("prediction latency", tally.latency),
            ("missed ticks", f"{tally.missed_ticks:,} of {tally.ticks + tally.missed_ticks:,}"),
            ("predictions overdue", f"{tally.overdue:,}"),
            ("errors", f"{tally.errors:,}" + (f" (last: {tally.last_error})" if tally.last_error else "")),
            *((f"{name}: acknowledged", f"{count:,}") for name, count in self.acknowledged.items()),
        ]
