"""Splits and report of the benchmark of the models; the figures themselves are those of a run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.models import (
    N_FOLDS,
    baseline,
    cut_off,
    folds,
    forest,
    gradient_boosting,
    held_out,
    markdown,
    scores,
)
from features.labels import OBSERVED
from features.targets import TARGETS
from tests.training.test_censoring import lives
from training.forests import ForestParams

RUL = TARGETS["rul"]
PARAMS = ForestParams(10, max_depth=None, min_samples_leaf=3, splits="random", steps=2)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return lives(1, 30).assign(life_quarter=np.tile(np.repeat([1.0, 2.0, 3.0, 4.0], 10), 30))


@pytest.mark.parametrize("shuffle", [None, 0, 3])
def test_folds_depend_on_the_names_alone(shuffle: int | None) -> None:
    names = [f"B{i}" for i in range(23)]
    found = folds(names, shuffle)
    assert found == folds([*reversed(names), *names], shuffle)
    assert set(found.values()) == set(range(N_FOLDS))
    assert (found != folds(names, None)) == (shuffle is not None)


def test_each_battery_is_predicted_by_a_model_of_the_others(table: pd.DataFrame) -> None:
    seen: list[set[str]] = []

    def model(train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
        assert not set(train["battery_id"]) & set(test["battery_id"])
        seen.append(set(test["battery_id"]))
        return pd.DataFrame({"predicted": 0.0}, index=test.index)

    rows = held_out(table, RUL, model, 1)
    assert set.union(*seen) == set(table["battery_id"])
    assert len(rows) == len(table)


def test_cut_off_batteries_keep_no_label_and_end_within_their_lives(table: pd.DataFrame) -> None:
    complete, others = cut_off(table, 1)
    assert complete["battery_id"].nunique() == 3
    assert not set(complete["battery_id"]) & set(others["battery_id"])
    assert RUL.label not in others
    true_left = others[OBSERVED].to_numpy() - table.loc[others.index, RUL.label].to_numpy()
    assert (true_left <= 0.0).all()


def test_report_names_every_model_with_intervals_of_the_forest(table: pd.DataFrame) -> None:
    models = {
        "forest": forest(RUL, PARAMS, None, None),
        "gradient boosting": gradient_boosting(RUL),
        "mean": baseline(RUL, "mean"),
    }
    runs = {
        name: [{"shuffle": shuffle, **scores(RUL, held_out(table, RUL, model, shuffle))} for shuffle in (None, 0)]
        for name, model in models.items()
    }
    assert runs["forest"][0]["mae"] < runs["mean"][0]["mae"]
    assert runs["forest"][0]["intervals"]["forest"]["coverage_by_battery"] > 0.8
    entry = {"batteries": 30, "rows": len(table), "unit": RUL.unit, "models": runs}
    censored = [{"seed": 0, "complete_batteries": 3, "drop": 100.0, "impute": 80.0}]
    text = markdown({"made_up": {"targets": {"rul": {**entry, "censoring": censored}}}})
    for expected in (
        "## made_up",
        "| forest |",
        "| gradient boosting |",
        "| constant |",
        "| 0 | 3 | 100 | 80 | -20% |",
    ):
        assert expected in text
