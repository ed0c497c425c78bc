"""Registers trained models in MLflow and promotes those that pass the gate: the last stage of the pipeline."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd

from features.targets import TARGET_NAMES, TARGETS
from telemetry.errors import TwinError
from telemetry.parameters import Parameters
from training.gate import GateThresholds, Verdict
from training.model_card import CardContext, model_card
from training.model_files import load_skops
from training.onnx_export import MAX_DIFFERENCE, onnx_difference
from training.registry.drift_reference import reference_rows
from training.registry.events import Aliases, RegistryEvent
from training.registry.gate_scores import FEATURE_PREFIX
from training.registry.promotion import (
    Champions,
    publish_release,
    record_event,
    synchronise,
    usable_champions,
    verdict_on,
)
from training.registry.registry_store import RegistryStore
from training.release import CONTENT_TAG, content_sha256
from training.tracking import EXPERIMENT_TAG, FinalRun, git_commit, log_final_run

State = Literal["champion", "challenger", "not registered", "not available"]
Decider = Literal["gate", "person"]


class PromotionPolicy(Parameters):
    """Section `promotion` of params.yaml: which registered models become champion without a person.

    Attributes:
        first: "gate" promotes a model that passes the gate if its target has no champion that this code can serve;
            "person" leaves it challenger.
        later: the same if the target has such a champion.
    """

    section: ClassVar[str] = "promotion"

    first: Decider = "gate"
    later: Decider = "person"


#: What passes the gate is promoted: retraining on drift.
BY_GATE = PromotionPolicy(first="gate", later="gate")
#: Nothing is promoted: a DVC experiment.
BY_PERSON = PromotionPolicy(first="person", later="person")


@dataclass(frozen=True)
class Provenance:
    """Origin of the models, as logged with their runs.

    Attributes:
        source: the data source's name.
        data_sha256: by target, the hash of the table that it was fitted on.
        tables: by target, that table, if the file is available.
        folds: content of `reports/folds.json`.
        plots: image files of the evaluation.
        requirements: lock file of the environment.
        experiment: name of the DVC experiment, None outside one.
        tags: further tags of their runs and versions, such as the reason for a retraining.
    """

    source: str
    data_sha256: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Path] = field(default_factory=dict)
    folds: Mapping[str, Any] = field(default_factory=dict)
    plots: tuple[Path, ...] = ()
    requirements: Path | None = None
    experiment: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RegistrationResult:
    """Result of the registration of one target's model.

    Attributes:
        version: its registered version, None if it was not registered.
        new: whether this call registered it.
        reasons: reasons for the state, one sentence each.
    """

    target: str
    state: State
    reasons: tuple[str, ...]
    version: int | None = None
    new: bool = False


@dataclass(frozen=True)
class RegistrationReport:
    """Result of `register_all`.

    Attributes:
        outside: the event that records aliases moved by other means, None if there were none.
        event: the event of this call, None if nothing changed.
        release: version of the champion release now, None if there is none.
        command: the command that promotes the challengers that passed the gate, None if there are none.
    """

    models: tuple[RegistrationResult, ...]
    outside: RegistryEvent | None
    event: RegistryEvent | None
    release: int | None
    command: str | None = None


def register_all(
    store: RegistryStore,
    folder: Path,
    metrics: Mapping[str, Any],
    gate: GateThresholds,
    provenance: Provenance,
    *,
    by: str,
    policy: PromotionPolicy = BY_GATE,
    why: str | None = None,
    promotable: Collection[str] = TARGET_NAMES,
) -> RegistrationReport:
    """Register the models in `folder/<target>/`, point `@challenger` at them and promote those that `policy` lets pass.

    Idempotent: a model is identified by the hash of `model.onnx` and `fit.json`.  A model that was champion
    before and is not now was replaced or rolled back, and is promoted again only by `promote`.  In a DVC experiment
    (`provenance.experiment`) no alias but `@challenger` is moved, whatever the policy.

    Args:
        metrics: content of `reports/metrics.json`.
        by: author of the event.
        why: reason for this training in the event, if there is one.
        promotable: targets that may be promoted; the others stay challengers.
    """
    if provenance.experiment is not None:
        policy = BY_PERSON
    # An experiment leaves also what was moved outside to the next pipeline run, promotion or rollback.
    outside = None if provenance.experiment is not None else synchronise(store, gate)
    before, usable = store.aliases(), usable_champions(store)
    registered = [_register(store, folder / target, target, metrics, provenance) for target in TARGET_NAMES]
    store.set_unavailable({item.target: item.reasons[0] for item in registered if item.state == "not available"})
    versions = {item.target: item.version for item in registered if item.version is not None}
    retired = _retired(store, versions)
    verdicts = _verdicts(store, versions, usable.versions, gate)
    passing = {target: versions[target] for target, verdict in verdicts.items() if verdict.passed}
    kept = {target: note for target in passing if (note := _kept(target, usable, policy, retired, promotable))}

    for target, version in versions.items():
        if before.challengers.get(target) != version:
            store.set_challenger(target, version)
    prefix = "" if why is None else f"{why}: "
    promoted = {target: version for target, version in passing.items() if target not in kept}
    event, obstacle = _promote(store, promoted, by=by, prefix=prefix)
    if event is None and store.aliases() != before:
        event = _record_registration(store, versions, provenance.experiment, by=by, prefix=prefix)

    after = store.aliases()
    notes = {target: f"the champion counts as none: {reason}" for target, reason in usable.unusable.items()}
    notes |= kept
    if obstacle is not None:
        notes |= dict.fromkeys(promoted, obstacle)
    outcomes = tuple(_outcome(item, after.champions, verdicts.get(item.target), notes) for item in registered)
    waiting = {target: version for target, version in passing.items() if after.champions.get(target) != version}
    command = _promote_command(store, waiting, provenance.experiment) if waiting else None
    return RegistrationReport(outcomes, outside, event, after.release, command)


def _verdicts(
    store: RegistryStore, versions: Mapping[str, int], champions: Mapping[str, int], gate: GateThresholds
) -> dict[str, Verdict]:
    """The gate's verdicts on all versions that are not champion, which are stored as tags of the versions."""
    verdicts = {}
    for target, version in versions.items():
        if champions.get(target) != version:
            verdicts[target] = verdict_on(store, target, version, champions.get(target), gate)
            store.set_verdict(target, version, verdicts[target])
    return verdicts


def _kept(
    target: str,
    usable: Champions,
    policy: PromotionPolicy,
    retired: Mapping[str, str],
    promotable: Collection[str],
) -> str | None:
    """Why a model that passed the gate is not promoted here, None if it is."""
    if target not in promotable:
        return "this training was for other targets"
    if target in retired:
        return retired[target]
    decider = policy.later if target in usable.versions else policy.first
    return None if decider == "gate" else "it is promoted by a person"


def _record_registration(
    store: RegistryStore, versions: Mapping[str, int], experiment: str | None, *, by: str, prefix: str
) -> RegistryEvent:
    reason = f"{prefix}registered {_list(versions)}, none promoted"
    if experiment is None:
        return record_event(store, "register", by=by, reason=reason)
    events = store.events()
    recorded = events[-1].after if events else Aliases()
    # The champions that were recorded last: those moved outside since are still to be recorded.
    after = replace(recorded, challengers={**recorded.challengers, **versions})
    return record_event(store, "register", by=by, reason=f"experiment {experiment}: {reason}", after=after)


def _promote_command(store: RegistryStore, versions: Mapping[str, int], experiment: str | None) -> str:
    chosen = " ".join(f"{target}={version}" for target, version in versions.items())
    namespace = "" if store.domain == store.settings.domain else f" --domain {store.domain}"
    reason = "passed the gate" if experiment is None else f"experiment {experiment} passed the gate"
    return f'python -m training.registry promote {chosen}{namespace} --reason "{reason}"'


def _register(
    store: RegistryStore, folder: Path, target: str, metrics: Mapping[str, Any], provenance: Provenance
) -> RegistrationResult:
    fit_file = folder / "fit.json"
    if not fit_file.exists():
        return RegistrationResult(target, "not available", ("it was not trained",))
    fit = json.loads(fit_file.read_text(encoding="utf-8"))
    if not fit["available"]:
        return RegistrationResult(target, "not available", (fit["reason"],))
    content = content_sha256(folder)
    existing = store.find(target, content)
    if existing is not None:
        return RegistrationResult(target, "challenger", (), existing)
    difference = _onnx_difference(folder, fit["feature_names"])
    if difference > MAX_DIFFERENCE:
        reason = f"ONNX differs from scikit-learn by {difference:.2g}, more than {MAX_DIFFERENCE:g}"
        return RegistrationResult(target, "not registered", (reason,))

    evaluation = {kind: metrics.get(kind, {}).get(target, {}) for kind in ("targets", "gate")}
    data_sha256 = provenance.data_sha256.get(target)
    context = CardContext(provenance.source, data_sha256, git_commit(), content)
    card = model_card(target, fit, evaluation, context)
    final = FinalRun(
        domain=store.domain,
        target=target,
        folder=folder,
        fit=fit,
        evaluation=evaluation,
        card=card,
        source=provenance.source,
        content_sha256=content,
        folds=tuple(provenance.folds.get(target, ())),
        data_sha256=data_sha256,
        reference=_reference(folder, target, fit, provenance),
        plots=provenance.plots,
        requirements=provenance.requirements,
        tags={**provenance.tags, **({EXPERIMENT_TAG: provenance.experiment} if provenance.experiment else {})},
    )
    run_id = log_final_run(store.settings, store.client, final)
    origin = {CONTENT_TAG: content, "state_version": str(fit["state_version"]), "source": provenance.source}
    tags = {**final.tags, **origin}
    return RegistrationResult(target, "challenger", (), store.add_version(target, run_id, tags, card), new=True)


def _reference(folder: Path, target: str, fit: Mapping[str, Any], provenance: Provenance) -> pd.DataFrame | None:
    """Drift reference of the model; None if its training table is not available."""
    out_of_fold = folder / "oof.parquet"
    if target not in provenance.tables or not out_of_fold.exists():
        return None
    return reference_rows(
        pd.read_parquet(provenance.tables[target]), pd.read_parquet(out_of_fold), TARGETS[target], fit["seed"]
    )


def _onnx_difference(folder: Path, feature_names: list[str]) -> float:
    """`onnx_difference` of the two model files on the gate rows."""
    columns = [FEATURE_PREFIX + name for name in feature_names]
    features = pd.read_parquet(folder / "gate.parquet", columns=columns).to_numpy(dtype=float)
    return onnx_difference(load_skops(folder / "model.skops"), (folder / "model.onnx").read_bytes(), features)


def _retired(store: RegistryStore, versions: Mapping[str, int]) -> dict[str, str]:
    """Reasons of the targets whose version was champion and is no longer."""
    retired = {}
    events = store.events()
    present = store.aliases().champions
    for target, version in versions.items():
        if present.get(target) == version:
            continue
        as_champion = [i for i, event in enumerate(events) if event.after.champions.get(target) == version]
        if as_champion and as_champion[-1] + 1 < len(events):
            ended = events[as_champion[-1] + 1]
            retired[target] = f"it was champion until {ended.time} ({ended.kind} by {ended.by}: {ended.reason})"
    return retired


def _promote(
    store: RegistryStore, passing: Mapping[str, int], *, by: str, prefix: str
) -> tuple[RegistryEvent | None, str | None]:
    """The event of the promotion, or why the passing models were not promoted."""
    if not passing:
        return None, None
    reason = f"{prefix}passed the gate: {_list(passing)}"
    try:
        return publish_release(store, passing, kind="register", reason=reason, by=by), None
    except TwinError as error:
        return None, error.sentence


def _outcome(
    item: RegistrationResult, champions: Mapping[str, int], verdict: Verdict | None, notes: Mapping[str, str]
) -> RegistrationResult:
    if item.version is None:
        return item
    reasons = () if verdict is None else verdict.reasons
    if item.target in notes:
        reasons = (*reasons, notes[item.target])
    if champions.get(item.target) == item.version:
        return RegistrationResult(item.target, "champion", reasons or ("it is champion",), item.version, item.new)
    return RegistrationResult(item.target, "challenger", reasons, item.version, item.new)


def _list(versions: Mapping[str, int]) -> str:
    return ", ".join(f"{target} {version}" for target, version in versions.items()) or "nothing"
