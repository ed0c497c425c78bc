"""Exponential backoff between the attempts of a retried operation."""

from __future__ import annotations

from collections.abc import Iterator


def backoff(first_s: float, longest_s: float) -> Iterator[float]:
    """Endless pauses in s, each twice the one before, up to `longest_s`; after a success take a new iterator."""
    pause_s = first_s
    while True:
        yield pause_s
        pause_s = min(2.0 * pause_s, longest_s)
