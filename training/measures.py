"""Error measures for regression and classification targets, and the skill against the best baseline."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)

from features.state import FloatArray
from features.targets import Target

Measures = dict[str, float]


def regression_measures(actual: FloatArray, predicted: FloatArray) -> Measures:
    """`mae` and `rmse` in the target's unit, `r2`."""
    return {
        "mae": float(mean_absolute_error(actual, predicted)),
        "rmse": float(np.sqrt(mean_squared_error(actual, predicted))),
        "r2": float(r2_score(actual, predicted)) if len(actual) > 1 else float("nan"),
    }


def classification_measures(actual: FloatArray, predicted: FloatArray) -> Measures:
    """`auc`, `average_precision`, `brier`, and `brier_skill` against always predicting the base rate.

    Brier skill score: Murphy 1973, doi:10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2.
    """
    brier = float(brier_score_loss(actual, predicted))
    rate = float(np.mean(actual))
    both = 0.0 < rate < 1.0
    return {
        "auc": float(roc_auc_score(actual, predicted)) if both else float("nan"),
        "average_precision": float(average_precision_score(actual, predicted)) if both else float("nan"),
        "brier": brier,
        "brier_skill": 1.0 - brier / (rate * (1.0 - rate)) if both else float("nan"),
    }


def measures(target: Target, actual: FloatArray, predicted: FloatArray) -> Measures:
    """The measures of `target`'s kind."""
    of_kind = classification_measures if target.kind == "classification" else regression_measures
    return of_kind(actual, predicted)


def error_measure(target: Target) -> str:
    """Name of the primary measure, which tuning, gate and skill use; smaller is better."""
    return "brier" if target.kind == "classification" else "mae"


def skill(error: float, baseline_errors: dict[str, float]) -> float:
    """Reduction of the best baseline's error, as a share: 1 is perfect, 0 equal, negative worse."""
    best = min(baseline_errors.values())
    return 1.0 - error / best if best > 0.0 else float("nan")
