"""Out-of-fold predictions by cross-validation, the final fit, and baseline predictions beside both."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
from pydantic import PositiveInt
from sklearn.pipeline import Pipeline

from features.targets import Target
from telemetry.parameters import Parameters
from training.baselines import BASELINES
from training.censoring import imputed
from training.domain import Domain
from training.forest_library import Library
from training.forests import ForestParams, fit, importance, inputs, predict, spread
from training.splits import Split, thinned

#: Called with the number of a fold and its predictions.
OnFold = Callable[[int, pd.DataFrame], None]

log = logging.getLogger(__name__)

_KEYS = ("battery_id", "time", "cycle_index", "life_quarter")


#: Most rows of censored batteries, as a multiple of the other rows.
_CENSORED_ROWS = 2


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
    censored: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Predict every fold with a model (and baselines) fitted on the training rows of that fold.

    Args:
        on_fold: called after each fold.
        max_rows, censored: see `fit_thinned`.

    Returns:
        One row for each row of `table` in a test fold: keys, `actual`, `predicted`, `fold`, `baseline_<name>`,
        `domain_distance` and, of a regression, `spread`.
    """
    parts = []
    for test_fold in split.test_folds:
        train, rows = table[split.training_rows(test_fold)], table[split.fold == test_fold]
        log.info("%s: fold %d of %d, %d training rows", target.name, test_fold + 1, len(split.test_folds), len(train))
        model = fit_thinned(train, target, params, seed, max_rows, censored)
        seen = train if censored is None else pd.concat([train, censored], ignore_index=True)
        parts.append(predict_with_baselines(model, train, rows, target, params, seen).assign(fold=test_fold))
        if on_fold is not None:
            on_fold(test_fold, parts[-1])
    return pd.concat(parts).sort_index().reset_index(drop=True)


def fit_thinned(
    train: pd.DataFrame,
    target: Target,
    params: ForestParams,
    seed: int,
    max_rows: int | None = None,
    censored: pd.DataFrame | None = None,
    library: Library = "scikit-learn",
) -> Pipeline:
    """Fit a model on every k-th of the rows `train`, so that at most `max_rows` are used (None: all).

    Rows of one battery repeat each other, so that a part of them trains nearly as well.

    Args:
        censored: rows of other batteries that have not reached their end of life, see `training.censoring`; they are
            thinned by the same factor, and to `_CENSORED_ROWS` times the other rows.  None if there are none.
    """
    rows = thinned(train, target, max_rows)
    if censored is None or params.censored == "drop":
        return fit(rows, target, params, seed, library)
    # The second step would be fitted to errors that are small beside those of the extrapolation.
    first = fit(rows, target, replace(params, steps=1), seed, library)
    others = imputed(censored, target, lambda newest: predict(first, newest, target))
    every = max(round(len(train) / len(rows)), -(-len(others) // (_CENSORED_ROWS * len(rows))))
    both = pd.concat([rows, others.iloc[::every]], ignore_index=True)
    return fit(thinned(both, target, max_rows), target, params, seed, library)


def domain(model: Pipeline, train: pd.DataFrame, target: Target) -> Domain:
    """Domain of `model`, which was fitted to rows of `train` (labelled or not)."""
    return Domain.measured(target.feature_names, inputs(train, target), importance(model))


def predict_with_baselines(
    model: Pipeline, train: pd.DataFrame, rows: pd.DataFrame, target: Target, params: ForestParams, seen: pd.DataFrame
) -> pd.DataFrame:
    """Predictions of `model` and of the baselines (fitted on `train`) for `rows`, with the actual values.

    Args:
        seen: rows that `model` was fitted to or that the fitted ones were taken from, also those without labels.
    """
    predictions = rows[list(_KEYS)].assign(
        actual=rows[target.label].to_numpy(dtype=float),
        predicted=predict(model, rows, target),
    )
    if target.kind == "regression":
        predictions["spread"] = spread(model, rows, target, params.steps)
    predictions["domain_distance"] = domain(model, seen, target).distance(inputs(rows, target))
    for name in target.baselines:
        if name in BASELINES:
            predictions[f"baseline_{name}"] = BASELINES[name](train, rows, target)
    if "cycles" in rows:
        predictions["cycles"] = rows["cycles"].to_numpy(dtype=float)
    return predictions.astype({"actual": np.float64})
