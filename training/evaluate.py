"""Evaluation report: error measures of a model and its baselines, by fold and life quarter, and importances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from features.state import FloatArray
from features.targets import Target, signal_of
from telemetry.thresholds import thresholds
from training.alarms import alarm_measures
from training.baselines import LINEAR_EXTRAPOLATION, linear_extrapolation
from training.intervals import interval_measures
from training.measures import Measures, error_measure, measures, regression_measures, skill

_BASELINE = "baseline_"


def add_linear_extrapolation(
    predictions: pd.DataFrame, soh_predictions: pd.DataFrame, eol_fraction: float, longest: float
) -> pd.DataFrame:
    """`predictions` of remaining life with the baseline that extrapolates the predicted state of health.

    Args:
        predictions: of remaining life, with `battery_id` and `cycle_index`.
        soh_predictions: out-of-fold predictions of the state of health of the same batteries.
        eol_fraction: state of health at the end of life.
        longest: upper limit of the remaining life, also used where the line does not fall.
    """
    keys = ["battery_id", "cycle_index"]
    estimates = soh_predictions[[*keys, "predicted"]].drop_duplicates(keys).rename(columns={"predicted": "_soh"})
    # The line is fitted to every estimate of a battery, also to those without a label of remaining life.
    track = estimates.sort_values(keys, kind="stable", ignore_index=True)
    track[_BASELINE + LINEAR_EXTRAPOLATION] = linear_extrapolation(
        track["battery_id"], track["cycle_index"].to_numpy(dtype=float), track["_soh"].to_numpy(), eol_fraction, longest
    )
    merged = predictions.merge(track.drop(columns="_soh"), on=keys, how="left")
    return merged.fillna({_BASELINE + LINEAR_EXTRAPOLATION: longest})


def report(target: Target, predictions: pd.DataFrame, interval: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One target's entry of `reports/metrics.json`.

    Args:
        predictions: `battery_id`, `actual`, `predicted`, `life_quarter` and `baseline_<name>` columns, and `lower` and
            `upper` of a model with intervals.
        interval: of `fit.json`: the calibration, or the reason why there is none.
    """
    own, baselines = errors_by_model(target, predictions)
    primary = error_measure(target)
    return {
        **own,
        "skill": skill(own[primary], {name: values[primary] for name, values in baselines.items()}),
        "unit": target.unit,
        "n_batteries": int(predictions["battery_id"].nunique()),
        "n_rows": len(predictions),
        "baselines": baselines,
        "by_life_quarter": _by_quarter(target, predictions),
        **({} if interval is None else {"interval": _interval(predictions, interval)}),
        **(
            {"alarms": [alarm_measures(predictions, limit) for limit in _alarm_thresholds()]}
            if target.kind == "classification" and "time" in predictions
            else {}
        ),
    }


def _alarm_thresholds() -> list[float]:
    """The thresholds of the failure probability in the status of a battery: warning and critical."""
    row = thresholds("status")["failure_probability"]
    return [limit for limit in (row.warning, row.critical) if limit is not None]


def _interval(predictions: pd.DataFrame, interval: Mapping[str, Any]) -> dict[str, Any]:
    if "coverage" not in interval:
        return dict(interval)
    # Out of fold, the other folds may have too few batteries although all of them together have enough.
    rows = predictions.dropna(subset=["lower", "upper"]) if "lower" in predictions else predictions[:0]
    if rows.empty:
        return {"reason": "too few batteries in the other folds"}

    def measured(part: pd.DataFrame) -> dict[str, Any]:
        actual, lower, upper = (part[name].to_numpy(dtype=float) for name in ("actual", "lower", "upper"))
        return interval_measures(actual, lower, upper, part["battery_id"], interval["coverage"])

    quarters = [
        {"quarter": int(float(str(quarter))), "n_rows": len(part)}
        | {key: value for key, value in measured(part).items() if key != "nominal"}
        for quarter, part in rows.groupby("life_quarter", sort=True)
    ]
    return {**measured(rows), "by_life_quarter": quarters}


def errors_by_model(target: Target, predictions: pd.DataFrame) -> tuple[Measures, dict[str, Measures]]:
    """Error measures of the model, and of each baseline by its name."""
    actual = predictions["actual"].to_numpy(dtype=float)
    baselines = {
        column.removeprefix(_BASELINE): measures(target, actual, predictions[column].to_numpy(dtype=float))
        for column in predictions.columns
        if column.startswith(_BASELINE)
    }
    return measures(target, actual, predictions["predicted"].to_numpy(dtype=float)), baselines


def _by_quarter(target: Target, predictions: pd.DataFrame) -> list[dict[str, Any]]:
    entries = []
    for quarter, rows in predictions.groupby("life_quarter", sort=True):
        actual, predicted = rows["actual"].to_numpy(dtype=float), rows["predicted"].to_numpy(dtype=float)
        if target.kind == "classification":
            values: Measures = {"brier": float(np.mean((actual - predicted) ** 2)), "rate": float(actual.mean())}
        else:
            values = {key: regression_measures(actual, predicted)[key] for key in ("mae", "rmse")}
        entries.append({"quarter": int(float(str(quarter))), "n_rows": len(rows), **values})
    return entries


def by_fold(target: Target, predictions: pd.DataFrame) -> list[dict[str, Any]]:
    """The primary error measure and the batteries of each cross-validation fold."""
    primary = error_measure(target)
    return [
        {
            "fold": int(str(fold)),
            primary: measures(target, rows["actual"].to_numpy(), rows["predicted"].to_numpy())[primary],
            "batteries": sorted(rows["battery_id"].unique().tolist()),
        }
        for fold, rows in predictions.groupby("fold", sort=True)
    ]


def permutation_importance(
    predict: Any, table: pd.DataFrame, target: Target, *, seed: int, repeats: int = 3, max_rows: int = 1500
) -> pd.DataFrame:
    """Increase of the primary error when one signal is permuted between rows (Breiman 2001).

    All statistics of a signal are permuted together: they are correlated, so that permuting one alone would
    show no increase.

    Args:
        predict: callable, frame -> float64[n] in the target's unit.
        table: rows not used for fitting, with features and label.

    Returns:
        `signal`, `increase` (mean over repeats, in the error's unit), largest first.
    """
    rows = table.iloc[:: max(1, -(-len(table) // max_rows))].reset_index(drop=True)
    actual = rows[target.label].to_numpy(dtype=float)
    rng = np.random.default_rng(seed)
    primary = error_measure(target)

    def error(frame: pd.DataFrame) -> float:
        predicted: FloatArray = predict(frame)
        return measures(target, actual, predicted)[primary]

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
