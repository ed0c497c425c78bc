"""Stage `register`: register the models, promote what passes the gate if the policy lets it, and report the champions.

DVC runs it every time; it writes only to the model registry.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from features.targets import TARGET_NAMES
from telemetry.command import exit_code
from telemetry.parameters import load_params
from telemetry.settings import Settings
from training.gate import GateThresholds
from training.params import MODELS, REPORTS, TUNED, experiment_name, read_json, start_logging
from training.registry.provenance import provenance_in
from training.registry.registration import PromotionPolicy, RegistrationReport, register_all
from training.registry.registry_store import RegistryStore
from training.release import twin_name
from training.tracking import Trial, current_user, log_reused_tuning

_COLOURS = {"champion": "green", "challenger": "yellow", "not registered": "red", "not available": "dim"}


def main() -> None:
    start_logging()
    params = load_params()
    store = RegistryStore.open(Settings(), params["domain"])
    report = register_all(
        store,
        MODELS,
        read_json(REPORTS / "metrics.json"),
        GateThresholds.of(params),
        provenance_in(Path(), params["source"]["name"], experiment=experiment_name()),
        by=current_user(),
        policy=PromotionPolicy.of(params),
    )
    log_tuning(store)
    show(report, params["domain"], Console())


def log_tuning(store: RegistryStore) -> None:
    """Log the tuning trials of the results that were reused instead of run."""
    for target in TARGET_NAMES:
        path = TUNED / f"{target}.json"
        tuned = read_json(path) if path.exists() else None
        if tuned is not None and tuned["available"]:
            trials = [Trial(**trial) for trial in tuned["trials"]]
            log_reused_tuning(store.client, store.settings, store.domain, target, tuned["study"], trials)


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
    champion = "not set: nothing was promoted yet" if report.release is None else f"version {report.release}"
    console.print(f"{twin_name(domain)}@champion is {champion}")
    if report.command is not None:
        console.print("What passed the gate is promoted by", highlight=False)
        console.print(f"  {report.command}", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(exit_code(main))
