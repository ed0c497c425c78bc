"""Stage `tune@<target>`: tune the hyperparameters of a forest with Optuna; every trial is an MLflow run."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import asdict

import pandas as pd

from features.targets import TARGET_NAMES, TARGETS
from telemetry.command import exit_code
from telemetry.parameters import load_params
from telemetry.settings import Settings
from training import tracking
from training.forest_library import forests
from training.params import FEATURES, TUNED, file_hash, read_json, start_logging, write_json
from training.splits import split
from training.tuning import TuneParams, study_name, tune_forest

log = logging.getLogger(__name__)


def main() -> None:
    start_logging()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGET_NAMES)
    target = TARGETS[parser.parse_args().target]
    reason = read_json(FEATURES / "report.json")["not_available"].get(target.name)
    if reason:
        log.info("%s is not tuned: %s", target.name, reason)
        write_json(TUNED / f"{target.name}.json", {"available": False, "reason": reason})
        return
    params = load_params()
    settings = Settings()
    source = FEATURES / f"{target.name}.parquet"
    table = pd.read_parquet(source)
    tune = TuneParams.of(params)
    name = study_name(params["domain"], target, file_hash(source), tune, params["seed"])
    settings.var.mkdir(parents=True, exist_ok=True)
    library = forests(tune.library).tag
    with tracking.tuning_run(settings, params["domain"], target.name, name, library) as run:

        def on_trial(number: int, sampled: dict[str, object], error: float) -> None:
            log.info("%s: trial %d of %d, error %.5g with %s", target.name, number + 1, tune.trials, error, sampled)
            run.log_trial(number, sampled, error)

        tuned = tune_forest(
            table,
            target,
            split(table),
            tune,
            seed=params["seed"],
            storage=settings.optuna_storage,
            name=name,
            on_trial=on_trial,
        )
    write_json(
        TUNED / f"{target.name}.json",
        {"available": True, "params": asdict(tuned.params), "error": tuned.error, "trials": tuned.trials},
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
