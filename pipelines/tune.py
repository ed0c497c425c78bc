"""Stage `tune@<target>`: tune the hyperparameters of a forest with Optuna; every trial is an MLflow run."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import asdict

import pandas as pd

from features.targets import TARGET_NAMES, TARGETS, Target
from telemetry.command import exit_code
from telemetry.parameters import load_params
from telemetry.settings import Settings
from training import tracking
from training.forest_library import forests
from training.params import FEATURES, TUNED, file_hash, read_censored, read_json, start_logging, write_json
from training.splits import UntrainableError, split
from training.tuning import TuneParams, study_name, tune_forest

log = logging.getLogger(__name__)


def main() -> None:
    start_logging()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGET_NAMES)
    target = TARGETS[parser.parse_args().target]
    reason = read_json(FEATURES / "report.json")["not_available"].get(target.name)
    try:
        if reason:
            raise UntrainableError(reason, field="target", value=target.name)
        _tune(target)
    except UntrainableError as error:
        log.info("%s is not tuned: %s", target.name, error.sentence)
        write_json(TUNED / f"{target.name}.json", {"available": False, "reason": error.sentence})


def _tune(target: Target) -> None:
    """Write `reports/tuning/<target>.json` and log each trial as it ends."""
    params = load_params()
    settings = Settings()
    source = FEATURES / f"{target.name}.parquet"
    table = pd.read_parquet(source)
    division = split(table, target)
    tune = TuneParams.of(params)
    name = study_name(params["domain"], target, file_hash(source), tune, params["seed"])
    settings.var.mkdir(parents=True, exist_ok=True)
    tags = {"forest_library": forests(tune.library).tag}
    with tracking.tuning_run(settings, params["domain"], target.name, name, tags) as run:
        began_ms = time.time_ns() // 1_000_000

        def on_trial(trial: tracking.Trial) -> None:
            nonlocal began_ms
            of = f"trial {trial.number + 1} of {tune.trials}"
            log.info("%s: %s, error %.5g with %s", target.name, of, trial.error, trial.params)
            run.log_trial(trial, began_ms)
            began_ms = time.time_ns() // 1_000_000

        tuned = tune_forest(
            table,
            target,
            division,
            tune,
            seed=params["seed"],
            storage=settings.optuna_storage,
            name=name,
            on_trial=on_trial,
            censored=read_censored(target.name),
        )
        run.log_missing(tuned.trials)
    write_json(
        TUNED / f"{target.name}.json",
        {
            "available": True,
            "study": name,
            "params": asdict(tuned.params),
            "error": tuned.error,
            "trials": [asdict(trial) for trial in tuned.trials],
        },
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
