"""Reads params.yaml, names the folders of the DVC stages and writes their JSON files reproducibly."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from pathlib import Path
from typing import Any, TypeVar

import yaml

from telemetry.errors import TwinError

T = TypeVar("T")

INTERIM = Path("data/interim")
VALIDATED = Path("data/validated")
QUARANTINE = Path("data/quarantine")
FEATURES = Path("data/features")
TUNED = Path("reports/tuning")
MODELS = Path("models")
REPORTS = Path("reports")


def load_params(path: str | Path = "params.yaml") -> dict[str, Any]:
    """The parameters as nested dictionaries."""
    with open(path, encoding="utf-8") as file:
        loaded: dict[str, Any] = yaml.safe_load(file)
    return loaded


def parse_section(cls: type[T], section: dict[str, Any], name: str) -> T:
    """`section` of params.yaml as the dataclass `cls`; lists become tuples.

    Raises:
        TwinError: for an unknown or missing parameter.
    """
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in section:
        if key not in known:
            raise TwinError(
                f"params.yaml: {name}.{key} is not a parameter; valid are {', '.join(sorted(known))}",
                field=f"{name}.{key}",
                value=section[key],
            )
    try:
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in section.items()})
    except TypeError as error:
        raise TwinError(f"params.yaml: section {name} is incomplete: {error}", field=name) from error


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
