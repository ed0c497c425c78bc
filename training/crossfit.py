"""Out-of-fold predictions by cross-validation, the final fit, and baseline predictions beside both."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveInt
from sklearn.pipeline import Pipeline

from features.targets import Target
from telemetry.parameters import Parameters
from training.baselines import BASELINES
from training.domain import Domain
from training.forests import ForestParams, fit, importance, inputs, predict, spread
from training.splits import Split, thinned

#: Called with the number of a fold and its predictions.
OnFold = Callable[[int, pd.DataFrame], None]

log = logging.getLogger(__name__)

_KEYS = ("battery_id", "time", "cycle_index", "life_quarter")


class TrainParams(Parameters):
    """`train` in params.yaml.

    Attributes:
        max_rows: largest number of rows that a forest is fitted to; None: all.
    """

    section: ClassVar[str] = "train"

    max_rows: PositiveInt | None = None


def out_of_fold(
    table: pd.DataFrame,
    target: Target,
    params: ForestParams,
    split: Split,
    seed: int,
    on_fold: OnFold | None = None,
    max_rows: int | None = None,
) -> pd.DataFrame:
    """Predict every fold with a model (and baselines) fitted on the training rows of that fold.

    Args:
        on_fold: called after each fold.
        max_rows: see `fit_thinned`.

    Returns:
        One row for each row of `table` in a test fold: keys, `actual`, `predicted`, `fold`, `baseline_<name>`,
        `domain_distance` and, of a regression, `spread`.
    """
    parts = []
    for test_fold in split.test_folds:
        train, rows = table[split.training_rows(test_fold)], table[split.fold == test_fold]
        log.info("%s: fold %d of %d, %d training rows", target.name, test_fold + 1, len(split.test_folds), len(train))
        model = fit_thinned(train, target, params, seed, max_rows)
        parts.append(predict_with_baselines(model, train, rows, target, params).assign(fold=test_fold))
        if on_fold is not None:
            on_fold(test_fold, parts[-1])
    return pd.concat(parts).sort_index().reset_index(drop=True)


def fit_thinned(
    train: pd.DataFrame, target: Target, params: ForestParams, seed: int, max_rows: int | None = None
) -> Pipeline:
    """Fit a model on every k-th of the rows `train`, so that at most `max_rows` are used (None: all).

    Rows of one battery repeat each other, so that a part of them trains nearly as well.
    """
    return fit(thinned(train, target, max_rows), target, params, seed)


def domain(model: Pipeline, train: pd.DataFrame, target: Target) -> Domain:
    """Domain of `model`, which was fitted to rows of `train`."""
    return Domain.measured(target.feature_names, inputs(train, target), importance(model))


def predict_with_baselines(
    model: Pipeline, train: pd.DataFrame, rows: pd.DataFrame, target: Target, params: ForestParams
) -> pd.DataFrame:
    """Predictions of `model` and of the baselines (fitted on `train`) for `rows`, with the actual values."""
    predictions = rows[list(_KEYS)].assign(
        actual=rows[target.label].to_numpy(dtype=float),
        predicted=predict(model, rows, target),
    )
    if target.kind == "regression":
        predictions["spread"] = spread(model, rows, target, params.steps)
    predictions["domain_distance"] = domain(model, train, target).distance(inputs(rows, target))
    for name in target.baselines:
        if name in BASELINES:
            predictions[f"baseline_{name}"] = BASELINES[name](train, rows, target)
    if "cycles" in rows:
        predictions["cycles"] = rows["cycles"].to_numpy(dtype=float)
    return predictions.astype({"actual": np.float64})
