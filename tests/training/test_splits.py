"""Splits: no battery in training and test, gate rows never trained on, and time order for a single battery."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.splits import gate_batteries, split


def rows_of(sizes: dict[str, int]) -> pd.DataFrame:
    return pd.DataFrame({"battery_id": np.repeat(list(sizes), list(sizes.values()))})


@given(st.dictionaries(st.text("abcdef0123", min_size=1, max_size=6), st.integers(1, 40), min_size=2, max_size=30))
def test_no_battery_is_in_training_and_test(sizes: dict[str, int]) -> None:
    table = rows_of(dict(sorted(sizes.items())))
    division = split(table)
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
    division = split(rows_of({"only": 600}))
    assert division.by == "time"
    for test_fold in division.test_folds:
        assert (
            np.flatnonzero(division.training_rows(test_fold)).max() < np.flatnonzero(division.fold == test_fold).min()
        )
    assert (division.fold[division.gate] == 4).all()
    assert not division.training_rows(4)[division.gate].any()


@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_batteries_have_one_fold_each(n: int) -> None:
    division = split(rows_of({f"b{k}": 50 for k in range(n)}))
    assert len(division.test_folds) == n
    assert division.gate.sum() == 10 * n
