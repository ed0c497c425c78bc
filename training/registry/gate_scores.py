"""Evaluates the promotion gate on model files: errors of challenger and champion on the same held-out rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.targets import TARGETS, Target
from training.gate import BatteryError, GateScore, GateThresholds, Verdict, decide
from training.onnx_runtime import OnnxForest

FEATURE_PREFIX = "feature_"


@dataclass(frozen=True)
class Candidate:
    """Files of one model version.

    Attributes:
        version: its name in reasons, e.g. "version 3".
        folder: with `model.onnx`, `fit.json` and, if this project registered it, `gate.parquet`.
        gate: the target's entry under "gate" in `reports/metrics.json`.
    """

    target: str
    version: str
    folder: Path
    gate: Mapping[str, Any]

    @classmethod
    def of(cls, target: str, version: int, folder: Path) -> Candidate:
        """The candidate in a folder made by `RegistryStore.files`."""
        metrics = folder / "metrics.json"
        content = json.loads(metrics.read_text(encoding="utf-8")) if metrics.exists() else {}
        return cls(target, f"version {version}", folder, content.get("gate", {}))

    @property
    def fit(self) -> Mapping[str, Any]:
        """Content of `fit.json`."""
        content: Mapping[str, Any] = json.loads((self.folder / "fit.json").read_text(encoding="utf-8"))
        return content

    @property
    def gate_rows(self) -> pd.DataFrame | None:
        """Rows held out from its training, with its predictions; None if the version has none."""
        path = self.folder / "gate.parquet"
        return pd.read_parquet(path) if path.exists() else None


def evaluate_gate(challenger: Candidate, champion: Candidate | None, thresholds: GateThresholds) -> Verdict:
    """Compare `challenger` with its baselines and with `champion` on the challenger's gate rows."""
    target = TARGETS[challenger.target]
    rows = challenger.gate_rows
    if rows is None:
        return Verdict("failed", ("it has no gate rows, so the gate cannot be evaluated",))
    primary = "brier" if target.kind == "classification" else "mae"
    score = GateScore(
        target.name,
        challenger.version,
        _by_battery(target, rows, rows["predicted"].to_numpy(dtype=float)),
        baselines={name: entry[primary] for name, entry in challenger.gate.get("baselines", {}).items()},
    )
    return decide(score, None if champion is None else _champion_score(champion, challenger, rows), thresholds)


def predict_rows(folder: Path, target: Target, feature_names: list[str], rows: pd.DataFrame) -> NDArray[np.float64]:
    """Predictions of the `model.onnx` in `folder` for gate rows, in the target's unit."""
    features = rows[[FEATURE_PREFIX + name for name in feature_names]].to_numpy(dtype=np.float32)
    value = OnnxForest(folder / "model.onnx").predict(features)
    return value if target.offset is None else value + rows[FEATURE_PREFIX + target.offset].to_numpy(dtype=float)


def _champion_score(champion: Candidate, challenger: Candidate, rows: pd.DataFrame) -> GateScore:
    target = TARGETS[champion.target]
    fit = champion.fit
    reason = _incompatibility(fit, challenger.fit, rows)
    if reason is not None:
        return GateScore(target.name, champion.version, {}, unscored=reason)
    predicted = predict_rows(champion.folder, target, list(fit["feature_names"]), rows)
    by_battery = _by_battery(target, rows, predicted)
    return GateScore(target.name, champion.version, by_battery, trained_on=frozenset(fit["train_batteries"]))


def _incompatibility(champion: Mapping[str, Any], challenger: Mapping[str, Any], rows: pd.DataFrame) -> str | None:
    if champion["state_version"] != challenger["state_version"]:
        return f"it has state version {champion['state_version']}, the rows have {challenger['state_version']}"
    absent = [name for name in champion["feature_names"] if FEATURE_PREFIX + name not in rows.columns]
    if absent:
        return f"the rows lack {len(absent)} of its features, {absent[0]} for one"
    if champion["definitions"] != challenger["definitions"]:
        return "its target has another definition (params.yaml, targets)"
    return None


def _by_battery(target: Target, rows: pd.DataFrame, predicted: NDArray[np.float64]) -> dict[str, BatteryError]:
    error = np.abs(rows["actual"].to_numpy(dtype=float) - predicted)
    if target.kind == "classification":
        error = error**2
    names, battery = np.unique(rows["battery_id"].to_numpy(dtype=str), return_inverse=True)
    totals, counts = np.bincount(battery, weights=error), np.bincount(battery)
    return {
        str(name): BatteryError(float(total), int(count))
        for name, total, count in zip(names, totals, counts, strict=True)
    }
