"""Which rows a model may learn from and which it is judged on: by battery, or by time where batteries are few."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

N_FOLDS = 5
#: With fewer batteries than this, none can be spared for the gate: the last fifth of time is.
MIN_BATTERIES_FOR_GATE = 5
_EMBARGO_ROWS = 10


@dataclass(frozen=True)
class Split:
    """How a table was divided.

    Attributes:
        by: "battery" or "time".
        description: one sentence for reports.
        fold: int64[n], the fold that judges a row; -1 for rows that only train (the first block of a split by time).
        gate: bool[n], rows held out from tuning and from the final fit.
    """

    by: Literal["battery", "time"]
    description: str
    fold: IntArray
    gate: BoolArray

    def training_rows(self, judged: int) -> BoolArray:
        """Rows that may train the model which judges fold `judged`: other batteries, or the past."""
        if self.by == "battery":
            return np.asarray(self.fold != judged)
        # The rows right before a judged block know part of its future: their horizon reaches into it.
        start = int(np.flatnonzero(self.fold == judged)[0])
        return np.asarray(np.arange(len(self.fold)) < start - _EMBARGO_ROWS)

    @property
    def test_folds(self) -> list[int]:
        """The folds that judge rows, in order."""
        return sorted(set(self.fold.tolist()) - {-1})

    def final_rows(self) -> BoolArray:
        """Rows that train the model which is registered."""
        return ~self.gate


def gate_batteries(battery_ids: list[str]) -> list[str]:
    """A fixed fifth of `battery_ids`, told by a hash of their names; none where batteries are few.

    The order of a hash does not follow the order in which a laboratory numbered its cells.
    """
    if len(battery_ids) < MIN_BATTERIES_FOR_GATE:
        return []
    ranked = sorted(battery_ids, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return sorted(ranked[: round(len(ranked) / 5)])


def split(table: pd.DataFrame) -> Split:
    """Divide `table` (sorted by battery, then time; column `battery_id`) for evaluation and for the gate.

    Out-of-fold: scikit-learn's `GroupKFold` over batteries in name order, five folds or one a battery.
    One battery: five blocks of time, each judged by what came before it.
    """
    groups = table["battery_id"].to_numpy(dtype=str)
    ids = np.unique(groups).tolist()
    if len(ids) == 1:
        block = np.arange(len(table)) * (N_FOLDS + 1) // max(len(table), 1)
        fold = block.astype(np.int64) - 1
        return Split("time", "one battery: five blocks of time, each judged by its past", fold, fold == N_FOLDS - 1)
    n_folds = min(N_FOLDS, len(ids))
    fold = np.empty(len(table), dtype=np.int64)
    for number, (_, judged) in enumerate(GroupKFold(n_folds).split(groups, groups=groups)):
        fold[judged] = number
    held_out = gate_batteries(ids)
    if held_out:
        gate = np.isin(groups, held_out)
        how = f"{len(held_out)} of {len(ids)} batteries held out for the gate"
    else:
        gate = _last_fifth(groups)
        how = f"the last fifth of each of {len(ids)} batteries held out for the gate"
    return Split("battery", f"GroupKFold({n_folds}) by battery in name order; {how}", fold, gate)


def _last_fifth(groups: NDArray[np.str_]) -> BoolArray:
    position = pd.Series(groups).groupby(groups).cumcount().to_numpy()
    size = pd.Series(groups).groupby(groups).transform("size").to_numpy()
    return np.asarray(position >= np.ceil(0.8 * size))
