"""Predictions for batteries that the model had not seen: out of fold for all, and for the gate."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from features.targets import Target
from training.baselines import BASELINES
from training.forests import ForestParams, fit, predict
from training.splits import Split

log = logging.getLogger(__name__)

_KEPT = ("battery_id", "time", "cycle_index", "life_quarter")


def out_of_fold(table: pd.DataFrame, target: Target, params: ForestParams, split: Split, seed: int) -> pd.DataFrame:
    """Judge every fold by a model (and by the baselines) of the rows that may train it.

    Returns:
        One row for each judged row of `table`: keys, `actual`, `predicted`, `fold`, `baseline_<name>`.
    """
    parts = []
    for judged in split.test_folds:
        train, rows = table[split.training_rows(judged)], table[split.fold == judged]
        log.info("%s: fold %d of %d, %d rows train", target.name, judged + 1, len(split.test_folds), len(train))
        model = fit(train, target, params, seed)
        parts.append(predict_with_baselines(model, train, rows, target).assign(fold=judged))
    return pd.concat(parts).sort_index().reset_index(drop=True)


def fit_final(table: pd.DataFrame, target: Target, params: ForestParams, split: Split, seed: int) -> Pipeline:
    """The model that is registered: fitted on everything but the gate's rows."""
    return fit(table[split.final_rows()], target, params, seed)


def predict_with_baselines(model: Pipeline, train: pd.DataFrame, rows: pd.DataFrame, target: Target) -> pd.DataFrame:
    """What `model` and the baselines, learned from `train`, say of `rows`, beside the truth."""
    judged = rows[list(_KEPT)].assign(
        actual=rows[target.label].to_numpy(dtype=float),
        predicted=predict(model, rows, target),
    )
    for name in target.baselines:
        if name in BASELINES:
            judged[f"baseline_{name}"] = BASELINES[name](train, rows, target)
    if "cycles" in rows:
        judged["cycles"] = rows["cycles"].to_numpy(dtype=float)
    return judged.astype({"actual": np.float64})
