"""Stage `evaluate`: write metrics, their summary and plots from the predictions of the training stages."""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import pandas as pd

from features.targets import TARGETS
from telemetry.command import exit_code
from telemetry.parameters import load_params
from training import plots
from training.baselines import LINEAR_EXTRAPOLATION
from training.evaluate import add_linear_extrapolation, by_fold, permutation_importance, report
from training.onnx_runtime import OnnxForest
from training.params import DEFINITIONS_FILE, FEATURES, MODELS, REPORTS, read_json, start_logging, write_json

log = logging.getLogger(__name__)

PLOTS = REPORTS / "plots"


def read_predictions(kind: str, fits: dict[str, Any], eol_fraction: float) -> dict[str, pd.DataFrame]:
    """Predictions and baselines of every available target, `kind` being "oof" or "gate"."""
    rows = {name: pd.read_parquet(MODELS / name / f"{kind}.parquet") for name in fits}
    for name in rows:
        if LINEAR_EXTRAPOLATION in TARGETS[name].baselines and "soh" in rows:
            longest = fits[name]["label_max"]
            rows[name] = add_linear_extrapolation(rows[name], rows["soh"], eol_fraction, longest=longest)
    return rows


def importance(name: str) -> pd.DataFrame:
    """Permutation importance of a target's final model on its gate rows."""
    target = TARGETS[name]
    forest = OnnxForest(MODELS / name / "model.onnx")
    gate = pd.read_parquet(MODELS / name / "gate.parquet")
    features = gate.filter(like="feature_").rename(columns=lambda column: column.removeprefix("feature_"))
    # The current value that is added to a predicted change is no output of the model, so it is not permuted.
    offset = 0.0 if target.offset is None else features[target.offset]
    rows = features.assign(**{target.label: gate["actual"], "_offset": offset})

    def predict(frame: pd.DataFrame) -> np.ndarray:
        value = forest.predict(frame[list(target.feature_names)].to_numpy(dtype=np.float32))
        return np.asarray(value + frame["_offset"].to_numpy(dtype=float))

    return permutation_importance(predict, rows, target, seed=0)


def headline(metrics: dict[str, Any]) -> dict[str, Any]:
    """Summary for a table of experiments: each target's error and skill, out of fold and on the gate batteries.

    Args:
        metrics: content of `reports/metrics.json`.
    """
    return {
        rows: {
            name: {measure: entry[measure] for measure in (_error_metric(name), "skill")}
            for name, entry in metrics[section].items()
        }
        for rows, section in (("out_of_fold", "targets"), ("gate", "gate"))
    }


def _error_metric(target: str) -> str:
    return "brier" if TARGETS[target].kind == "classification" else "mae"


def main() -> None:
    start_logging()
    params = load_params()
    fits = {name: read_json(MODELS / name / "fit.json") for name in TARGETS}
    available = {name: fit for name, fit in fits.items() if fit["available"]}
    eol_fraction = read_json(FEATURES / DEFINITIONS_FILE)["eol_fraction"]
    oof = read_predictions("oof", available, eol_fraction)
    gate = read_predictions("gate", available, eol_fraction)

    metrics = {
        "source": params["source"]["name"],
        "domain": params["domain"],
        "split": {name: fit["split"] for name, fit in available.items()},
        "targets": {name: report(TARGETS[name], rows, fits[name]["interval"]) for name, rows in oof.items()},
        "gate": {name: report(TARGETS[name], rows, fits[name]["interval"]) for name, rows in gate.items()},
        "not_available": {name: fit["reason"] for name, fit in fits.items() if not fit["available"]},
        "notes": read_json(FEATURES / "report.json")["notes"],
    }
    write_json(REPORTS / "metrics.json", metrics)
    write_json(REPORTS / "summary.json", headline(metrics))
    write_json(REPORTS / "folds.json", {name: by_fold(TARGETS[name], rows) for name, rows in oof.items()})

    PLOTS.mkdir(parents=True, exist_ok=True)
    plots.predicted_against_actual(oof, PLOTS / "predicted_actual.png")
    plots.life_trajectories(oof.get("rul", pd.DataFrame()), PLOTS / "rul_trajectories.png")
    if "failure" in oof:
        plots.reliability_curve(oof["failure"], PLOTS / "reliability.png")
    importances = {name: importance(name) for name in available}
    plots.importance(importances, PLOTS / "importance.png")
    for name, entry in metrics["targets"].items():
        error = _error_metric(name)
        log.info("%s: %s %.4g %s, skill %.3f", name, error, entry[error], entry["unit"], entry["skill"])
    for name, reason in metrics["not_available"].items():
        log.info("%s is not available: %s", name, reason)


if __name__ == "__main__":
    sys.exit(exit_code(main))
