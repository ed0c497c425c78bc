"""Parameters, fit and prediction of the forests, with missing values replaced by a sentinel inside the model.

The sentinel replaces NaN in fit and predict alike, because the ONNX conversion of forests loses the
routing of NaN (docs/decisions/0005).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline

from features.state import FloatArray
from features.targets import Target
from training.forest_library import Library, Splits, forests

N_CALIBRATION_FOLDS = 3
#: Folds of the first forest's held-out errors, which the second one is fitted to.
N_RESIDUAL_FOLDS = 5
#: Stands for a missing value inside a model: exact in single precision, and below every value that the contract
#: allows (power reaches -1e7 W), so that one split separates missing from measured values.
SENTINEL = -1.0e9


_NOT_OF_A_FOREST = ("splits", "steps", "censored")


@dataclass(frozen=True)
class ForestParams:
    """Hyperparameters of a forest; the defaults are the published setting, 50 trees of depth 10.

    A third of the features a split is the usual choice for regression (Breiman 2001).

    Attributes:
        max_samples: share of the rows that a tree is fitted to, drawn with replacement; None: as many as there are
            rows, with `splits` "random" each of them once.
        splits: see `training.forest_library.Splits`.
        steps: 2 adds a second forest of the same parameters that predicts the errors of the first one on batteries it
            was not fitted to (one-step boosted forest: Ghosal and Hooker 2021, doi:10.1080/10618600.2020.1820345);
            of regressions only.
        censored: what becomes of batteries that have not reached their end of life, see `training.censoring`.
    """

    n_estimators: int = 50
    max_depth: int | None = 10
    max_features: float = 0.33
    min_samples_leaf: int = 1
    max_samples: float | None = None
    splits: Splits = "best"
    steps: int = 1
    censored: Literal["drop", "impute"] = "drop"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and MLflow."""
        return asdict(self)

    def arguments(self, seed: int) -> dict[str, Any]:
        """Arguments of a forest class of `training.forest_library.forests`."""
        arguments = {name: value for name, value in self.as_dict().items() if name not in _NOT_OF_A_FOREST}
        bootstrap = self.splits == "best" or self.max_samples is not None
        return {**arguments, "bootstrap": bootstrap, "random_state": seed, "n_jobs": -1}


def inputs(table: pd.DataFrame, target: Target) -> FloatArray:
    """The features of `target` in model order, float64[n, F].

    Rounded to single precision, the input of a served model, so that training uses no difference
    that is lost in serving.
    """
    return table[list(target.feature_names)].to_numpy(dtype=np.float32).astype(np.float64)


def fit(
    table: pd.DataFrame, target: Target, params: ForestParams, seed: int, library: Library = "scikit-learn"
) -> Pipeline:
    """Fit the forest of `target` on all rows of `table` (features, label, `battery_id`).

    A target with an `offset` is fitted on the change from it.  A classifier is calibrated by Platt's
    sigmoid (Platt 1999) on out-of-fold predictions by battery.
    """
    x = inputs(table, target)
    y = table[target.label].to_numpy(dtype=float)
    groups = table["battery_id"].to_numpy(dtype=str)
    classes = forests(library, params.splits)
    if target.kind == "classification":
        of_library = _REPRODUCIBLE[params.splits] if library == "scikit-learn" else classes.classifier
        return _fit_classifier(x, y.astype(np.int64), groups, of_library(**params.arguments(seed)))
    if target.offset is not None:
        y = y - table[target.offset].to_numpy(dtype=float)
    sentinel = _sentinel().fit(x)
    new_forest = partial(classes.regressor, **params.arguments(seed))
    return make_pipeline(sentinel, _fit_regressor(sentinel.transform(x), y, groups, new_forest, params))


def _sentinel() -> SimpleImputer:
    return SimpleImputer(strategy="constant", fill_value=SENTINEL, keep_empty_features=True)


def _fit_regressor(
    x: FloatArray, y: FloatArray, groups: NDArray[np.str_], new_forest: Callable[[], Any], params: ForestParams
) -> Any:
    def fitted(rows: Any, labels: FloatArray) -> Any:
        forest = new_forest().fit(x[rows], labels[rows])
        forest.n_jobs = 1  # parallel prediction sums the trees in any order and differs in the last bits
        return forest

    everything = slice(None)
    first = fitted(everything, y)
    if params.steps == 1:
        return first
    n_groups = len(np.unique(groups))
    if n_groups > 1:
        folds = GroupKFold(min(N_RESIDUAL_FOLDS, n_groups)).split(x, y, groups)
    else:
        folds = KFold(N_RESIDUAL_FOLDS).split(x)
    residuals = np.empty(len(y))
    for train, test in folds:
        residuals[test] = y[test] - fitted(train, y).predict(x[test])
    return _sum_of(first, fitted(everything, residuals), params)


def _sum_of(first: Any, second: Any, params: ForestParams) -> Any:
    """One forest that predicts the sum of two of equal size: the mean over the trees of both, with doubled values."""
    both = forests("scikit-learn", params.splits).regressor(**first.get_params())
    both.estimators_ = [*first.estimators_, *second.estimators_]
    both.set_params(n_estimators=len(both.estimators_))
    both.n_outputs_, both.n_features_in_ = 1, first.n_features_in_
    for tree in both.estimators_:
        tree.tree_.value[:] *= 2.0  # exact
    return both


def importance(model: Pipeline) -> FloatArray:
    """Share of each feature in the reduction of the impurity, float64[F], mean over the trees; sums to 1."""
    forest = model[-1]
    if isinstance(forest, CalibratedClassifierCV):
        forest = forest.calibrated_classifiers_[0].estimator
    return np.asarray(forest.feature_importances_, dtype=float)


def leaf_moments(forest: Any, steps: int) -> list[tuple[FloatArray, FloatArray]]:
    """Mean and variance of the labels in each node, float64[nodes], of every tree of the first of `steps` forests.

    Args:
        forest: regression forest of `fit`.
    """
    trees = forest.estimators_[: len(forest.estimators_) // steps]
    return [(tree.tree_.value[:, 0, 0] / steps, np.asarray(tree.tree_.impurity)) for tree in trees]


def spread(model: Pipeline, table: pd.DataFrame, target: Target, steps: int) -> FloatArray:
    """Standard deviation of the training labels in the leaves of each row, in the target's unit, float64[n].

    It includes the differences between the trees.  The intervals of `training.intervals` are calibrated multiples.
    """
    sentinel, forest = model[0], model[-1]
    x = np.asarray(sentinel.transform(inputs(table, target)), dtype=np.float32)
    mean, square = np.zeros(len(x)), np.zeros(len(x))
    moments = leaf_moments(forest, steps)
    for tree, (value, variance) in zip(forest.estimators_, moments, strict=False):
        leaf = tree.apply(x)
        mean += value[leaf]
        square += variance[leaf] + value[leaf] ** 2
    return np.asarray(np.sqrt(np.maximum(square / len(moments) - (mean / len(moments)) ** 2, 0.0)))


def _fit_classifier(x: FloatArray, y: FloatArray, groups: FloatArray, forest: Any) -> Pipeline:
    splits = _calibration_splits(x, y, groups)
    calibrated = CalibratedClassifierCV(forest, method="sigmoid", cv=splits, ensemble=False)
    model = make_pipeline(_sentinel(), calibrated).fit(x, y)
    calibrated.cv = len(splits)  # the row numbers are no longer needed and would be saved with the model
    if isinstance(forest, _SerialPrediction):
        calibrated.estimator = forest.plain()
        (fitted,) = calibrated.calibrated_classifiers_
        fitted.estimator = fitted.estimator.plain()
    return model


class _SerialPrediction:
    """Mixin: a forest classifier that fits on every core and predicts on one, so that calibration is reproducible.

    Parallel prediction sums the trees in any order and differs in the last bits.
    """

    n_jobs: int | None

    def predict_proba(self, X: FloatArray) -> FloatArray:
        jobs, self.n_jobs = self.n_jobs, 1
        try:
            return np.asarray(super().predict_proba(X))  # type: ignore[misc]
        finally:
            self.n_jobs = jobs

    def plain(self) -> Any:
        """The same trees in scikit-learn's own class, which can be saved and loaded without this module.

        That of random forests in any case: only of these does the ONNX converter calibrate the probabilities.
        """
        plain = RandomForestClassifier(**self.get_params())  # type: ignore[attr-defined]
        vars(plain).update(vars(self))
        plain.n_jobs = 1
        return plain


class _ReproducibleForestClassifier(_SerialPrediction, RandomForestClassifier):  # type: ignore[misc]
    pass


class _ReproducibleExtraTreesClassifier(_SerialPrediction, ExtraTreesClassifier):  # type: ignore[misc]
    pass


_REPRODUCIBLE: dict[Splits, Any] = {
    "best": _ReproducibleForestClassifier,
    "random": _ReproducibleExtraTreesClassifier,
}


def _calibration_splits(x: FloatArray, y: FloatArray, groups: FloatArray) -> list[tuple[Any, Any]]:
    """Calibration folds by battery if every training part has both classes, otherwise stratified folds of rows."""
    n_groups = len(np.unique(groups))
    if n_groups >= N_CALIBRATION_FOLDS:
        splits = list(StratifiedGroupKFold(N_CALIBRATION_FOLDS).split(x, y, groups))
        if all(len(np.unique(y[train])) == 2 for train, _ in splits):
            return splits
    return list(StratifiedKFold(N_CALIBRATION_FOLDS).split(x, y))


def predict(model: Pipeline, table: pd.DataFrame, target: Target) -> FloatArray:
    """Predictions in the target's unit, float64[n]."""
    x = inputs(table, target)
    if target.kind == "classification":
        return np.asarray(model.predict_proba(x)[:, 1], dtype=float)
    value = np.asarray(model.predict(x), dtype=float)
    if target.offset is not None:
        value = value + table[target.offset].to_numpy(dtype=float)
    return value
