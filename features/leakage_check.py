"""The leak guard: refuses a feature table that knows what it is asked to predict.

Three ways in which a published system reached R2 = 1.0 are refused, each with the feature's name:
the target among the features, a value from the future, and a formula of the target.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.tree import DecisionTreeRegressor

from features.state import FloatArray
from features.state_update import IntArray
from features.targets import Target
from telemetry.errors import TwinError

#: Held-out R2 (or AUC) above which a feature, or a formula of features, *is* the target.
DETERMINED = 0.9995
_MAX_ROWS = 6000


class LeakageError(TwinError):
    """A feature that may not be used; `.field` names it."""


def reject_labels(target: Target, feature_names: tuple[str, ...]) -> None:
    """Refuse the target itself, and whatever it is made of, among its own features."""
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
    """Refuse features whose value at a row changes when everything after some later moment is withheld.

    Args:
        table: features computed with the whole history.
        on_prefix: the same, computed with only the beginning of each battery's history.
        keys: columns that identify a row in both.
    """
    both = on_prefix.merge(table, on=list(keys), suffixes=("_then", "_now"), how="inner")
    if both.empty:
        raise LeakageError("the leak guard found no row to compare: the beginning of every history gave no features")
    for name in feature_names:
        then, now = both[f"{name}_then"].to_numpy(), both[f"{name}_now"].to_numpy()
        changed = (then != now) & ~(pd.isna(then) & pd.isna(now))
        if changed.any():
            at = int(np.flatnonzero(changed)[0])
            raise LeakageError(
                f"{name} comes from the future: at row {at} it is {now[at]} with the whole history and {then[at]} "
                "without what came later",
                field=name,
                value=float(now[at]),
            )


def reject_target_formulas(table: pd.DataFrame, target: Target, feature_names: tuple[str, ...]) -> None:
    """Refuse a feature, or a linear or product formula of features, that gives the target on held-out batteries.

    Half of the batteries are fitted, the other half is judged; with one battery, the halves of its time.
    """
    fit, judge = _halves(table)
    truth = table[target.label].to_numpy(dtype=float)
    if np.ptp(truth[fit]) == 0.0 or np.ptp(truth[judge]) == 0.0:
        return
    score = _auc if target.kind == "classification" else r2_score
    columns = {name: table[name].to_numpy(dtype=float) for name in feature_names}
    for name, values in columns.items():
        if np.isnan(values).all():
            continue
        x = np.nan_to_num(values, nan=-1e6)[:, None]
        predicted = DecisionTreeRegressor(min_samples_leaf=2, random_state=0).fit(x[fit], truth[fit]).predict(x[judge])
        _refuse_if_determined(score(truth[judge], predicted), target, name)
    if target.kind == "regression":
        _refuse_linear(columns, truth, fit, judge, target)


def _refuse_linear(
    columns: dict[str, FloatArray],
    truth: FloatArray,
    fit: IntArray,
    judge: IntArray,
    target: Target,
) -> None:
    names = [name for name, values in columns.items() if np.isfinite(values).all() and np.ptp(values[fit]) > 0.0]
    views: list[tuple[list[str], Callable[[FloatArray], FloatArray]]] = [(names, lambda v: v)]
    if (truth > 0.0).all():
        # A product or quotient of features is linear in their logarithms.
        views.append(([name for name in names if (columns[name] > 0.0).all()], np.log))
    for usable, transform in views:
        if not usable or len(usable) * 2 > len(fit):
            continue
        matrix = np.column_stack([transform(columns[name]) for name in usable])
        mean, spread = matrix[fit].mean(axis=0), matrix[fit].std(axis=0) + 1e-300
        x, y = (matrix - mean) / spread, transform(truth)
        model = LinearRegression().fit(x[fit], y[fit])
        strongest = usable[int(np.argmax(np.abs(model.coef_)))]
        _refuse_if_determined(r2_score(y[judge], model.predict(x[judge])), target, strongest)


def _refuse_if_determined(score: float, target: Target, name: str) -> None:
    if score > DETERMINED:
        raise LeakageError(
            f"{name} determines {target.name} on batteries that were held out (score {score:.6f}): it is a formula of "
            "the target, remove it",
            field=name,
            value=score,
        )


def _auc(truth: FloatArray, predicted: FloatArray) -> float:
    return float(max(roc_auc_score(truth, predicted), roc_auc_score(truth, -predicted)))


def _halves(table: pd.DataFrame) -> tuple[IntArray, IntArray]:
    """Row numbers of two halves that share no battery (or, with one battery, no time)."""
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
