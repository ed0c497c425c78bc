"""Parameters, fit and prediction of the forests, with missing values replaced by a sentinel inside the model.

The sentinel replaces NaN in fit and predict alike, because the ONNX conversion of forests loses the
routing of NaN (docs/decisions/0005).
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

N_CALIBRATION_FOLDS = 3
#: Stands for a missing value inside a model: exact in single precision, and below every value that the contract
#: allows (power reaches -1e7 W), so that one split separates missing from measured values.
SENTINEL = -1.0e9


@dataclass(frozen=True)
class ForestParams:
    """Hyperparameters of a forest; the defaults are the published setting, 50 trees of depth 10.

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
    if target.kind == "classification":
        classifier = _ReproducibleForestClassifier if library == "scikit-learn" else forests(library).classifier
        forest = classifier(**params.as_dict(), random_state=seed, n_jobs=-1)
        return _fit_classifier(x, y.astype(np.int64), table["battery_id"].to_numpy(dtype=str), forest)
    if target.offset is not None:
        y = y - table[target.offset].to_numpy(dtype=float)
    forest = forests(library).regressor(**params.as_dict(), random_state=seed, n_jobs=-1)
    model = make_pipeline(_sentinel(), forest).fit(x, y)
    forest.n_jobs = 1  # parallel prediction sums the trees in any order and differs in the last bits
    return model


def _sentinel() -> SimpleImputer:
    return SimpleImputer(strategy="constant", fill_value=SENTINEL, keep_empty_features=True)


def _fit_classifier(x: FloatArray, y: FloatArray, groups: FloatArray, forest: Any) -> Pipeline:
    splits = _calibration_splits(x, y, groups)
    calibrated = CalibratedClassifierCV(forest, method="sigmoid", cv=splits, ensemble=False)
    model = make_pipeline(_sentinel(), calibrated).fit(x, y)
    calibrated.cv = len(splits)  # the row numbers are no longer needed and would be saved with the model
    if isinstance(forest, _ReproducibleForestClassifier):
        calibrated.estimator = forest.plain()
        (fitted,) = calibrated.calibrated_classifiers_
        fitted.estimator = fitted.estimator.plain()
    return model


class _ReproducibleForestClassifier(RandomForestClassifier):  # type: ignore[misc]
    """Random forest classifier that fits on every core and predicts on one, so that calibration is reproducible.

    Parallel prediction sums the trees in any order and differs in the last bits.
    """

    n_jobs: int | None

    def predict_proba(self, X: FloatArray) -> FloatArray:
        jobs, self.n_jobs = self.n_jobs, 1
        try:
            return np.asarray(super().predict_proba(X))
        finally:
            self.n_jobs = jobs

    def plain(self) -> RandomForestClassifier:
        """The same forest as scikit-learn's own class, which can be saved and loaded without this module."""
        plain = RandomForestClassifier(**self.get_params())
        vars(plain).update(vars(self))
        plain.n_jobs = 1
        return plain


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
