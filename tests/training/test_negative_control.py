"""Negative control (no skill without signal), and reproducible cross-validation and tuning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.targets import TARGETS, Target
from training.crossfit import out_of_fold
from training.evaluate import report
from training.forests import ForestParams
from training.splits import split
from training.tracking import Trial
from training.tuning import TuneParams, chosen, tune_forest

PARAMS = ForestParams(n_estimators=20, max_depth=6, max_features=0.2, min_samples_leaf=5)
TUNE = TuneParams(
    trials=4,
    max_rows=800,
    library="scikit-learn",
    n_estimators=(10, 20),
    max_depth=(4, 10, None),
    max_features=(1.0, 0.2),
    min_samples_leaf=(1, 5),
    max_samples=(None, 0.5),
)


def table_of(target: Target, *, signal: float, seed: int = 0) -> pd.DataFrame:
    """Ten batteries, 80 rows each; the label follows one feature with strength `signal`."""
    rng = np.random.default_rng(seed)
    n = 800
    values = rng.normal(size=(n, len(target.feature_names)))
    values[:, 1:][rng.random((n, len(target.feature_names) - 1)) < 0.05] = np.nan
    table = pd.DataFrame(values, columns=list(target.feature_names))
    driver = table[target.feature_names[1]].fillna(0.0)
    noise = rng.normal(size=n)
    label = signal * driver + noise
    table[target.label] = (label > 0.5).astype(float) if target.kind == "classification" else label
    return table.assign(
        battery_id=np.repeat([f"b{k}" for k in range(10)], 80),
        time=pd.NaT,
        cycle_index=np.tile(np.arange(80.0), 10),
        life_quarter=np.tile(np.repeat([1.0, 2.0, 3.0, 4.0], 20), 10),
    )


@pytest.mark.parametrize("name", ["soh", "rul", "failure"])
def test_skill_is_zero_without_signal_and_positive_with_signal(name: str) -> None:
    target = TARGETS[name]
    skills = []
    for signal in (0.0, 3.0):
        table = table_of(target, signal=signal)
        skills.append(report(target, out_of_fold(table, target, PARAMS, split(table, target), seed=1))["skill"])
    assert skills[0] < 0.02
    assert skills[1] > 0.2


def test_out_of_fold_predictions_are_reproducible() -> None:
    target = TARGETS["failure"]
    table = table_of(target, signal=1.0)
    first = out_of_fold(table, target, PARAMS, split(table, target), seed=1)
    pd.testing.assert_frame_equal(first, out_of_fold(table, target, PARAMS, split(table, target), seed=1))


def test_resumed_study_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    target = TARGETS["soh"]
    table = table_of(target, signal=2.0)
    division = split(table, target)
    whole = tune_forest(table, target, division, TUNE, seed=5, storage=f"sqlite:///{tmp_path}/a.db", name="s")

    class KilledError(Exception):
        pass

    def kill(trial: Trial) -> None:
        if trial.number == 1:
            raise KilledError

    storage = f"sqlite:///{tmp_path}/b.db"
    with pytest.raises(KilledError):
        tune_forest(table, target, division, TUNE, seed=5, storage=storage, name="s", on_trial=kill)
    resumed = tune_forest(table, target, division, TUNE, seed=5, storage=storage, name="s")
    assert resumed == whole
    assert [trial.number for trial in resumed.trials] == list(range(TUNE.trials))
    best = chosen(resumed.trials)
    assert (resumed.params.as_dict(), resumed.error) == (best.params, best.error)
    again = tune_forest(table, target, division, TUNE, seed=5, storage=storage, name="s", on_trial=kill)
    assert again == whole


def test_of_settings_with_alike_errors_the_one_with_the_least_work_is_chosen() -> None:
    light, heavy, two_steps = ForestParams(20), ForestParams(100), ForestParams(20, steps=2)
    trials = [Trial(k, params.as_dict(), 1.0) for k, params in enumerate((heavy, two_steps, light))]
    assert chosen(trials).params == light.as_dict()
    better = Trial(3, heavy.as_dict(), 0.98)
    assert chosen([*trials, better]) == better
    assert chosen([*trials, Trial(4, heavy.as_dict(), 0.995)]).params == light.as_dict()
