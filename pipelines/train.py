"""Stage `train@<target>`: cross-validate a forest, fit the final model and predict the gate batteries with it."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from features.state import STATE_VERSION, FloatArray
from features.targets import TARGET_NAMES, TARGETS, Target
from telemetry.command import exit_code
from telemetry.parameters import load_params
from telemetry.settings import Settings
from training import tracking
from training.baselines import BASELINES
from training.crossfit import TrainParams, domain, fit_thinned, out_of_fold, predict_with_baselines
from training.domain import properties_of, threshold
from training.evaluate import errors_by_model
from training.forests import ForestParams, inputs
from training.intervals import (
    Calibration,
    IntervalParams,
    TooFewBatteriesError,
    calibrate_held_out,
    out_of_fold_bounds,
)
from training.measures import Measures, error_measure
from training.model_files import save_canonical_skops
from training.onnx_export import MAX_DIFFERENCE, onnx_difference, to_onnx
from training.params import (
    DEFINITIONS_FILE,
    FEATURES,
    MODELS,
    TUNED,
    VALIDATED,
    read_censored,
    read_json,
    start_logging,
    write_json,
)
from training.release import content_sha256
from training.splits import UntrainableError, split

log = logging.getLogger(__name__)

FEATURE_PREFIX = "feature_"


def main() -> None:
    start_logging()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGET_NAMES)
    target = TARGETS[parser.parse_args().target]
    tuned = read_json(TUNED / f"{target.name}.json")
    try:
        if not tuned["available"]:
            raise UntrainableError(tuned["reason"], field="target", value=target.name)
        _empty_folder(target)
        _train_as_tuned(target, tuned)
    except UntrainableError as error:
        log.info("%s is not trained: %s", target.name, error.sentence)
        reason = {"target": target.name, "available": False, "reason": error.sentence}
        write_json(_empty_folder(target) / "fit.json", reason)


def _empty_folder(target: Target) -> Path:
    folder = MODELS / target.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _train_as_tuned(target: Target, tuned: dict[str, Any]) -> None:
    params = load_params()
    seed, forest = params["seed"], ForestParams(**tuned["params"])
    table = pd.read_parquet(FEATURES / f"{target.name}.parquet")
    baselines = [name for name in target.baselines if name in BASELINES]
    logged = {**forest.as_dict(), "seed": seed}
    with tracking.forest_run(Settings(), params["domain"], target.name, baselines, logged) as run:
        _train(target, table, forest, params, run)


def _with_bounds(rows: pd.DataFrame, lower: FloatArray, upper: FloatArray, target: Target) -> pd.DataFrame:
    return rows.assign(lower=target.bounded(lower), upper=target.bounded(upper))


def _calibrated(target: Target, held_out: pd.DataFrame, coverage: float) -> Calibration | dict[str, str]:
    """The calibration of the intervals, or the reason why the model has none."""
    try:
        return calibrate_held_out(held_out, coverage)
    except TooFewBatteriesError as error:
        log.info("%s: %s", target.name, error.sentence)
        return {"reason": error.sentence}


def _train(
    target: Target, table: pd.DataFrame, forest: ForestParams, params: dict[str, Any], run: tracking.ForestRun
) -> None:
    """Write the files of `models/<target>` and log errors to `run` as soon as they are known."""
    folder, division, seed = MODELS / target.name, split(table, target), params["seed"]
    censored = read_censored(target.name)
    max_rows, coverage = TrainParams.of(params).max_rows, IntervalParams.of(params).coverage

    def errors(rows: pd.DataFrame) -> dict[str, Measures]:
        own, of_baselines = errors_by_model(target, rows)
        return {tracking.FOREST: own, **of_baselines}

    def on_fold(fold: int, rows: pd.DataFrame) -> None:
        run.log({model: {primary: of[primary]} for model, of in errors(rows).items()}, "fold.", fold)

    primary = error_measure(target)
    predictions = out_of_fold(table, target, forest, division, seed, on_fold, max_rows, censored)
    interval: Calibration | dict[str, str] | None = None
    if target.kind == "regression":
        interval = _calibrated(target, predictions, coverage)
        predictions = _with_bounds(predictions, *out_of_fold_bounds(predictions, coverage), target)
    predictions.to_parquet(folder / "oof.parquet", index=False)
    run.log(errors(predictions))

    log.info("%s: final fit on %d rows", target.name, int(division.final_rows().sum()))
    train, gate = table[division.final_rows()], table[division.gate]
    model = fit_thinned(train, target, forest, seed, max_rows, censored)
    features = gate[list(target.feature_names)].add_prefix(FEATURE_PREFIX)
    seen = train if censored is None else pd.concat([train, censored], ignore_index=True)
    on_gate = pd.concat([predict_with_baselines(model, train, gate, target, forest, seen), features], axis=1)
    if isinstance(interval, Calibration):
        bounds = interval.bounds(on_gate["predicted"].to_numpy(), on_gate["spread"].to_numpy())
        on_gate = _with_bounds(on_gate, *bounds, target)
    on_gate.to_parquet(folder / "gate.parquet", index=False)
    run.log(errors(on_gate), "gate.")

    known = replace(
        domain(model, seen, target),
        threshold=threshold(predictions["battery_id"], predictions["domain_distance"].to_numpy()),
        **properties_of(pd.read_parquet(VALIDATED / "batteries.parquet"), seen["battery_id"].unique().tolist()),
    )
    onnx = to_onnx(model, len(target.feature_names), forest.steps)
    difference = onnx_difference(model, onnx, inputs(table.iloc[:: max(1, len(table) // 10_000)], target))
    if difference > MAX_DIFFERENCE:
        raise UntrainableError(f"ONNX differs from scikit-learn by {difference:.2g}, at most {MAX_DIFFERENCE}")
    (folder / "model.onnx").write_bytes(onnx)
    save_canonical_skops(model, folder / "model.skops")
    write_json(
        folder / "fit.json",
        {
            "target": target.name,
            "available": True,
            "feature_names": list(target.feature_names),
            "state_version": STATE_VERSION,
            "params": forest.as_dict(),
            "seed": seed,
            "split": division.description,
            "interval": interval.as_dict() if isinstance(interval, Calibration) else interval,
            "domain": known.as_dict(),
            "n_rows": len(train),
            "n_batteries": int(train["battery_id"].nunique()),
            "n_censored_batteries": 0 if censored is None else int(censored["battery_id"].nunique()),
            "train_batteries": sorted(train["battery_id"].unique().tolist()),
            "gate_batteries": sorted(gate["battery_id"].unique().tolist()),
            "label_max": float(train[target.label].max()),
            "definitions": read_json(FEATURES / DEFINITIONS_FILE),
            "onnx_max_difference": difference,
        },
    )
    run.set_content(content_sha256(folder))


if __name__ == "__main__":
    sys.exit(exit_code(main))
