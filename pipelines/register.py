"""Stage `register`: register the models and report the champion release.

DVC runs it every time; it writes only to the model registry.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from telemetry.command import exit_code
from telemetry.parameters import load_params
from telemetry.settings import Settings
from training.gate import GateThresholds
from training.params import MODELS, REPORTS, read_json, start_logging
from training.registry.promotion import current_user
from training.registry.provenance import provenance_in
from training.registry.registration import RegistrationReport, register_all
from training.registry.registry_store import RegistryStore
from training.release import twin_name

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


def show(report: RegistrationReport, domain: str, console: Console) -> None:
    """Print the state of each model in the registry, and the champion release."""
    if report.outside is not None:
        for sentence in (report.outside.reason, *report.outside.warnings):
            console.print(f"[yellow]{escape(sentence)}[/yellow]")
    table = Table("model", "version", "state", "reason")
    for model in report.models:
        version = "–" if model.version is None else f"{model.version}{' (new)' if model.new else ''}"
        state = f"[{_COLOURS[model.state]}]{model.state}[/]"
        table.add_row(f"{domain}-{model.target}", version, state, escape("; ".join(model.reasons)))
    console.print(table)
    champion = "not set: no model has passed the gate" if report.release is None else f"version {report.release}"
    console.print(f"{twin_name(domain)}@champion is {champion}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
