"""Splits: no battery in training and test, gate rows never trained on, and time order for a single battery."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from features.targets import TARGETS
from training.splits import MIN_ROWS_OF_A_CLASS, Split, UntrainableError, fitting_parts, gate_batteries, split

FAILURE, SOH = TARGETS["failure"], TARGETS["soh"]


def rows_of(sizes: dict[str, int]) -> pd.DataFrame:
    return pd.DataFrame({"battery_id": np.repeat(list(sizes), list(sizes.values()))})


@given(st.dictionaries(st.text("abcdef0123", min_size=1, max_size=6), st.integers(1, 40), min_size=2, max_size=30))
def test_no_battery_is_in_training_and_test(sizes: dict[str, int]) -> None:
    table = rows_of(dict(sorted(sizes.items())))
    try:
        division = split(table, SOH)
    except UntrainableError:
        assume(sum(sizes.values()) - max(sizes.values()) < 10)
        return
    for test_fold in division.test_folds:
        trained = set(table["battery_id"][division.training_rows(test_fold)])
        assert not trained & set(table["battery_id"][division.fold == test_fold])
    assert set(division.fold) >= {0, 1}
    if len(sizes) >= 5:
        assert not set(table["battery_id"][division.gate]) & set(table["battery_id"][division.final_rows()])


def test_gate_batteries_are_a_fixed_fifth() -> None:
    ids = [f"cell-{k:03d}" for k in range(89)]
    chosen = gate_batteries(ids)
    assert len(chosen) == 18
    assert gate_batteries(list(reversed(ids))) == chosen
    assert gate_batteries(ids[:4]) == []


def test_one_battery_is_split_by_time() -> None:
    division = split(rows_of({"only": 600}), SOH)
    assert division.by == "time"
    for test_fold in division.test_folds:
        assert (
            np.flatnonzero(division.training_rows(test_fold)).max() < np.flatnonzero(division.fold == test_fold).min()
        )
    assert (division.fold[division.gate] == 4).all()
    assert not division.training_rows(4)[division.gate].any()


@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_batteries_have_one_fold_each(n: int) -> None:
    division = split(rows_of({f"b{k}": 50 for k in range(n)}), SOH)
    assert len(division.test_folds) == n
    assert division.gate.sum() == 10 * n


def lives(failing: dict[str, int], *, rows: int = 120) -> pd.DataFrame:
    """Rows of batteries, of which the last `failing` rows are followed by a failure."""
    parts = [
        pd.DataFrame({"battery_id": name, FAILURE.label: (np.arange(rows) >= rows - last).astype(float)})
        for name, last in failing.items()
    ]
    return pd.concat(parts, ignore_index=True)


def training_parts(table: pd.DataFrame, division: Split) -> list[pd.Series]:
    """The labels of every training part: of the folds, of the final fit and of the tuning."""
    labels, kept = table[FAILURE.label], division.final_rows()
    folds = [labels[division.training_rows(fold)] for fold in division.test_folds]
    tuning = fitting_parts(division.fold[kept], division.by, labels[kept].to_numpy() > 0.5)
    return [*folds, labels[kept], *(labels[kept][train] for _, train in tuning)]


@pytest.mark.parametrize(
    "failing",
    [
        pytest.param({f"cell-{k}": 20 for k in range(4)}, id="four cells fail in their last sixth"),
        pytest.param({f"cell-{k}": 20 for k in range(3)}, id="three cells"),
        pytest.param({f"cell-{k}": 20 * (k in (0, 5)) for k in range(10)}, id="two that GroupKFold puts into one fold"),
        pytest.param({f"cell-{k}": 20 * (k in (4, 6)) for k in range(10)}, id="both would be gate batteries"),
    ],
)
def test_every_training_part_has_both_classes(failing: dict[str, int]) -> None:
    table = lives(failing)
    division = split(table, FAILURE)
    parts = training_parts(table, division)
    assert len(parts) > len(division.test_folds) + 1, "the tuning has a fold"
    for part in parts:
        assert min((part == 0.0).sum(), (part == 1.0).sum()) >= MIN_ROWS_OF_A_CLASS
    assert division.gate.any()


def test_the_parts_above_have_one_class_without_regard_to_the_label() -> None:
    """Negative control: what the target is given for."""
    table = lives({f"cell-{k}": 20 for k in range(4)})
    division = split(table, SOH)
    assert (table[FAILURE.label][division.final_rows()] == 0.0).all()
    table = lives({f"cell-{k}": 20 for k in range(10)})
    assert split(table, FAILURE).description == split(table, SOH).description, "nothing else changes"


@pytest.mark.parametrize("count", [1, 2, 6])
def test_failures_of_one_battery_cannot_be_split(count: int) -> None:
    table = lives({f"cell-{k}": 20 * (k == 1 or count == 1) for k in range(count)})
    with pytest.raises(UntrainableError, match="followed by a failure are known of 1 battery"):
        split(table, FAILURE)


def test_short_record_of_one_battery_is_trained_on_its_later_blocks() -> None:
    division = split(rows_of({"only": 50}), SOH)
    assert all(division.training_rows(fold).sum() >= 10 for fold in division.test_folds)
    assert division.test_folds[-1] == 4
    with pytest.raises(UntrainableError, match="no split of the 20 labelled rows of 1 battery"):
        split(rows_of({"only": 20}), SOH)
