"""Detects duplicate and out-of-order rows in a battery's history, and separates rows of equal age."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def duplicates(frame: pd.DataFrame, keys: list[str]) -> pd.Series:
    """1.0 for rows that repeat the keys of an earlier row; rows with a missing key are no duplicates."""
    complete = frame[keys[:2]].notna().all(axis=1)
    return (frame.duplicated(keys, keep="first") & complete).astype("float64")


def out_of_order(frame: pd.DataFrame, order: str, *, strictly: bool, excluded: pd.Series) -> pd.Series:
    """1.0 for the rows of each battery outside of its longest increasing subsequence of `order`.

    A comparison with the maximum so far would reject all rows after one clock error; the longest increasing
    subsequence rejects the fewest rows.  Rows in `excluded` or without a value are ignored.
    """
    values = frame[order]
    # Microseconds since 1970 are exact in a float until the year 2255.
    numbers = np.asarray(values.astype("int64") if values.dtype.kind == "M" else values, dtype=np.float64)
    included = (values.notna() & ~excluded.astype(bool)).to_numpy()
    battery = pd.factorize(frame["battery_id"])[0]
    by_battery = np.argsort(battery, kind="stable")
    result = np.zeros(len(frame))
    for indices in np.split(by_battery, np.flatnonzero(np.diff(battery[by_battery])) + 1):
        checked = indices[included[indices]]
        result[checked[~in_longest_increasing_subsequence(numbers[checked], strictly=strictly)]] = 1.0
    return pd.Series(result, index=frame.index)


def separate_equal_ages(age: NDArray[np.float64], follows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`age`, float64[n], in which a row that `follows` the previous one at the same age is older by one float step.

    A pack that counts whole cycles ends several sessions at the same age; the state update would take them for
    duplicates.
    """
    separate = age.copy()
    for i in np.flatnonzero(follows & (np.diff(age, prepend=np.nan) == 0.0)):
        separate[i] = np.nextafter(separate[i - 1], np.inf)
    return separate


def in_longest_increasing_subsequence(values: NDArray[np.float64], *, strictly: bool) -> NDArray[np.bool_]:
    """Members of a longest increasing subsequence of `values`, shape [n]; of several, the earlier rows; O(n log n)."""
    steps = np.diff(values)
    if bool((steps > 0).all() if strictly else (steps >= 0).all()):
        return np.ones(len(values), dtype=bool)
    # Patience sorting keeps the last of several candidates; in reverse order it keeps the first.
    return _patience_sorting((-values[::-1]).tolist(), strictly=strictly)[::-1]


def _patience_sorting(values: list[float], *, strictly: bool) -> NDArray[np.bool_]:
    find = bisect_left if strictly else bisect_right
    tails: list[float] = []  # the smallest value that ends a subsequence of each length
    ends: list[int] = []  # its index
    previous = np.full(len(values), -1)
    for index, value in enumerate(values):
        length = find(tails, value)
        previous[index] = ends[length - 1] if length else -1
        if length == len(tails):
            tails.append(value)
            ends.append(index)
        else:
            tails[length] = value
            ends[length] = index
    member = np.zeros(len(values), dtype=bool)
    index = ends[-1] if ends else -1
    while index >= 0:
        member[index] = True
        index = int(previous[index])
    return member
