"""Promotion and rollback: a promotion creates a new release, a rollback restores all aliases of an earlier one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

from features.state import STATE_VERSION
from features.state_update import CYCLE_FEATURES, READING_FEATURES
from telemetry.errors import TwinError
from telemetry.wire import rfc3339
from training.gate import GateThresholds, Verdict
from training.registry.events import Aliases, Kind, RegistryEvent
from training.registry.gate_scores import Candidate, evaluate_gate
from training.registry.registry_store import RegistryStore
from training.release import (
    CHAMPION,
    MODEL_FILES,
    RELEASE_FILE,
    PinnedModel,
    Release,
    content_sha256,
    horizons_of,
    model_name,
    read_release,
    twin_name,
)

OUTSIDE = "outside this command"


@dataclass(frozen=True)
class PromotionOutcome:
    """Result of a promotion.

    Attributes:
        verdicts: by target, the gate's verdict on the proposed version.
        versions: by target, that version.
        event: the recorded event, None if no alias was moved.
    """

    verdicts: Mapping[str, Verdict]
    versions: Mapping[str, int]
    event: RegistryEvent | None


@dataclass(frozen=True)
class Champions:
    """Champions that this code can serve.

    Attributes:
        versions: by target.
        unusable: by target, why its champion cannot be served and therefore counts as none, one sentence.
    """

    versions: Mapping[str, int] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)


def usable_champions(store: RegistryStore) -> Champions:
    """The champions that this code can serve; the others do not hold up a promotion."""
    champions = store.aliases().champions
    unusable = {
        target: sentence
        for target, version in champions.items()
        if (sentence := _model_problem(store, target, version)) is not None
    }
    return Champions({t: version for t, version in champions.items() if t not in unusable}, unusable)


def release_problem(store: RegistryStore, release: int | None) -> str | None:
    """Why a release can be neither served nor restored, one sentence; None if it can."""
    name = twin_name(store.domain)
    if release is None:
        return f"{name} has no {CHAMPION}"
    if not store.exists(name, release):
        return f"{name} version {release} was deleted"
    if RELEASE_FILE not in store.file_names(name, release):
        return f"{name} version {release} has no {RELEASE_FILE}"
    try:
        models = read_release(store.client, store.domain, release).models.values()
    except TwinError as error:
        return error.sentence
    deleted = [f"{one.name} version {one.version}" for one in models if not store.exists(one.name, one.version)]
    return f"{name} version {release} needs {' and '.join(deleted)}, deleted since" if deleted else None


def _replaced_release(store: RegistryStore, present: int | None) -> int | None:
    """The release that a new one replaces: `present`, or the newest recorded one that can still be restored."""
    recorded = (event.after.release for event in reversed(store.events()))
    candidates = dict.fromkeys(release for release in (present, *recorded) if release is not None)
    return next((release for release in candidates if release_problem(store, release) is None), None)


def _model_problem(store: RegistryStore, target: str, version: int) -> str | None:
    missing = sorted({*MODEL_FILES} - store.file_names(model_name(store.domain, target), version))
    if missing:
        return f"version {version} has no {' and no '.join(missing)}"
    with store.files(target, version, evaluation=False) as folder:
        fit = Candidate.of(target, version, folder).fit
    if fit["state_version"] != STATE_VERSION:
        return f"version {version} has state version {fit['state_version']}, this code has {STATE_VERSION}"
    unknown = sorted(set(fit["feature_names"]) - {*READING_FEATURES, *CYCLE_FEATURES})
    return f"version {version} needs features that this code does not have: {', '.join(unknown)}" if unknown else None


def verdict_on(store: RegistryStore, target: str, version: int, champion: int | None, gate: GateThresholds) -> Verdict:
    """Evaluate the gate for a registered version against a registered champion; what this code cannot serve fails."""
    problem = _model_problem(store, target, version)
    if problem is not None:
        return Verdict("failed", (f"this code cannot serve it: {problem}",))
    with ExitStack() as folders:
        challenger = Candidate.of(target, version, folders.enter_context(store.files(target, version)))
        present = None
        if champion is not None and champion != version:
            present = Candidate.of(target, champion, folders.enter_context(store.files(target, champion)))
        return evaluate_gate(challenger, present, gate)


def promote(
    store: RegistryStore,
    gate: GateThresholds,
    versions: Mapping[str, int],
    *,
    reason: str,
    by: str,
    force: bool = False,
    expected: int | None = None,
) -> PromotionOutcome:
    """Promote those of `versions` (by target) that pass the gate to champion, in one new release.

    Args:
        force: promote all of them; the event records this and the gate's objections.
        expected: release that must be the champion (optimistic locking); None: no check.

    Raises:
        TwinError: a version does not exist, the release would lose models or mix state versions, or another release
            than `expected` is champion.
    """
    _check_expected(store.aliases(), expected)
    champions = usable_champions(store).versions
    proposed = {
        target: store.require_version(target, version)
        for target, version in versions.items()
        if champions.get(target) != version
    }
    verdicts = {}
    for target, version in proposed.items():
        verdicts[target] = verdict_on(store, target, version, champions.get(target), gate)
        store.set_verdict(target, version, verdicts[target])
    failed = [target for target in proposed if not verdicts[target].passed]
    promoted = proposed if force else {target: v for target, v in proposed.items() if target not in failed}
    if not promoted:
        return PromotionOutcome(verdicts, proposed, None)
    warnings = _objections(verdicts, proposed) if force else ()
    event = publish_release(
        store,
        promoted,
        kind="promote",
        reason=reason,
        by=by,
        forced=force and bool(failed),
        warnings=warnings,
        expected=expected,
    )
    return PromotionOutcome(verdicts, proposed, event)


def publish_release(
    store: RegistryStore,
    promoted: Mapping[str, int],
    *,
    kind: Kind,
    reason: str,
    by: str,
    forced: bool = False,
    warnings: Iterable[str] = (),
    expected: int | None = None,
) -> RegistryEvent:
    """Publish a release of `promoted` and of the present champions of the other targets that this code can serve.

    Raises:
        TwinError: as for `compose_release`, or another release than `expected` is champion.
    """
    before = store.aliases()
    _check_expected(before, expected)  # the gate takes seconds, during which another process may have promoted
    champions = usable_champions(store)
    retained = {target: version for target, version in champions.versions.items() if target not in promoted}
    release = compose_release(store, {**retained, **promoted}, promoted.keys(), forced=forced)
    versions = {target: pinned.version for target, pinned in release.models.items()}
    version = store.add_release(release, _replaced_release(store, before.release), _description(versions, reason))
    store.set_champions(versions, version)
    lost = dict.fromkeys(sorted(retained.keys() - versions.keys()), "its model has another state version")
    lost |= {target: why for target, why in champions.unusable.items() if target not in versions}
    notes = (*warnings, *(f"{target} is no longer served: {why}" for target, why in lost.items()))
    return record_event(store, kind, by=by, reason=reason, forced=forced, warnings=notes)


def compose_release(
    store: RegistryStore, champions: Mapping[str, int], promoted: Iterable[str], *, forced: bool
) -> Release:
    """Release of those `champions` that have the state version of the `promoted`.

    Raises:
        TwinError: the promoted have several state versions, or, unless `forced`, another model would be lost.
    """
    fits, pinned = {}, {}
    for target, version in sorted(champions.items()):
        with store.files(target, version, evaluation=False) as folder:
            fits[target] = Candidate.of(target, version, folder).fit
            pinned[target] = PinnedModel(model_name(store.domain, target), version, content_sha256(folder))
    wanted = {int(fits[target]["state_version"]) for target in promoted}
    if len(wanted) != 1:
        raise TwinError(
            f"one release cannot have models of state versions {sorted(wanted)}; promote them separately",
            field="state_version",
        )
    state_version = wanted.pop()
    others = sorted(target for target, fit in fits.items() if fit["state_version"] != state_version)
    if others and not forced:
        raise TwinError(
            f"a release of state version {state_version} would lose {', '.join(others)}, which has another one: "
            "promote their challengers too, or use --force",
            field="state_version",
            value=state_version,
        )
    models = {target: model for target, model in pinned.items() if target not in others}
    return Release(store.domain, models, state_version, horizons_of({target: fits[target] for target in models}))


def rollback(
    store: RegistryStore, *, reason: str, by: str, to: int | None = None, expected: int | None = None
) -> RegistryEvent:
    """Restore an earlier release: every model's champion alias and that of the release.

    Args:
        to: the release; None: the predecessor of the present one.  Rolling back twice goes back two releases.
        expected: release that must be the champion (optimistic locking), so that two concurrent rollbacks go back one
            release; None: no check.

    Raises:
        TwinError: there is no such release, a model of it was deleted, or another one than `expected` is champion.
    """
    name = twin_name(store.domain)
    aliases = store.aliases()
    _check_expected(aliases, expected)
    present = aliases.release
    if to is not None:
        wanted = store.require_release(to)
    elif present is None:
        raise TwinError(
            f"{name} has no {CHAMPION}, so there is nothing to roll back; --to restores one of its releases "
            f"(existing: {store.releases_text()})",
            field="release",
        )
    elif (previous := store.previous_release(present)) is None:
        raise TwinError(f"{name} version {present} is the first release; it has no predecessor", field="release")
    else:
        wanted = previous
    problem = release_problem(store, wanted)
    if problem is not None:  # before any alias is moved
        raise TwinError(
            f"release {wanted} cannot be restored: {problem}; --to restores another one "
            f"(existing: {store.releases_text()})",
            field="release",
            value=wanted,
        )
    store.set_champions(versions_in_release(store, wanted), wanted)
    return record_event(store, "rollback", by=by, reason=reason)


def outside_changes(store: RegistryStore) -> list[str]:
    """Aliases that were moved by other means and are not recorded yet, one text each; reads only."""
    return _differences(store.domain, _recorded(store), store.aliases())


def synchronise(store: RegistryStore, gate: GateThresholds) -> RegistryEvent | None:
    """Detect aliases that were moved by other means (e.g. in MLflow's web page), record this and update the release.

    A moved release alias moves the four model aliases too.  A moved model alias creates a new release, so that the
    served release matches the registry.  A champion release that was deleted or cannot be read is replaced by a new one
    of the champions that exist.  Each new champion is evaluated by the gate; a failure is recorded as a warning and not
    undone, as a person with access decided it.

    Returns:
        The recorded event, None if no alias was moved and the champion release is complete.
    """
    before, now = _recorded(store), store.aliases()
    problem = release_problem(store, now.release)
    # Without usable champions there is nothing to make a release of, and nothing new to record.
    usable = {} if problem is None else usable_champions(store).versions
    if now == before and not usable:
        return None
    moved = ", ".join(_differences(store.domain, before, now))
    reason = f"moved outside: {moved}" if moved else f"release lost outside: {problem}"
    warnings: list[str] = []
    if problem is None and now.release is not None and now.release != before.release:
        champions = versions_in_release(store, now.release)
        store.set_champions(champions, now.release)
    else:
        champions = dict(usable or now.champions)
    changed = {target: version for target, version in champions.items() if before.champions.get(target) != version}
    for target, version in changed.items():
        warnings += _outside_objections(store, target, version, before.champions.get(target), gate)
    if usable:
        why = f"{problem}: a release of the champions that exist replaces it"
        return publish_release(store, usable, kind="outside", by=OUTSIDE, reason=reason, warnings=[*warnings, why])
    if now.release == before.release and now.champions != before.champions:
        warnings += _release_from_aliases(store, champions, changed, reason)
    return record_event(store, "outside", by=OUTSIDE, reason=reason, warnings=warnings)


def _recorded(store: RegistryStore) -> Aliases:
    events = store.events()
    return events[-1].after if events else Aliases()


def record_event(
    store: RegistryStore,
    kind: Kind,
    *,
    by: str,
    reason: str,
    forced: bool = False,
    warnings: Iterable[str] = (),
    after: Aliases | None = None,
) -> RegistryEvent:
    """Append an event with the aliases `after` it, None for the present ones."""
    time = datetime.now(UTC).replace(microsecond=0)
    event = RegistryEvent(rfc3339(time), kind, by, reason, after or store.aliases(), forced, tuple(warnings))
    store.add_event(event)
    return event


def versions_in_release(store: RegistryStore, release: int) -> dict[str, int]:
    """Model versions of a release, by target."""
    models = read_release(store.client, store.domain, release).models
    return {target: pinned.version for target, pinned in models.items()}


def _check_expected(present: Aliases, expected: int | None) -> None:
    if expected is not None and present.release != expected:
        actual = "none is" if present.release is None else f"release {present.release} is"
        raise TwinError(
            f"the champion is no longer release {expected}, {actual}; reload and decide again",
            field="release",
            value=expected,
        )


def _description(champions: Mapping[str, int], reason: str) -> str:
    return ", ".join(f"{target} {version}" for target, version in champions.items()) + f": {reason}"


def _objections(verdicts: Mapping[str, Verdict], versions: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(
        f"{target} version {versions[target]} {verdict.sentence}"
        for target, verdict in verdicts.items()
        if not verdict.passed
    )


def _outside_objections(
    store: RegistryStore, target: str, version: int, before: int | None, gate: GateThresholds
) -> tuple[str, ...]:
    try:
        verdict = verdict_on(store, target, version, before, gate)
    except TwinError as error:  # not registered by this project: it lacks the files
        verdict = Verdict("failed", (error.sentence,))
    return _objections({target: verdict}, {target: version})


def _release_from_aliases(
    store: RegistryStore, champions: Mapping[str, int], changed: Mapping[str, int], reason: str
) -> tuple[str, ...]:
    """Publish a release of the present model aliases; a warning if that is impossible."""
    if not champions:
        return (f"no model has the alias {CHAMPION}; the last release continues to serve",)
    try:
        release = compose_release(store, champions, changed or champions, forced=False)
    except TwinError as error:
        return (f"the release was not updated: {error.sentence}",)
    version = store.add_release(release, store.aliases().release, _description(champions, reason))
    store.set_champions(champions, version)
    return ()


def _differences(domain: str, before: Aliases, now: Aliases) -> list[str]:
    moved = []
    for alias, old, new in (
        ("champion", before.champions, now.champions),
        ("challenger", before.challengers, now.challengers),
    ):
        moved += [
            f"{model_name(domain, target)}@{alias} {_arrow(old.get(target), new.get(target))}"
            for target in sorted(old.keys() | new.keys())
            if old.get(target) != new.get(target)
        ]
    if before.release != now.release:
        moved.append(f"{twin_name(domain)}@{CHAMPION} {_arrow(before.release, now.release)}")
    return moved


def _arrow(old: int | None, new: int | None) -> str:
    return f"{old or 'none'} -> {new or 'none'}"
