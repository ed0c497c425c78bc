"""Train/test splits by battery (by time for a single battery), and the batteries held out for the promotion gate."""

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
#: With fewer batteries, the last fifth of each battery's record is held out for the gate instead of whole batteries.
MIN_BATTERIES_FOR_GATE = 5
_EMBARGO_ROWS = 10


@dataclass(frozen=True)
class Split:
    """Split of a table into cross-validation folds and gate rows.

    Attributes:
        by: "battery" or "time".
        description: one sentence for reports.
        fold: int64[n], the test fold of a row; -1 for rows that are only trained on (first block of a split by time).
        gate: bool[n], rows held out from tuning and from the final fit.
    """

    by: Literal["battery", "time"]
    description: str
    fold: IntArray
    gate: BoolArray

    def training_rows(self, test_fold: int) -> BoolArray:
        """Training rows for the fold `test_fold`: those of other batteries, or earlier ones."""
        if self.by == "battery":
            return np.asarray(self.fold != test_fold)
        # Embargo: the labels of the rows right before the test block reach into it.
        start = int(np.flatnonzero(self.fold == test_fold)[0])
        return np.asarray(np.arange(len(self.fold)) < start - _EMBARGO_ROWS)

    @property
    def test_folds(self) -> list[int]:
        """The test folds, in order."""
        return sorted(set(self.fold.tolist()) - {-1})

    def final_rows(self) -> BoolArray:
        """Training rows of the final model, the one that is registered."""
        return ~self.gate


def gate_batteries(battery_ids: list[str]) -> list[str]:
    """A fixed fifth of `battery_ids`, chosen by a hash of their names; none if there are few batteries.

    A hash is independent of the order in which a laboratory numbered its cells.
    """
    if len(battery_ids) < MIN_BATTERIES_FOR_GATE:
        return []
    ranked = sorted(battery_ids, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return sorted(ranked[: round(len(ranked) / 5)])


def split(table: pd.DataFrame) -> Split:
    """Split `table` (sorted by battery, then time; column `battery_id`) for evaluation and for the gate.

    Out-of-fold: scikit-learn's `GroupKFold` over batteries in name order, five folds or one a battery.
    One battery: five blocks of time, each predicted by a model of the rows before it.
    """
    groups = table["battery_id"].to_numpy(dtype=str)
    ids = np.unique(groups).tolist()
    if len(ids) == 1:
        block = np.arange(len(table)) * (N_FOLDS + 1) // max(len(table), 1)
        fold = block.astype(np.int64) - 1
        return Split(
            "time",
            "one battery: five blocks of time, each predicted from the rows before it",
            fold,
            fold == N_FOLDS - 1,
        )
    n_folds = min(N_FOLDS, len(ids))
    fold = np.empty(len(table), dtype=np.int64)
    for number, (_, test_rows) in enumerate(GroupKFold(n_folds).split(groups, groups=groups)):
        fold[test_rows] = number
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
