"""Data leakage check: rejects a feature table whose features contain or determine the target.

Three kinds of leakage, through which a published system reached R2 = 1.0, are rejected, each with the
feature's name: the target among the features, a value from the future, and a formula of the target.  What counts
towards the end of life is arithmetic of the age within one battery; that is no leak.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeRegressor

from features.state import FloatArray
from features.state_update import IntArray
from features.targets import Target
from telemetry.errors import TwinError

#: Held-out R2 (or AUC) above which a feature, or a formula of features, is taken to determine the target.
DETERMINED = 0.9995
_MAX_ROWS = 6000
#: Score of predictions of the label on the held-out rows; 1 is perfect.
_Score = Callable[[FloatArray], float]


class LeakageError(TwinError):
    """Raised for a feature that leaks the target; `.field` is its name."""


def reject_labels(target: Target, feature_names: tuple[str, ...]) -> None:
    """Reject the label, and the columns that it is computed from, among the features."""
    for name in feature_names:
        if name == target.label or name.split("__")[0] in target.forbidden:
            raise LeakageError(
                f"{name} is a label of {target.name} and cannot be one of its features: remove it from the target's "
                "entry in features/targets.py",
                field=name,
            )


def reject_future_values(
    table: pd.DataFrame, on_prefix: pd.DataFrame, feature_names: tuple[str, ...], keys: tuple[str, ...]
) -> None:
    """Reject features whose value at a row depends on later data.

    Args:
        table: features computed on the whole history.
        on_prefix: features computed on only the beginning of each battery's history.
        keys: columns that identify a row in both.
    """
    both = on_prefix.merge(table, on=list(keys), suffixes=("_prefix", "_whole"), how="inner")
    if both.empty:
        raise LeakageError("leakage check: no row to compare, the beginning of every history gave no features")
    for name in feature_names:
        prefix, whole = both[f"{name}_prefix"].to_numpy(), both[f"{name}_whole"].to_numpy()
        changed = (prefix != whole) & ~(pd.isna(prefix) & pd.isna(whole))
        if changed.any():
            at = int(np.flatnonzero(changed)[0])
            raise LeakageError(
                f"{name} comes from the future: at row {at} it is {whole[at]} with the whole history and {prefix[at]} "
                "without the later data",
                field=name,
                value=float(whole[at]),
            )


def reject_target_formulas(table: pd.DataFrame, target: Target, feature_names: tuple[str, ...]) -> None:
    """Reject a feature, or a linear or product formula of features, that determines the target.

    Fitted on half of the batteries and scored on the other half; with one battery, on the halves of its record.  A
    target that counts towards an event (remaining life, failure within a horizon) is arithmetic of the age within one
    battery: a formula of it has to determine what the age leaves open, and is not judged if that is nothing.
    """
    fit, test = _halves(table)
    truth = table[target.label].to_numpy(dtype=float)
    if np.ptp(truth[fit]) == 0.0 or np.ptp(truth[test]) == 0.0:
        return
    score = _score(table, target, fit, test)
    if score is None:
        return
    columns = {name: table[name].to_numpy(dtype=float) for name in feature_names}
    for name, values in columns.items():
        if np.isnan(values).all():
            continue
        x = np.nan_to_num(values, nan=-1e6)[:, None]
        predicted = DecisionTreeRegressor(min_samples_leaf=2, random_state=0).fit(x[fit], truth[fit]).predict(x[test])
        _reject_if_determined(score(predicted), target, name)
    if target.kind == "regression":
        _reject_linear(columns, truth, fit, test, target, score)


def _score(table: pd.DataFrame, target: Target, fit: IntArray, test: IntArray) -> _Score | None:
    """R2, AUC, or the share of what the age leaves open; None if the age alone determines the target."""
    truth = table[target.label].to_numpy(dtype=float)
    age = table["cycle_index"].to_numpy(dtype=float) if target.matures in ("end_of_life", "cycles") else None
    if target.kind == "classification":
        if age is not None and _auc(truth[test], age[test]) > DETERMINED:
            return None
        return lambda predicted: _auc(truth[test], predicted)
    spread = float(np.sum((truth[test] - truth[test].mean()) ** 2))
    left_open = spread
    if age is not None:
        end = np.mean(truth[fit] + age[fit])
        left_open = min(spread, float(np.sum((truth[test] - (end - age[test])) ** 2)))
        if left_open < (1.0 - DETERMINED) * spread:
            return None
    return lambda predicted: 1.0 - float(np.sum((truth[test] - predicted) ** 2)) / left_open


def _reject_linear(
    columns: dict[str, FloatArray],
    truth: FloatArray,
    fit: IntArray,
    test: IntArray,
    target: Target,
    score: _Score,
) -> None:
    names = [name for name, values in columns.items() if np.isfinite(values).all() and np.ptp(values[fit]) > 0.0]
    views: list[tuple[list[str], Callable[[FloatArray], FloatArray], Callable[[FloatArray], FloatArray]]] = [
        (names, lambda v: v, lambda v: v)
    ]
    if (truth > 0.0).all():
        # A product or quotient of features is linear in their logarithms.
        views.append(([name for name in names if (columns[name] > 0.0).all()], np.log, np.exp))
    for usable, transform, inverse in views:
        if not usable or len(usable) * 2 > len(fit):
            continue
        matrix = np.column_stack([transform(columns[name]) for name in usable])
        mean, spread = matrix[fit].mean(axis=0), matrix[fit].std(axis=0) + 1e-300
        x, y = (matrix - mean) / spread, transform(truth)
        model = LinearRegression().fit(x[fit], y[fit])
        strongest = usable[int(np.argmax(np.abs(model.coef_)))]
        # Far outside the labels a prediction is wrong anyway, and its exponential would overflow.
        predicted = inverse(np.clip(model.predict(x[test]), 2.0 * y.min() - y.max(), 2.0 * y.max() - y.min()))
        _reject_if_determined(score(predicted), target, strongest)


def _reject_if_determined(score: float, target: Target, name: str) -> None:
    if score > DETERMINED:
        raise LeakageError(
            f"{name} determines {target.name} on held-out batteries (score {score:.6f}): it is a formula of the "
            "target, remove it",
            field=name,
            value=score,
        )


def _auc(truth: FloatArray, predicted: FloatArray) -> float:
    return float(max(roc_auc_score(truth, predicted), roc_auc_score(truth, -predicted)))


def _halves(table: pd.DataFrame) -> tuple[IntArray, IntArray]:
    """Row numbers of two halves that share no battery (with one battery: the first and second half of its record)."""
    ids = np.unique(table["battery_id"].to_numpy(dtype=str))
    if len(ids) > 1:
        first = np.isin(table["battery_id"].to_numpy(dtype=str), ids[::2])
    else:
        first = np.arange(len(table)) < len(table) // 2
    halves = []
    for rows in (np.flatnonzero(first), np.flatnonzero(~first)):
        step = max(len(rows) // _MAX_ROWS, 1)
        halves.append(rows[::step])
    return halves[0], halves[1]
