"""Command line of the model registry: `python -m training.registry list | promote | rollback | history`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from features.targets import TARGET_NAMES
from telemetry.errors import TwinError
from telemetry.settings import Settings
from training.gate import GateThresholds
from training.registry.events import RegistryEvent
from training.registry.promotion import PromotionOutcome, current_user, promote, rollback, synchronise
from training.registry.registry_store import RegistryStore
from training.release import twin_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0 on success, 1 if it was refused, 2 for an unknown model namespace."""
    options = _parser().parse_args(arguments)
    if getattr(options, "by", "") is None:
        options.by = current_user()
    console, errors = Console(), Console(stderr=True)
    try:
        settings = Settings()
        try:
            store = _open(settings, options.domain)
        except TwinError as error:
            errors.print(f"[red]{escape(error.sentence)}[/red]", soft_wrap=True)
            return 2
        gate = _thresholds(options.params)
        outside = synchronise(store, gate)
        if outside is not None:
            _warn(errors, f"aliases were moved outside this command: {outside.reason}", outside.warnings)
        return int(options.run(store, gate, options, console, errors))
    except TwinError as error:
        errors.print(f"[red]{escape(error.sentence)}[/red]")
        return 1


def _open(settings: Settings, domain: str | None) -> RegistryStore:
    """The registry of `domain`, None for that of the settings, which may still be empty."""
    store = RegistryStore.open(settings, settings.domain if domain is None else domain)
    existing = store.domains()
    if store.domain not in existing and (existing or domain is not None):
        listed = ", ".join(existing) or "none; `make repro` registers models"
        raise TwinError(
            f"the registry has no model namespace {store.domain}; existing: {listed}", field="domain", value=domain
        )
    return store


def _list(store: RegistryStore, gate: GateThresholds, options: argparse.Namespace, out: Console, err: Console) -> int:
    aliases = store.aliases()
    if options.json:
        versions = {target: store.versions(target) for target in TARGET_NAMES}
        out.print_json(json.dumps({"domain": store.domain, "versions": versions, **asdict(aliases)}))
        return 0
    served = "none" if aliases.release is None else f"version {aliases.release}"
    table = Table("model", "champion", "challenger", "versions", title=f"{twin_name(store.domain)}: {served}")
    for target in TARGET_NAMES:
        champion, challenger = aliases.champions.get(target), aliases.challengers.get(target)
        if challenger == champion:  # the challenger was promoted
            challenger = None
        count = len(store.versions(target))
        table.add_row(f"{store.domain}-{target}", str(champion or "–"), str(challenger or "–"), str(count))
    out.print(table)
    return 0


def _promote(
    store: RegistryStore, gate: GateThresholds, options: argparse.Namespace, out: Console, err: Console
) -> int:
    challengers = dict(store.aliases().challengers)
    if options.target is not None:
        version = options.version or challengers.get(options.target)
        if version is None:
            raise TwinError(f"{store.domain}-{options.target} has no challenger; give a --version", field="--version")
        versions = {options.target: version}
    elif options.version is not None:
        raise TwinError("--version needs a --target", field="--version", value=options.version)
    else:
        versions = challengers
    outcome = promote(
        store,
        gate,
        versions,
        reason=options.reason,
        by=options.by,
        force=options.force,
        expected=options.expected_release,
    )
    _print_outcome(outcome, out, err)
    return 0 if outcome.event is not None or not outcome.verdicts else 1


def _print_outcome(outcome: PromotionOutcome, out: Console, err: Console) -> None:
    if not outcome.verdicts:
        out.print("nothing to promote: every version named is already champion")
        return
    for target, verdict in outcome.verdicts.items():
        result = "passes" if verdict.passed else "[red]fails[/red]"
        out.print(
            f"{target} version {outcome.versions[target]} {result} the gate: {escape('; '.join(verdict.reasons))}"
        )
    if outcome.event is None:
        err.print("[red]nothing was promoted; --force promotes in spite of the gate and is recorded as forced[/red]")
    else:
        out.print(f"release {outcome.event.after.release} is champion")


def _rollback(
    store: RegistryStore, gate: GateThresholds, options: argparse.Namespace, out: Console, err: Console
) -> int:
    event = rollback(store, reason=options.reason, by=options.by, to=options.to, expected=options.expected_release)
    out.print(f"release {event.after.release} is champion again: {dict(event.after.champions)}")
    return 0


def _history(
    store: RegistryStore, gate: GateThresholds, options: argparse.Namespace, out: Console, err: Console
) -> int:
    events = store.events()
    if options.json:
        out.print_json(json.dumps([asdict(event) for event in events]))
        return 0
    table = Table(title=f"History of {twin_name(store.domain)}")
    table.add_column("time", min_width=len("2026-01-01T00:00:00Z"))  # narrow terminals wrap the other columns
    for heading in ("event", "release", "champions", "by", "reason"):
        table.add_column(heading, overflow="fold")
    for event in events:
        table.add_row(*_event_row(event))
    out.print(table)
    return 0


def _event_row(event: RegistryEvent) -> tuple[str, ...]:
    champions = "\n".join(f"{target} {version}" for target, version in event.after.champions.items()) or "none"
    reason = "\n".join((escape(event.reason), *(f"[yellow]{escape(warning)}[/yellow]" for warning in event.warnings)))
    kind = f"{event.kind} (forced)" if event.forced else event.kind
    return event.time, kind, str(event.after.release or "–"), champions, escape(event.by), reason


def _warn(console: Console, sentence: str, warnings: Sequence[str]) -> None:
    console.print(f"[yellow]{escape(sentence)}[/yellow]")
    for warning in warnings:
        console.print(f"[yellow]  {escape(warning)}[/yellow]")


def _thresholds(path: Path) -> GateThresholds:
    try:
        params: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TwinError(
            f"cannot read {path}: run this in the project's folder or give --params", field="--params"
        ) from error
    if "gate" not in params:
        raise TwinError(f"{path} has no section gate; add it", field="gate")
    return GateThresholds.from_params(params["gate"])


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; give a reason, which the history shows")
    return text.strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.registry",
        description="List, promote and roll back models; show the history of champions.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--domain", help="model namespace, prefix of the models (default: TWIN_DOMAIN or battery)")
    shared.add_argument("--params", type=Path, default=Path("params.yaml"), help="file with the gate's thresholds")
    formatted = argparse.ArgumentParser(add_help=False)
    formatted.add_argument("--json", action="store_true", help="print JSON")
    authored = argparse.ArgumentParser(add_help=False)
    authored.add_argument("--reason", required=True, type=_reason, help="reason in the history")
    authored.add_argument(
        "--by", default=None, help="author in the history (default: git's user.name or the login name)"
    )
    authored.add_argument("--expected-release", type=int, help="refuse if another release is champion")

    listing = commands.add_parser("list", parents=[shared, formatted], help="champions, challengers and versions")
    listing.set_defaults(run=_list)
    promotion = commands.add_parser("promote", parents=[shared, authored], help="promote challengers to champion")
    promotion.add_argument("--target", choices=TARGET_NAMES, help="only this target (default: all challengers)")
    promotion.add_argument("--version", type=int, help="this version instead of the challenger")
    promotion.add_argument("--force", action="store_true", help="promote in spite of the gate; recorded as forced")
    promotion.set_defaults(run=_promote)
    back = commands.add_parser("rollback", parents=[shared, authored], help="restore the previous release")
    back.add_argument("--to", type=int, help="this release instead of the previous one")
    back.set_defaults(run=_rollback)
    history = commands.add_parser("history", parents=[shared, formatted], help="all changes, with author and reason")
    history.set_defaults(run=_history)
    return parser


if __name__ == "__main__":
    sys.exit(main())
