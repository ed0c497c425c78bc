"""What a model was fitted on, in small: kept beside it, so that what it meets later can be held against it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from features.table import KEYS
from features.targets import Target
from training.registry.gate_scores import FEATURE_PREFIX
from training.splits import split

#: Some megabytes at most.
MAX_BATTERIES = 64
MAX_ROWS_PER_BATTERY = 240


def reference_rows(table: pd.DataFrame, judged: pd.DataFrame, target: Target, seed: int) -> pd.DataFrame:
    """Rows of up to 64 batteries drawn by `seed`, of each up to 240, evenly spread over its record.

    Evenly, so that neighbours stay neighbours: rows of one battery and time resemble each other, and whoever wants to
    know how much they do needs them together.

    Args:
        table: that the model was fitted on, in its order.
        judged: its predictions by models that had not seen the battery, of `training.crossfit.out_of_fold`.

    Returns:
        `battery_id`, `time`, `cycle_index`, `actual`, `predicted` and the features, named as in gate rows.
    """
    seen = table[split(table).fold >= 0].reset_index(drop=True)
    keys = [key for key in KEYS if key != "life_quarter"]
    features = seen[list(target.feature_names)].add_prefix(FEATURE_PREFIX)
    rows = pd.concat([seen[keys], judged[["actual", "predicted"]].reset_index(drop=True), features], axis=1)
    ids = np.sort(rows["battery_id"].unique().astype(str))
    if len(ids) > MAX_BATTERIES:
        ids = np.random.default_rng(seed).choice(ids, MAX_BATTERIES, replace=False)
    kept = rows[rows["battery_id"].isin(ids)]
    place = kept.groupby("battery_id").cumcount().to_numpy()
    size = kept.groupby("battery_id")["battery_id"].transform("size").to_numpy()
    thin: pd.DataFrame = kept.loc[place % np.ceil(size / MAX_ROWS_PER_BATTERY) == 0]
    return thin.reset_index(drop=True)
