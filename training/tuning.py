"""Hyperparameter tuning of a forest with Optuna, on the batteries that are not held out for the gate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import optuna
import pandas as pd
from pydantic import PositiveInt

from features.targets import Target
from telemetry.parameters import Parameters
from training.crossfit import fit_thinned
from training.forest_library import Library, Splits
from training.forests import N_RESIDUAL_FOLDS, ForestParams, predict
from training.measures import error_measure, measures
from training.splits import Split, fitting_parts
from training.tracking import Trial

#: The published setting, and two that are good on laboratory cells: the former of remaining life, the latter of health.
_FIRST_TRIALS = (
    ForestParams(),
    ForestParams(max_depth=None, min_samples_leaf=3, splits="random", steps=2, censored="impute"),
    ForestParams(max_depth=None, max_features=0.8, min_samples_leaf=2, splits="random", steps=2, censored="impute"),
)

#: Errors that differ by less than this share are alike.
_ALIKE = 0.01

#: Called after each finished trial.
OnTrial = Callable[[Trial], None]


class TuneParams(Parameters):
    """Extent and search space of the tuning; `tune` in params.yaml.

    Attributes:
        trials: finished trials in total, including those of an interrupted study.
        max_rows: largest number of rows in a trial; every k-th row is used.
        library: implementation of the forests in trials; the final forest is always scikit-learn's.
        n_estimators, max_depth, max_features, min_samples_leaf, max_samples, splits, steps, censored: the values to
            choose from.
    """

    section: ClassVar[str] = "tune"

    trials: PositiveInt
    max_rows: PositiveInt
    library: Library
    n_estimators: tuple[int, ...]
    max_depth: tuple[int | None, ...]
    max_features: tuple[float, ...]
    min_samples_leaf: tuple[int, ...]
    max_samples: tuple[float | None, ...]
    splits: tuple[Splits, ...] = ("best",)
    steps: tuple[int, ...] = (1,)
    censored: tuple[Literal["drop", "impute"], ...] = ("drop",)


@dataclass(frozen=True)
class TuningResult:
    """Result of a study: the best parameters, their error and all finished trials."""

    params: ForestParams
    error: float
    trials: tuple[Trial, ...]


def study_name(domain: str, target: Target, data_hash: str, tune: TuneParams, seed: int) -> str:
    """Study name with a hash of what makes trials comparable: data, seed, search space, first trials and features."""
    basis = json.dumps([data_hash, seed, repr(tune), repr(_FIRST_TRIALS), target.feature_names], sort_keys=True)
    return f"{domain}-{target.name}-{hashlib.sha256(basis.encode()).hexdigest()[:12]}"


def tune_forest(
    table: pd.DataFrame,
    target: Target,
    split: Split,
    tune: TuneParams,
    *,
    seed: int,
    storage: str | optuna.storages.BaseStorage | None = None,
    name: str | None = None,
    on_trial: OnTrial | None = None,
    censored: pd.DataFrame | None = None,
) -> TuningResult:
    """Continue the study `name` until it has `tune.trials` finished trials.

    The first trials are `_FIRST_TRIALS`.  The sampler of each trial is seeded by `seed` plus the number of
    finished trials, so that a resumed study of one worker gives the result of an uninterrupted one.

    Args:
        censored: see `training.crossfit.fit_thinned`.
    """
    rows_for_tuning, inner = _thinned(table.assign(_fold=split.fold)[split.final_rows()], target, split, tune.max_rows)
    # By the same factor as the other rows.
    every = max(1, round(int(split.final_rows().sum()) / len(rows_for_tuning)))
    thinned_censored = None if censored is None else censored.iloc[::every]
    study = optuna.create_study(
        study_name=name, storage=storage, direction="minimize", load_if_exists=True, sampler=_sampler(seed)
    )
    while (finished := _finished(study)) < tune.trials:
        study.sampler = _sampler(seed + finished)
        if finished < len(_FIRST_TRIALS):
            study.enqueue_trial(_within(tune, _FIRST_TRIALS[finished]), skip_if_exists=True)
        trial = study.ask()
        params = _suggest(trial, tune)
        error = _error(rows_for_tuning, inner, target, params, seed, tune.library, thinned_censored)
        study.tell(trial, error)
        if on_trial is not None:
            on_trial(Trial(finished, params.as_dict(), error))
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    trials = tuple(
        Trial(number, _suggest(optuna.trial.FixedTrial(trial.params), tune).as_dict(), float(trial.value or 0.0))
        for number, trial in enumerate(complete)
    )
    best = chosen(trials)
    return TuningResult(ForestParams(**best.params), best.error, trials)


def chosen(trials: Sequence[Trial]) -> Trial:
    """The trial with the least work among those whose error is the smallest, or alike."""
    limit = min(trial.error for trial in trials) * (1.0 + _ALIKE)
    return min(
        (trial for trial in trials if trial.error <= limit), key=lambda trial: _work(ForestParams(**trial.params))
    )


def _work(params: ForestParams) -> float:
    """Work of a fit, in features that are looked at for a split of every tree."""
    fits = 1 if params.steps == 1 else 2 + N_RESIDUAL_FOLDS
    return params.n_estimators * fits * params.max_features


def _sampler(seed: int) -> optuna.samplers.TPESampler:
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=4)


def _finished(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)))


def _within(tune: TuneParams, params: ForestParams) -> dict[str, Any]:
    """A setting, as far as the search space contains it."""
    return {key: value for key, value in params.as_dict().items() if value in getattr(tune, key)}


def _suggest(trial: optuna.trial.BaseTrial, tune: TuneParams) -> ForestParams:
    return ForestParams(
        **{name: trial.suggest_categorical(name, getattr(tune, name)) for name in ForestParams().as_dict()}
    )


def _thinned(
    table: pd.DataFrame, target: Target, split: Split, max_rows: int
) -> tuple[pd.DataFrame, list[tuple[np.ndarray, np.ndarray]]]:
    """Every k-th row of `table`, and its folds; more than `max_rows` where that few leave a fold without one class."""
    for step in range(max(1, -(-len(table) // max_rows)), 0, -1):
        rows = table.iloc[::step].reset_index(drop=True)
        if folds := _inner_folds(rows, target, split):
            return rows, folds
    raise ValueError("the split was made for another table or target")


def _inner_folds(table: pd.DataFrame, target: Target, split: Split) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three of the outer folds, which is enough to compare parameters at three fifths of the cost."""
    fold = table["_fold"].to_numpy()
    classes = table[target.label].to_numpy(dtype=float) > 0.5 if target.kind == "classification" else None
    parts = list(fitting_parts(fold, split.by, classes))[-3:]
    return [(np.flatnonzero(train), np.flatnonzero(fold == number)) for number, train in parts]


def _error(
    table: pd.DataFrame,
    folds: list[tuple[np.ndarray, np.ndarray]],
    target: Target,
    params: ForestParams,
    seed: int,
    library: Library,
    censored: pd.DataFrame | None,
) -> float:
    actual, predicted = [], []
    for train, test in folds:
        model = fit_thinned(table.iloc[train], target, params, seed, None, censored, library)
        rows = table.iloc[test]
        actual.append(rows[target.label].to_numpy(dtype=float))
        predicted.append(predict(model, rows, target))
    return measures(target, np.concatenate(actual), np.concatenate(predicted))[error_measure(target)]
