"""Collects the provenance of trained models: source, feature tables, folds, plots and the lock file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from features.targets import TARGET_NAMES
from training.params import FEATURES, REPORTS, file_hash, read_json
from training.registry.registration import Provenance

REQUIREMENTS = Path("requirements.lock")


def provenance_in(
    workspace: Path, source: str, tags: Mapping[str, str] | None = None, *, experiment: str | None = None
) -> Provenance:
    """Provenance of the models in the folder `workspace`.

    Args:
        source: the data source's name.
        tags: further tags of their runs and versions.
        experiment: name of the DVC experiment, None outside one.
    """
    paths = {target: workspace / FEATURES / f"{target}.parquet" for target in TARGET_NAMES}
    tables = {target: path for target, path in paths.items() if path.exists()}
    return Provenance(
        source=source,
        data_sha256={target: file_hash(path) for target, path in tables.items()},
        tables=tables,
        folds=read_json(workspace / REPORTS / "folds.json"),
        plots=tuple(sorted((workspace / REPORTS / "plots").glob("*.png"))),
        requirements=REQUIREMENTS if REQUIREMENTS.exists() else None,
        experiment=experiment,
        tags=tags or {},
    )
