"""Trials may grow their forests faster, to the same score."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features.targets import TARGETS
from telemetry.errors import TwinError
from training.forest_library import forests
from training.forests import ForestParams, fit, predict


def test_the_extension_is_not_worse_than_the_score_of_scikit_learn() -> None:
    pytest.importorskip("sklearnex", reason="scikit-learn-intelex is not installed: x86 only, the extra `intel`")
    target = TARGETS["rul"]
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(1500, len(target.feature_names))), columns=list(target.feature_names))
    first = target.feature_names[0]
    table[target.label] = 100 * table[first] + rng.normal(size=1500)
    table["battery_id"] = "B"
    truth = 100 * table[first][1000:]
    errors = [
        np.abs(predict(fit(table[:1000], target, ForestParams(), 0, library), table[1000:], target) - truth).mean()
        for library in ("scikit-learn", "scikit-learn-intelex")
    ]
    assert errors[1] < 1.05 * errors[0] < 0.5 * np.abs(truth - truth.mean()).mean()


def test_an_unknown_library_is_named() -> None:
    with pytest.raises(TwinError, match=r"tune\.library is 'xgboost'"):
        forests("xgboost")  # type: ignore[arg-type]
