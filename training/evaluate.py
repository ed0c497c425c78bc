"""The numbers that are reported: measures out of fold and on the gate, beside every honest baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from features.state import FloatArray
from features.targets import Target
from training.baselines import LINEAR_EXTRAPOLATION, linear_extrapolation
from training.measures import Measures, error_measure, measures, regression_measures, skill

_BASELINE = "baseline_"


def add_linear_extrapolation(
    judged: pd.DataFrame, health: pd.DataFrame, eol_fraction: float, longest: float
) -> pd.DataFrame:
    """`judged` (remaining life) with the baseline that extrapolates the health model's own predictions.

    Args:
        judged: predictions of remaining life, with `battery_id` and `cycle_index`.
        health: predictions of health for the same batteries, none of which its model had seen.
        eol_fraction: health at which life ends.
        longest: remaining life said where the line does not fall.
    """
    keys = ["battery_id", "cycle_index"]
    estimates = health[[*keys, "predicted"]].drop_duplicates(keys).rename(columns={"predicted": "_soh"})
    # The line is drawn through every estimate of a battery, also those without a label of remaining life.
    track = estimates.sort_values(keys, kind="stable", ignore_index=True)
    track[_BASELINE + LINEAR_EXTRAPOLATION] = linear_extrapolation(
        track["battery_id"], track["cycle_index"].to_numpy(dtype=float), track["_soh"].to_numpy(), eol_fraction, longest
    )
    merged = judged.merge(track.drop(columns="_soh"), on=keys, how="left")
    return merged.fillna({_BASELINE + LINEAR_EXTRAPOLATION: longest})


def report(target: Target, judged: pd.DataFrame) -> dict[str, Any]:
    """One target's entry of `reports/metrics.json`.

    Args:
        judged: `battery_id`, `actual`, `predicted`, `life_quarter` and `baseline_<name>` columns.
    """
    actual = judged["actual"].to_numpy(dtype=float)
    baselines = {
        column.removeprefix(_BASELINE): measures(target, actual, judged[column].to_numpy(dtype=float))
        for column in judged.columns
        if column.startswith(_BASELINE)
    }
    own = measures(target, actual, judged["predicted"].to_numpy(dtype=float))
    decisive = error_measure(target)
    return {
        **own,
        "skill": skill(own[decisive], {name: values[decisive] for name, values in baselines.items()}),
        "unit": target.unit,
        "n_batteries": int(judged["battery_id"].nunique()),
        "n_rows": len(judged),
        "baselines": baselines,
        "by_life_quarter": _by_quarter(target, judged),
    }


def _by_quarter(target: Target, judged: pd.DataFrame) -> list[dict[str, Any]]:
    entries = []
    for quarter, rows in judged.groupby("life_quarter", sort=True):
        actual, predicted = rows["actual"].to_numpy(dtype=float), rows["predicted"].to_numpy(dtype=float)
        if target.kind == "classification":
            values: Measures = {"brier": float(np.mean((actual - predicted) ** 2)), "rate": float(actual.mean())}
        else:
            values = {key: regression_measures(actual, predicted)[key] for key in ("mae", "rmse")}
        entries.append({"quarter": int(float(str(quarter))), "n_rows": len(rows), **values})
    return entries


def by_fold(target: Target, judged: pd.DataFrame) -> list[dict[str, Any]]:
    """The decisive error of each fold and who was in it."""
    decisive = error_measure(target)
    return [
        {
            "fold": int(str(fold)),
            decisive: measures(target, rows["actual"].to_numpy(), rows["predicted"].to_numpy())[decisive],
            "batteries": sorted(rows["battery_id"].unique().tolist()),
        }
        for fold, rows in judged.groupby("fold", sort=True)
    ]


def signal_of(feature: str) -> str:
    """The signal that a feature is a statistic of; a feature of its own otherwise."""
    return feature.split("__")[0]


def permutation_importance(
    predict: Any, table: pd.DataFrame, target: Target, *, seed: int, repeats: int = 3, max_rows: int = 1500
) -> pd.DataFrame:
    """How much the decisive error grows when one signal is shuffled between rows (Breiman 2001).

    All statistics of a signal are shuffled together: they stand in for one another, and shuffling one
    alone would show that none matters.

    Args:
        predict: callable, frame -> float64[n] in the target's unit.
        table: rows that the model has not seen, with features and label.

    Returns:
        `signal`, `increase` (mean over repeats, in the error's unit), largest first.
    """
    rows = table.iloc[:: max(1, -(-len(table) // max_rows))].reset_index(drop=True)
    actual = rows[target.label].to_numpy(dtype=float)
    rng = np.random.default_rng(seed)
    decisive = error_measure(target)

    def error(frame: pd.DataFrame) -> float:
        predicted: FloatArray = predict(frame)
        return measures(target, actual, predicted)[decisive]

    whole = error(rows)
    increases = {}
    signals = dict.fromkeys(signal_of(name) for name in target.feature_names)
    for signal in signals:
        columns = [name for name in target.feature_names if signal_of(name) == signal]
        if rows[columns].isna().all(axis=None):
            continue
        changes = []
        for _ in range(repeats):
            shuffled = rows.copy()
            shuffled[columns] = rows[columns].to_numpy()[rng.permutation(len(rows))]
            changes.append(error(shuffled) - whole)
        increases[signal] = float(np.mean(changes))
    table_out = pd.DataFrame({"signal": list(increases), "increase": list(increases.values())})
    return table_out.sort_values("increase", ascending=False, kind="stable", ignore_index=True)
