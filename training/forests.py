"""The forests: their parameters, how they are fitted and how they predict.

Missing values are replaced by a sentinel at the model's own boundary, in fit and predict alike,
because the ONNX conversion of forests loses the routing of NaN (see docs/decisions).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline

from features.state import FloatArray
from features.targets import Target
from training.forest_library import Library, forests
from training.sentinel import SENTINEL

N_CALIBRATION_FOLDS = 3


@dataclass(frozen=True)
class ForestParams:
    """What the tuning chooses; the defaults are the published setting, 50 trees of depth 10.

    A third of the features a split is the usual choice for regression (Breiman 2001).
    """

    n_estimators: int = 50
    max_depth: int | None = 10
    max_features: float = 0.33
    min_samples_leaf: int = 1
    max_samples: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and MLflow."""
        return asdict(self)


def inputs(table: pd.DataFrame, target: Target) -> FloatArray:
    """The features of `target` in model order, float64[n, F].

    Rounded to single precision, which is what a served model is given: a tree must not see a
    difference in training that it cannot see in service.
    """
    return table[list(target.feature_names)].to_numpy(dtype=np.float32).astype(np.float64)


def fit(
    table: pd.DataFrame, target: Target, params: ForestParams, seed: int, library: Library = "scikit-learn"
) -> Pipeline:
    """Fit the forest of `target` on all rows of `table` (features, label, `battery_id`).

    A target with an `offset` is fitted on the change from it.  A classifier is calibrated by Platt's
    sigmoid (Platt 1999) on predictions for batteries that its forest had not seen.
    """
    x = inputs(table, target)
    y = table[target.label].to_numpy(dtype=float)
    if target.kind == "classification":
        chosen = _SteadyForestClassifier if library == "scikit-learn" else forests(library).classifier
        forest = chosen(**params.as_dict(), random_state=seed, n_jobs=-1)
        return _fit_classifier(x, y.astype(np.int64), table["battery_id"].to_numpy(dtype=str), forest)
    if target.offset is not None:
        y = y - table[target.offset].to_numpy(dtype=float)
    forest = forests(library).regressor(**params.as_dict(), random_state=seed, n_jobs=-1)
    model = make_pipeline(_sentinel(), forest).fit(x, y)
    forest.n_jobs = 1  # parallel prediction adds up trees in any order and differs in the last bits
    return model


def _sentinel() -> SimpleImputer:
    return SimpleImputer(strategy="constant", fill_value=SENTINEL, keep_empty_features=True)


def _fit_classifier(x: FloatArray, y: FloatArray, groups: FloatArray, forest: Any) -> Pipeline:
    splits = _calibration_splits(x, y, groups)
    calibrated = CalibratedClassifierCV(forest, method="sigmoid", cv=splits, ensemble=False)
    model = make_pipeline(_sentinel(), calibrated).fit(x, y)
    calibrated.cv = len(splits)  # the row numbers have served; they would go into every saved copy
    if isinstance(forest, _SteadyForestClassifier):
        calibrated.estimator = forest.plain()
        (fitted,) = calibrated.calibrated_classifiers_
        fitted.estimator = fitted.estimator.plain()
    return model


class _SteadyForestClassifier(RandomForestClassifier):  # type: ignore[misc]
    """Fits on every core and predicts on one: the sigmoid is fitted on predictions.

    Parallel prediction adds up trees in any order and differs in the last bits.
    """

    n_jobs: int | None

    def predict_proba(self, X: FloatArray) -> FloatArray:
        jobs, self.n_jobs = self.n_jobs, 1
        try:
            return np.asarray(super().predict_proba(X))
        finally:
            self.n_jobs = jobs

    def plain(self) -> RandomForestClassifier:
        """The same forest, fitted or not, of scikit-learn's own class, which every copy of a model can name."""
        plain = RandomForestClassifier(**self.get_params())
        vars(plain).update(vars(self))
        plain.n_jobs = 1
        return plain


def _calibration_splits(x: FloatArray, y: FloatArray, groups: FloatArray) -> list[tuple[Any, Any]]:
    """Folds by battery in which every training part knows both classes; by time within one battery."""
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
