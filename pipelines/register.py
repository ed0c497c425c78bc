"""Stage `register`: hand the models to the registry and say who serves.  Always runs; writes only to the registry."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.settings import Settings
from features.targets import TARGET_NAMES
from pipelines.command import exit_code
from pipelines.params import FEATURES, MODELS, REPORTS, file_hash, load_params, read_json, start_logging
from training.gate import GateThresholds
from training.registry.promotion import current_user
from training.registry.registration import Provenance, RegisterReport, register_all
from training.registry.store import RegistryStore
from training.release import twin_name

REQUIREMENTS = Path("requirements.lock")

_COLOURS = {"champion": "green", "challenger": "yellow", "not registered": "red", "not available": "dim"}


def main() -> None:
    start_logging()
    params = load_params()
    store = RegistryStore.open(Settings(), params["domain"])
    report = register_all(
        store,
        MODELS,
        read_json(REPORTS / "metrics.json"),
        GateThresholds.from_params(params["gate"]),
        provenance_in(Path(), params["source"]["name"]),
        by=current_user(),
    )
    show(report, params["domain"], Console())


def provenance_in(workspace: Path, source: str, tags: Mapping[str, str] | None = None) -> Provenance:
    """Where the models in the folder `workspace` come from.

    Args:
        source: the data source's name.
        tags: what else their runs shall say.
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
        tags=tags or {},
    )


def show(report: RegisterReport, domain: str, console: Console) -> None:
    """Print what became of each model, and what serves."""
    if report.outside is not None:
        for sentence in (report.outside.reason, *report.outside.warnings):
            console.print(f"[yellow]{escape(sentence)}[/yellow]")
    table = Table("model", "version", "is", "because")
    for model in report.models:
        version = "–" if model.version is None else f"{model.version}{' (new)' if model.new else ''}"
        state = f"[{_COLOURS[model.state]}]{model.state}[/]"
        table.add_row(f"{domain}-{model.target}", version, state, escape("; ".join(model.reasons)))
    console.print(table)
    served = "nothing: no model has passed the gate" if report.release is None else f"version {report.release}"
    console.print(f"{twin_name(domain)}@champion is {served}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
