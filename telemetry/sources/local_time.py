"""Converts local times to UTC, also in the hour that the autumn clock repeats, where the order of the rows shows which.

Within that hour the rows of a battery, in the order of recording, go back in local time exactly once: rows before
that are of the first pass, rows after it of the second.  What the order does not show stays unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_DAY_S = 86_400.0


@dataclass(frozen=True)
class LocalTimes:
    """Local times in UTC.

    Attributes:
        utc: datetime64[us, UTC], missing where `naive` is, or where its local time does not tell the instant.
        skipped: bool, local times that the clock skips in spring.
        repeated: bool, local times that the clock repeats in autumn, resolved or not.
    """

    utc: pd.Series
    skipped: pd.Series
    repeated: pd.Series


def to_utc(
    naive: pd.Series,
    zone: str,
    batteries: pd.Series,
    order: pd.Series | None = None,
    not_after: datetime | None = None,
) -> LocalTimes:
    """Convert local times.

    Args:
        naive: datetime64 without zone.
        zone: name of the time zone, or a fixed offset.
        batteries: whose time it is, with the index of `naive`.
        order: number by which the rows of a battery were recorded; None: as they stand, or all reversed.
        not_after: instant that no row is later than, because it was read by then; None: unknown.
    """
    first, second = (
        naive.dt.tz_localize(zone, ambiguous=np.full(len(naive), is_dst), nonexistent="NaT")
        .dt.tz_convert("UTC")
        .astype("datetime64[us, UTC]")
        for is_dst in (True, False)
    )
    skipped = naive.notna() & first.isna()
    repeated = first.notna() & (first != second)
    utc = first.mask(repeated)
    if repeated.any():
        if not_after is not None:
            utc = utc.mask(repeated & (second > not_after), first)
        shift_s = float((second - first).max().total_seconds())
        for _, rows in naive[batteries.isin(batteries[repeated]) & naive.notna()].groupby(batteries, sort=False):
            sequence = rows if order is None else rows.loc[order[rows.index].sort_values(kind="stable").index]
            passes = _passes(sequence, repeated[sequence.index].to_numpy(), shift_s)
            utc = utc.mask(passes.reindex(utc.index) == 1.0, first).mask(passes.reindex(utc.index) == 2.0, second)
    return LocalTimes(utc, skipped, repeated)


def _passes(naive: pd.Series, repeated: NDArray[np.bool_], shift_s: float) -> pd.Series:
    """1 or 2 for each of the `repeated` rows of one battery, NaN where the order does not show the pass.

    Args:
        shift_s: by how much the clock is put back.
    """
    passes = pd.Series(np.nan, index=naive.index)
    steps = naive.diff().dt.total_seconds().to_numpy()
    inside = repeated & np.roll(repeated, 1) & (np.abs(steps) < _DAY_S)
    outside = steps[~inside & ~np.isnan(steps)]
    if (outside < 0).sum() > (outside > 0).sum():  # the newest row comes first
        return _passes(naive.iloc[::-1], repeated[::-1], shift_s)
    if (outside < 0).any():
        return passes  # rows that are not in order show nothing
    # Of rows as rare as the shift, two equal times are two passes; of others, a row that was recorded twice.
    is_rare = (steps > 0).any() and float(np.median(steps[steps > 0])) >= shift_s
    back = inside & ((steps < 0) | (is_rare & (steps == 0)))
    run = np.cumsum(~inside)
    for number in np.unique(run[back]):
        rows = run == number
        if back[rows].sum() == 1:
            passes[naive.index[rows]] = 1.0 + np.cumsum(back[rows])
    return passes
