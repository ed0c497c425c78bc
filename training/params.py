"""Folders of the DVC stages, and their JSON files, written reproducibly."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import pandas as pd

INTERIM = Path("data/interim")
VALIDATED = Path("data/validated")
QUARANTINE = Path("data/quarantine")
FEATURES = Path("data/features")
#: Label definitions of the feature tables, in `FEATURES`.
DEFINITIONS_FILE = "definitions.json"
TUNED = Path("reports/tuning")
MODELS = Path("models")
REPORTS = Path("reports")


def censored_path(target: str) -> Path:
    """File with the rows of batteries that have not reached the end of life that `target` predicts."""
    return FEATURES / f"{target}_censored.parquet"


def read_censored(target: str) -> pd.DataFrame | None:
    """The rows of `censored_path`; None if there are none."""
    rows = pd.read_parquet(censored_path(target))
    return None if rows.empty else rows


def experiment_name() -> str | None:
    """Name of the DVC experiment (`dvc exp run`) that this stage belongs to, None outside one."""
    return os.environ.get("DVC_EXP_NAME") or None


def file_hash(*paths: Path) -> str:
    """SHA-256 over the bytes of `paths`, in that order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON with identical bytes for identical numbers: 12 digits, NaN as null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.12g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value


def start_logging() -> None:
    """Log the progress of a stage to the terminal, one line a step."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for library in ("mlflow", "alembic", "optuna", "skl2onnx", "great_expectations"):
        logging.getLogger(library).setLevel(logging.WARNING)
