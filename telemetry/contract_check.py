"""Checks arrays of contract fields against their ranges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from telemetry.contract import Field

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def out_of_range(field: Field, values: FloatArray) -> BoolArray:
    """bool[n]: which of `values` of a numeric field, float64[n], are infinite or beyond its bounds; NaN is missing."""
    bad: BoolArray = np.isinf(values)
    if field.minimum is not None:
        bad |= values < field.minimum
    if field.maximum is not None:
        bad |= values > field.maximum
    return bad


def without_invalid(fields: Sequence[Field], rows: FloatArray) -> tuple[BoolArray, Counter[str]]:
    """Which rows, float64[n, len(fields)], have all required values, bool[n], after clearing what is out of range.

    Values out of range become NaN, in place.

    Returns:
        The rows, and the number of cleared values by field.
    """
    cleared: Counter[str] = Counter()
    complete: BoolArray = np.ones(len(rows), dtype=np.bool_)
    for column, field in enumerate(fields):
        bad = out_of_range(field, rows[:, column])
        if bad.any():
            rows[bad, column] = np.nan
            cleared[field.name] += int(bad.sum())
        if field.required:
            complete &= ~np.isnan(rows[:, column])
    return complete, cleared
