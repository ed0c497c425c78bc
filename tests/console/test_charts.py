"""Gaps in chart lines where a battery reported nothing."""

from __future__ import annotations

import pytest

from console.pages.charts import Point, with_gaps


def points(*seconds: float) -> list[Point]:
    return [[1000.0 * second, 20.0 + second] for second in seconds]


def test_line_breaks_at_a_long_gap() -> None:
    drawn = with_gaps(points(0, 1, 2, 3, 63, 64, 65))
    assert drawn == [*points(0, 1, 2, 3), [33_000.0, None], *points(63, 64, 65)]


@pytest.mark.parametrize("seconds", [(), (0,), (0, 500), (0, 1, 2, 3), (0, 30, 65, 90, 125), (0, 1, 9, 10, 11)])
def test_line_without_a_long_gap_is_unchanged(seconds: tuple[float, ...]) -> None:
    assert with_gaps(points(*seconds)) == points(*seconds)
