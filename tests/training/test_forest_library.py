"""The forest library of tuning trials: equal accuracy of both implementations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features.targets import TARGETS
from telemetry.errors import TwinError
from training.forest_library import forests
from training.forests import ForestParams, fit, predict


def test_intel_extension_is_as_accurate_as_scikit_learn() -> None:
    pytest.importorskip("sklearnex", reason="scikit-learn-intelex is not installed: x86 only, the extra `intel`")
    target = TARGETS["rul"]
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(1500, len(target.feature_names))), columns=list(target.feature_names))
    first = target.feature_names[0]
    table[target.label] = 100 * table[first] + rng.normal(size=1500)
    table["battery_id"] = "B"
    truth = 100 * table[first][1000:]
    # The mean over seeds, because one forest differs from the next by as much as the bound.
    errors = [
        np.mean(
            [
                np.abs(predict(fit(table[:1000], target, ForestParams(), seed, library), table[1000:], target) - truth)
                for seed in range(4)
            ]
        )
        for library in ("scikit-learn", "scikit-learn-intelex")
    ]
    assert errors[1] < 1.05 * errors[0] < 0.5 * np.abs(truth - truth.mean()).mean()


def test_unknown_library_is_rejected() -> None:
    with pytest.raises(TwinError, match=r"tune\.library is 'xgboost'"):
        forests("xgboost")  # type: ignore[arg-type]
