"""Time of compiled work on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

_REPEATS = 5


def median_seconds(work: Callable[[], None]) -> float:
    """Median of the time of `work`, s, after a first call that compiles it."""
    work()
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times)
