"""Small forests for tests, with the files and metrics that the pipeline writes."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline

from features.state import STATE_VERSION
from features.targets import TARGET_NAMES, TARGETS, Target
from telemetry.settings import Settings
from training.forests import SENTINEL
from training.gate import GateThresholds
from training.model_files import save_canonical_skops
from training.onnx_export import onnx_difference, to_onnx
from training.registry.registration import Provenance, register_all
from training.registry.registry_store import RegistryStore
from training.splits import split

N_TREES = 10
#: File in a model's folder: its training table.
TABLE = "table.parquet"
GATE_BATTERIES = ("B08", "B09", "B10", "B11", "B12")
TRAIN_BATTERIES = tuple(f"B0{number}" for number in range(8))
DEFINITIONS = {"eol_fraction": 0.8, "failure_horizon_cycles": 100, "temperature_horizon_s": 300}
INTERVAL = {"coverage": 0.9, "n_batteries": 8, "factor": 2.0, "floor": 0.1}
GATE = GateThresholds(min_skill=dict.fromkeys(TARGET_NAMES, 0.02))


def features_with_missing_values(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray[Any, Any]:
    """float64[rows, columns] with single-precision values, a fifth of them missing."""
    features = rng.normal(size=(rows, columns)).astype(np.float32).astype(np.float64)
    features[rng.random(features.shape) < 0.2] = np.nan
    return features


def small_regressor(features: np.ndarray[Any, Any], actual: np.ndarray[Any, Any]) -> Pipeline:
    """Ten trees behind the sentinel."""
    return _pipeline(RandomForestRegressor(N_TREES, random_state=0)).fit(features, actual)


def small_classifier(features: np.ndarray[Any, Any], actual: np.ndarray[Any, Any]) -> Pipeline:
    """Ten calibrated trees behind the sentinel."""
    forest = RandomForestClassifier(N_TREES, max_depth=8, random_state=0)
    return _pipeline(CalibratedClassifierCV(forest, method="sigmoid", ensemble=False, cv=3)).fit(features, actual)


def feature_names(target: Target) -> list[str]:
    """Up to seven of the target's features; `fit.json` lists those of a model."""
    few = [name for name in target.feature_names if name != target.offset][:6]
    return few if target.offset is None else [*few, target.offset]


def _pipeline(forest: Any) -> Pipeline:
    return make_pipeline(SimpleImputer(strategy="constant", fill_value=SENTINEL, keep_empty_features=True), forest)


@dataclass
class ModelFiles:
    """The `models/` folder and `reports/metrics.json` as the pipeline writes them."""

    folder: Path
    metrics: dict[str, Any] = field(default_factory=lambda: {"targets": {}, "gate": {}})

    def train(
        self,
        target: str,
        *,
        noise: float = 0.1,
        signal: float = 1.0,
        train_batteries: tuple[str, ...] = TRAIN_BATTERIES,
        state_version: int = STATE_VERSION,
    ) -> None:
        """Fit a model and write its files; more `noise` in the labels gives a less accurate model."""
        trained = _trained(target, noise, signal, train_batteries, state_version)
        folder = self.folder / target
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, content in trained.files.items():
            (folder / name).write_bytes(content)
        self.metrics["targets"][target] = self.metrics["gate"][target] = json.loads(trained.evaluation)

    def write_not_available(self, target: str, reason: str) -> None:
        """Write the files of a target that is not available from the source."""
        folder = self.folder / target
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "fit.json").write_text(json.dumps({"target": target, "available": False, "reason": reason}))


@dataclass(frozen=True)
class _Trained:
    """The files of a model, and its evaluation as JSON."""

    files: dict[str, bytes]
    evaluation: str


@cache
def _trained(name: str, noise: float, signal: float, train_batteries: tuple[str, ...], state_version: int) -> _Trained:
    """Fitted once per arguments: it gives the same bytes each time."""
    entry = TARGETS[name]
    rng = np.random.default_rng(5)
    train = _table(rng, entry, TRAIN_BATTERIES, signal)
    gate = _table(rng, entry, GATE_BATTERIES, signal)
    labels = train["actual"].to_numpy() + noise * rng.normal(size=len(train))
    names = feature_names(entry)
    if entry.kind == "classification":
        flipped = rng.random(len(train)) < noise / 2
        model = small_classifier(train[names].to_numpy(), np.where(flipped, 1 - train["actual"], train["actual"]))
        predicted = model.predict_proba(gate[names].to_numpy())[:, 1]
    else:
        offset, gate_offset = (frame[entry.offset] if entry.offset else 0.0 for frame in (train, gate))
        model = small_regressor(train[names].to_numpy(), labels - offset)
        predicted = model.predict(gate[names].to_numpy()) + gate_offset
    onnx = to_onnx(model, len(names))
    predictions = gate[["battery_id", "cycle_index", "actual"]].assign(
        predicted=predicted, life_quarter=1, baseline_mean=float(train["actual"].mean())
    )
    fit = {
        "target": name,
        "available": True,
        "feature_names": names,
        "state_version": state_version,
        "params": {"n_estimators": N_TREES, "max_depth": None},
        "seed": 0,
        "split": "grouped by battery",
        "interval": INTERVAL if entry.kind == "regression" else None,
        "n_rows": len(train),
        "n_batteries": len(TRAIN_BATTERIES),
        "train_batteries": list(train_batteries),
        "gate_batteries": list(GATE_BATTERIES),
        "label_max": float(train["actual"].max()),
        "definitions": DEFINITIONS,
        "onnx_max_difference": onnx_difference(model, onnx, gate[names].to_numpy()),
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "model.onnx").write_bytes(onnx)
        save_canonical_skops(model, folder / "model.skops")
        pd.concat([predictions, gate[names].add_prefix("feature_")], axis=1).to_parquet(folder / "gate.parquet")
        table, out_of_fold = _reference(train, entry)
        table.to_parquet(folder / TABLE)
        out_of_fold.to_parquet(folder / "oof.parquet")
        (folder / "fit.json").write_text(json.dumps(fit))
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return _Trained(files, json.dumps(_evaluation(entry, predictions)))


def _evaluation(target: Target, predictions: pd.DataFrame) -> dict[str, Any]:
    primary, power = ("brier", 2) if target.kind == "classification" else ("mae", 1)
    own, mean = (
        float((predictions["actual"] - predictions[name]).abs().pow(power).mean())
        for name in ("predicted", "baseline_mean")
    )
    return {
        primary: own,
        "skill": 1 - own / mean,
        "unit": target.unit,
        "n_batteries": len(GATE_BATTERIES),
        "n_rows": len(predictions),
        "baselines": {"mean": {primary: mean}},
        "by_life_quarter": [{"quarter": 1, "n_rows": len(predictions), primary: own}],
    }


def _table(rng: np.random.Generator, target: Target, batteries: tuple[str, ...], signal: float) -> pd.DataFrame:
    rows = 60 * len(batteries)
    features = features_with_missing_values(rng, rows, len(feature_names(target)))
    table = pd.DataFrame(features, columns=feature_names(target))
    if target.offset is not None:
        table[target.offset] = rng.normal(30.0, 1.0, size=rows).astype(np.float32)
    value = signal * 2.0 * np.nan_to_num(features[:, 0]) + (1.0 - signal) * rng.normal(size=rows)
    if target.offset is not None:
        value = value + table[target.offset]
    actual = (value > 0.5).astype(float) if target.kind == "classification" else value
    return table.assign(
        battery_id=np.repeat(batteries, 60), cycle_index=np.tile(np.arange(60.0), len(batteries)), actual=actual
    )


def _reference(train: pd.DataFrame, target: Target) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The training table as in the pipeline, with a row every 5 minutes, and its out-of-fold predictions."""
    times = pd.Timestamp("2025-01-01", tz="UTC") + pd.to_timedelta(300.0 * train["cycle_index"], unit="s")
    columns = train.columns.union(list(target.feature_names), sort=False)
    table = train.reindex(columns=columns).assign(time=times, life_quarter=1.0)
    table[target.label] = table["actual"]
    out_of_fold = table.loc[split(table, target).fold >= 0, ["battery_id", "cycle_index", "actual"]]
    return table, out_of_fold.assign(predicted=out_of_fold["actual"].mean()).reset_index(drop=True)


def release_small_models(settings: Settings, folder: Path) -> ModelFiles:
    """Register a small forest for each target in the registry of `settings` as its first champion release."""
    models = ModelFiles(folder)
    for target in TARGET_NAMES:
        models.train(target, state_version=STATE_VERSION)
    provenance = Provenance(
        source="made_up",
        data_sha256=dict.fromkeys(TARGET_NAMES, "ab" * 32),
        tables={target: models.folder / target / TABLE for target in TARGET_NAMES},
    )
    store = RegistryStore.open(settings, settings.domain)
    report = register_all(store, models.folder, models.metrics, GATE, provenance, by="the tests")
    assert report.release == 1
    return models
