"""Train/test splits by battery (by time for a single battery), and the batteries held out for the promotion gate.

Every training part of a split can be fitted: it has enough rows and, for a class label, rows of both classes.  If
no split of a table is like that, the target is not available, with the reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from features.targets import Target
from telemetry.errors import TwinError

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

N_FOLDS = 5
#: With fewer batteries, the last fifth of each battery's record is held out for the gate instead of whole batteries.
MIN_BATTERIES_FOR_GATE = 5
_EMBARGO_ROWS = 10
#: A training part has at least so many rows, and so many of each class: one for each fold of the calibration.
MIN_TRAINING_ROWS = 10
MIN_ROWS_OF_A_CLASS = 3


class UntrainableError(TwinError):
    """Raised for a target that cannot be trained on its table; the sentence is the reason why it is not available."""


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
    return sorted(_ranked(battery_ids)[: round(len(battery_ids) / 5)])


def thinned(table: pd.DataFrame, target: Target, max_rows: int | None) -> pd.DataFrame:
    """Every k-th row of `table`, at most `max_rows` (None: all), or as many as leave enough of both classes."""
    step = 1 if max_rows is None else max(1, -(-len(table) // max_rows))
    classes = table[target.label].to_numpy(dtype=float) > 0.5 if target.kind == "classification" else None
    while step > 1 and not _fits(np.arange(len(table)) % step == 0, classes):
        step -= 1
    return table.iloc[::step]


def _ranked(battery_ids: list[str]) -> list[str]:
    return sorted(battery_ids, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def split(table: pd.DataFrame, target: Target) -> Split:
    """Split `table` (sorted by battery, then time; column `battery_id`) for evaluation and for the gate.

    Out-of-fold: scikit-learn's `GroupKFold` over batteries in name order, five folds or one a battery.
    One battery: five blocks of time, each predicted by a model of the rows before it.  Where these would leave a
    training part of a classification without one of the classes, the folds are stratified, whole batteries are held out
    for the gate also if there are few, and batteries that the training needs are not held out.

    Args:
        target: whose label every training part must allow to fit.

    Raises:
        UntrainableError: no such split exists.
    """
    groups = table["battery_id"].to_numpy(dtype=str)
    ids = np.unique(groups).tolist()
    classes = None
    if target.kind == "classification":
        classes = table[target.label].to_numpy(dtype=float) > 0.5
    division = _by_time(classes, len(table)) if len(ids) == 1 else _by_battery(groups, ids, classes)
    if division is None:
        raise UntrainableError(_obstacle(groups, len(ids), classes), field="target", value=target.name)
    return division


def fitting_parts(
    fold: IntArray, by: Literal["battery", "time"], classes: BoolArray | None
) -> Iterator[tuple[int, BoolArray]]:
    """The test folds whose training part can be fitted, in order, each with its training rows, bool[n].

    Args:
        fold: int64[n], as `Split.fold`.
        classes: bool[n], the class of each row; None for a regression.
    """
    for number in sorted(set(fold.tolist()) - {-1}):
        train = np.asarray(fold != number if by == "battery" else fold < number)
        if _fits(train, classes):
            yield number, train


def _fits(train: BoolArray, classes: BoolArray | None) -> bool:
    """Whether the rows `train` are enough to fit a model."""
    rows = int(train.sum())
    if rows < MIN_TRAINING_ROWS or classes is None:
        return rows >= MIN_TRAINING_ROWS
    positive = int(classes[train].sum())
    return min(positive, rows - positive) >= MIN_ROWS_OF_A_CLASS


def _by_time(classes: BoolArray | None, n: int) -> Split | None:
    block = np.arange(n) * (N_FOLDS + 1) // max(n, 1)
    fold = block.astype(np.int64) - 1
    gate = fold == N_FOLDS - 1
    division = Split("time", "", fold, gate)
    # Blocks whose model would have too little to learn from are only trained on.
    fitting = [number for number in division.test_folds if _fits(division.training_rows(number), classes)]
    fold[~np.isin(fold, fitting)] = -1
    if N_FOLDS - 1 not in fitting or not any(fitting_parts(fold[~gate], "time", _of(classes, ~gate))):
        return None
    number = {2: "two", 3: "three", 4: "four", 5: "five"}[len(fitting)]
    how = f"one battery: {number} blocks of time, each predicted from the rows before it"
    return Split("time", how, fold, gate)


def _by_battery(groups: NDArray[np.str_], ids: list[str], classes: BoolArray | None) -> Split | None:
    n_folds = min(N_FOLDS, len(ids))
    for fold, folds in _possible_folds(groups, n_folds, classes):
        if len(list(fitting_parts(fold, "battery", classes))) < n_folds:
            continue
        for gate, how in _possible_gates(groups, ids, classes):
            kept = ~gate
            tuning = fitting_parts(fold[kept], "battery", _of(classes, kept))
            if gate.any() and _fits(kept, classes) and any(tuning):
                return Split("battery", f"{folds}; {how}", fold, gate)
    return None


def _possible_folds(
    groups: NDArray[np.str_], n_folds: int, classes: BoolArray | None
) -> Iterator[tuple[IntArray, str]]:
    """Assignments to folds with their descriptions; the first that can be fitted is used."""
    yield _numbered(GroupKFold(n_folds).split(groups, groups=groups)), f"GroupKFold({n_folds}) by battery in name order"
    if classes is not None and min(classes.sum(), (~classes).sum()) >= n_folds:
        parts = StratifiedGroupKFold(n_folds).split(groups, classes, groups)
        yield _numbered(parts), f"StratifiedGroupKFold({n_folds}) by battery, as GroupKFold separates the classes"


def _numbered(parts: Iterator[tuple[IntArray, IntArray]]) -> IntArray:
    tested = [test for _, test in parts]
    fold = np.empty(sum(map(len, tested)), dtype=np.int64)
    for number, rows in enumerate(tested):
        fold[rows] = number
    return fold


def _possible_gates(
    groups: NDArray[np.str_], ids: list[str], classes: BoolArray | None
) -> Iterator[tuple[BoolArray, str]]:
    """Choices of gate rows with their descriptions; the first that can be trained without is used."""
    held_out = gate_batteries(ids)
    if held_out:
        yield _held_out(groups, ids, held_out)
    else:
        yield _last_fifth(groups), f"the last fifth of each of {len(ids)} batteries held out for the gate"
    if classes is not None:
        needed: list[str] = []
        for name in _ranked(ids):
            if len(needed) < max(len(held_out), 1) and _fits(~np.isin(groups, [*needed, name]), classes):
                needed.append(name)
        if needed:
            yield _held_out(groups, ids, needed)


def _held_out(groups: NDArray[np.str_], ids: list[str], names: list[str]) -> tuple[BoolArray, str]:
    return np.isin(groups, names), f"{len(names)} of {len(ids)} batteries held out for the gate"


def _of(classes: BoolArray | None, rows: BoolArray) -> BoolArray | None:
    return None if classes is None else classes[rows]


def _obstacle(groups: NDArray[np.str_], n: int, classes: BoolArray | None) -> str:
    """Why no split can be fitted, as a sentence."""
    if classes is None:
        return (
            f"no split of the {len(groups)} labelled rows of {n} {_batteries(n)} leaves {MIN_TRAINING_ROWS} of them in "
            "every training part; more rows are needed"
        )
    failing, healthy = (len(np.unique(groups[rows])) for rows in (classes, ~classes))
    return (
        f"rows that are followed by a failure are known of {failing} {_batteries(failing)} and rows that are not of "
        f"{healthy}: no split leaves both in every training part; failures of more batteries are needed"
    )


def _batteries(n: int) -> str:
    return "battery" if n == 1 else "batteries"


def _last_fifth(groups: NDArray[np.str_]) -> BoolArray:
    position = pd.Series(groups).groupby(groups).cumcount().to_numpy()
    size = pd.Series(groups).groupby(groups).transform("size").to_numpy()
    return np.asarray(position >= np.ceil(0.8 * size))
