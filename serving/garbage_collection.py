"""The garbage collector, kept away from what stays: scanning it took 300 ms of a request now and then."""

from __future__ import annotations

import gc


def quieten() -> None:
    """Collect seldom; to be called once, when everything is imported and loaded."""
    settle()
    gc.set_threshold(50_000, 50, 100)


def settle() -> None:
    """Leave what is there now out of every later collection; short when called again after a little was added."""
    gc.collect()
    gc.freeze()
