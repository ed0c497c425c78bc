"""Command line of the model registry: `python -m training.registry list | promote | rollback | history`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from features.targets import TARGET_NAMES
from telemetry.errors import TwinError
from telemetry.settings import Settings
from training.gate import GateThresholds, required_gate
from training.registry.events import RegistryEvent
from training.registry.promotion import PromotionOutcome, outside_changes, promote, rollback, synchronise
from training.registry.registry_store import RegistryStore
from training.release import CHALLENGER, CHAMPION, model_name, twin_name
from training.tracking import current_user

#: Width of tables outside a terminal, in characters.
_UNLIMITED = 100_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0 on success, 1 if it was refused, 2 for an unknown model namespace."""
    options = _parser().parse_args(arguments)
    if getattr(options, "by", "") is None:
        options.by = current_user()
    console, errors = _console(), _console(stderr=True)
    try:
        settings = Settings()
        try:
            store = _open(settings, options.domain)
        except TwinError as error:
            errors.print(f"[red]{escape(error.sentence)}[/red]", soft_wrap=True)
            return 2
        return int(options.run(store, options, console, errors))
    except TwinError as error:
        errors.print(f"[red]{escape(error.sentence)}[/red]")
        return 1


def _console(*, stderr: bool = False) -> Console:
    """Tables wrap in a terminal; elsewhere, unless COLUMNS is set, each row is one line."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNLIMITED
    return console


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


def _list(store: RegistryStore, options: argparse.Namespace, out: Console, err: Console) -> int:
    aliases, outside = store.aliases(), outside_changes(store)
    versions = {target: store.registered(target) for target in TARGET_NAMES}
    if options.json:
        listed = {target: [asdict(one) for one in found] for target, found in versions.items()}
        content = {"domain": store.domain, "versions": listed, **asdict(aliases), "not_recorded": outside}
        out.print_json(json.dumps(content))
        return 0
    served = "none" if aliases.release is None else f"version {aliases.release}"
    table = Table(title=f"{twin_name(store.domain)}@{CHAMPION}: {served}", title_justify="left")
    for heading in ("model", "version", "alias", "registered", "gate"):
        table.add_column(heading, overflow="fold")
    for target, found in versions.items():
        for one in found:
            # A challenger that was promoted is champion.
            at = {aliases.challengers.get(target): CHALLENGER, aliases.champions.get(target): CHAMPION}
            origin = f"{one.registered_at}\nexperiment {one.experiment}" if one.experiment else one.registered_at
            verdict = f"{one.gate or 'not evaluated'}: {one.reasons}" if one.reasons else one.gate or "–"
            name = model_name(store.domain, target)
            table.add_row(name, str(one.version), at.get(one.version, ""), escape(origin), escape(verdict))
    out.print(table)
    _print_outside(outside, err)
    return 0


def _print_outside(changes: Sequence[str], err: Console) -> None:
    if changes:
        err.print(
            f"[yellow]moved outside and not recorded yet: {escape(', '.join(changes))}. The monitoring process or the "
            "next registration, promotion or rollback records it and updates the release.[/yellow]"
        )


def _promote(store: RegistryStore, options: argparse.Namespace, out: Console, err: Console) -> int:
    gate = required_gate(options.params)
    _synchronise(store, gate, err)
    outcome = promote(
        store,
        gate,
        _chosen(store, options),
        reason=options.reason,
        by=options.by,
        force=options.force,
        expected=options.expected_release,
    )
    _print_outcome(outcome, out, err)
    return 0 if outcome.event is not None or not outcome.verdicts else 1


def _chosen(store: RegistryStore, options: argparse.Namespace) -> dict[str, int]:
    """The versions to promote: those named, else the challengers."""
    if options.versions:
        if options.target is not None or options.version is not None:
            raise TwinError("give either TARGET=VERSION or --target and --version", field="--target")
        return dict(options.versions)
    challengers = dict(store.aliases().challengers)
    if options.target is not None:
        version = options.version or challengers.get(options.target)
        if version is None:
            raise TwinError(f"{store.domain}-{options.target} has no challenger; give a --version", field="--version")
        return {options.target: version}
    if options.version is not None:
        raise TwinError("--version needs a --target", field="--version", value=options.version)
    return challengers


def _synchronise(store: RegistryStore, gate: GateThresholds, err: Console) -> None:
    outside = synchronise(store, gate)
    if outside is not None:
        for sentence in (f"aliases were moved outside this command: {outside.reason}", *outside.warnings):
            err.print(f"[yellow]{escape(sentence)}[/yellow]")


def _print_outcome(outcome: PromotionOutcome, out: Console, err: Console) -> None:
    if not outcome.verdicts:
        out.print("nothing to promote: every version named is already champion")
        return
    for target, verdict in outcome.verdicts.items():
        out.print(escape(f"{target} version {outcome.versions[target]} {verdict.sentence}"))
    if outcome.event is None:
        err.print("[red]nothing was promoted; --force promotes in spite of the gate and is recorded as forced[/red]")
    else:
        out.print(f"release {outcome.event.after.release} is champion, with {_models(outcome.event)}")


def _rollback(store: RegistryStore, options: argparse.Namespace, out: Console, err: Console) -> int:
    _synchronise(store, required_gate(options.params), err)
    event = rollback(store, reason=options.reason, by=options.by, to=options.to, expected=options.expected_release)
    out.print(f"release {event.after.release} is champion again, with {_models(event)}")
    return 0


def _models(event: RegistryEvent) -> str:
    return ", ".join(f"{target} {version}" for target, version in event.after.champions.items()) or "no model"


def _history(store: RegistryStore, options: argparse.Namespace, out: Console, err: Console) -> int:
    events = store.events()
    if options.json:
        out.print_json(json.dumps([asdict(event) for event in events]))
        return 0
    table = Table(title=f"History of {twin_name(store.domain)}", title_justify="left")
    table.add_column("time", min_width=len("2026-01-01T00:00:00Z"))  # narrow terminals wrap the other columns
    for heading in ("event", "release", "champions", "by", "reason"):
        table.add_column(heading, overflow="fold")
    for event in events:
        table.add_row(*_event_row(event))
    out.print(table)
    _print_outside(outside_changes(store), err)
    return 0


def _event_row(event: RegistryEvent) -> tuple[str, ...]:
    champions = "\n".join(f"{target} {version}" for target, version in event.after.champions.items()) or "none"
    reason = "\n".join((escape(event.reason), *(f"[yellow]{escape(warning)}[/yellow]" for warning in event.warnings)))
    kind = f"{event.kind} (forced)" if event.forced else event.kind
    return event.time, kind, str(event.after.release or "–"), champions, escape(event.by), reason


def _target_version(text: str) -> tuple[str, int]:
    target, _, version = text.partition("=")
    if target not in TARGET_NAMES or not version.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is none: give TARGET=VERSION, the target {', '.join(TARGET_NAMES)}")
    return target, int(version)


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

    listing = commands.add_parser(
        "list", parents=[shared, formatted], help="versions with aliases and the gate's verdicts"
    )
    listing.set_defaults(run=_list)
    promotion = commands.add_parser("promote", parents=[shared, authored], help="promote challengers to champion")
    promotion.add_argument("versions", nargs="*", type=_target_version, metavar="TARGET=VERSION", help="these versions")
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
