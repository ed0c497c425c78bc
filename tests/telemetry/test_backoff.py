"""Exponential backoff."""

from __future__ import annotations

from itertools import islice

from telemetry.backoff import backoff


def test_pauses_double_up_to_the_limit() -> None:
    assert list(islice(backoff(0.5, 3.0), 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert list(islice(backoff(15.0, 15.0), 2)) == [15.0, 15.0]
