"""Order within a battery's history: which rows are out of it, and what comes first of what has one age."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def repeats(frame: pd.DataFrame, keys: list[str]) -> pd.Series:
    """1.0 for rows that repeat the keys of an earlier row; rows with a missing key repeat nothing."""
    complete = frame[keys[:2]].notna().all(axis=1)
    return (frame.duplicated(keys, keep="first") & complete).astype("float64")


def steps_back(frame: pd.DataFrame, order: str, *, strictly: bool, apart: pd.Series) -> pd.Series:
    """1.0 for the rows of each battery that stand outside of its longest increasing run of `order`.

    Comparing with the newest so far would let one clock error condemn all that follows; the longest
    increasing subsequence gives up the fewest rows.  Rows in `apart` or without a value are not looked at.
    """
    values = frame[order]
    # Microseconds since 1970 are exact in a float until the year 2255.
    numbers = np.asarray(values.astype("int64") if values.dtype.kind == "M" else values, dtype=np.float64)
    looked_at = (values.notna() & ~apart.astype(bool)).to_numpy()
    battery = pd.factorize(frame["battery_id"])[0]
    by_battery = np.argsort(battery, kind="stable")
    result = np.zeros(len(frame))
    for places in np.split(by_battery, np.flatnonzero(np.diff(battery[by_battery])) + 1):
        own = places[looked_at[places]]
        result[own[~in_longest_run(numbers[own], strictly=strictly)]] = 1.0
    return pd.Series(result, index=frame.index)


def set_apart(age: NDArray[np.float64], follows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`age`, float64[n], in which a row that `follows` the one before it at the same age is older by the least step.

    A pack that counts whole cycles ends several sessions at one age; the fold would take them for repetitions.
    """
    apart = age.copy()
    for i in np.flatnonzero(follows & (np.diff(age, prepend=np.nan) == 0.0)):
        apart[i] = np.nextafter(apart[i - 1], np.inf)
    return apart


def in_longest_run(values: NDArray[np.float64], *, strictly: bool) -> NDArray[np.bool_]:
    """Members of a longest increasing subsequence of `values`, shape [n]; of several, the earlier rows; O(n log n)."""
    steps = np.diff(values)
    if bool((steps > 0).all() if strictly else (steps >= 0).all()):
        return np.ones(len(values), dtype=bool)
    # Patience sorting keeps the last of several candidates; run from the end it keeps the first.
    return _patience_run((-values[::-1]).tolist(), strictly=strictly)[::-1]


def _patience_run(values: list[float], *, strictly: bool) -> NDArray[np.bool_]:
    find = bisect_left if strictly else bisect_right
    tails: list[float] = []  # the smallest value that ends a run of each length
    ends: list[int] = []  # where it stands
    before = np.full(len(values), -1)
    for place, value in enumerate(values):
        length = find(tails, value)
        before[place] = ends[length - 1] if length else -1
        if length == len(tails):
            tails.append(value)
            ends.append(place)
        else:
            tails[length] = value
            ends[length] = place
    member = np.zeros(len(values), dtype=bool)
    place = ends[-1] if ends else -1
    while place >= 0:
        member[place] = True
        place = int(before[place])
    return member
