"""Drift reference: a sample of the training rows, registered with the model, with which later data are compared."""

from __future__ import annotations

import numpy as np
import pandas as pd

from features.table import KEYS
from features.targets import Target
from training.registry.gate_scores import FEATURE_PREFIX
from training.splits import split

#: Together they limit the reference to some megabytes.
MAX_BATTERIES = 64
MAX_ROWS_PER_BATTERY = 240


def reference_rows(table: pd.DataFrame, out_of_fold: pd.DataFrame, target: Target, seed: int) -> pd.DataFrame:
    """Sample of up to 64 batteries drawn with `seed`, and of each up to 240 rows, evenly spread over its record.

    Evenly, so that the autocorrelation of the rows of a battery can be estimated from the sample.

    Args:
        table: training table, in the order used for the fit.
        out_of_fold: predictions by `training.crossfit.out_of_fold`.

    Returns:
        `battery_id`, `time`, `cycle_index`, `actual`, `predicted` and the features, named as in gate rows.
    """
    in_folds = table[split(table, target).fold >= 0].reset_index(drop=True)
    keys = [key for key in KEYS if key != "life_quarter"]
    features = in_folds[list(target.feature_names)].add_prefix(FEATURE_PREFIX)
    rows = pd.concat([in_folds[keys], out_of_fold[["actual", "predicted"]].reset_index(drop=True), features], axis=1)
    ids = np.sort(rows["battery_id"].unique().astype(str))
    if len(ids) > MAX_BATTERIES:
        ids = np.random.default_rng(seed).choice(ids, MAX_BATTERIES, replace=False)
    drawn = rows[rows["battery_id"].isin(ids)]
    position = drawn.groupby("battery_id").cumcount().to_numpy()
    size = drawn.groupby("battery_id")["battery_id"].transform("size").to_numpy()
    sample: pd.DataFrame = drawn.loc[position % np.ceil(size / MAX_ROWS_PER_BATTERY) == 0]
    return sample.reset_index(drop=True)
