"""Registers trained models in MLflow and promotes those that pass the gate: the last stage of the pipeline."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from features.targets import TARGET_NAMES, TARGETS
from telemetry.errors import TwinError
from training.gate import GateThresholds, Verdict
from training.model_card import CardContext, model_card
from training.model_files import load_skops
from training.onnx_export import MAX_DIFFERENCE, onnx_difference
from training.registry.drift_reference import reference_rows
from training.registry.events import RegistryEvent
from training.registry.gate_scores import FEATURE_PREFIX
from training.registry.promotion import publish_release, record_event, synchronise, verdict_on
from training.registry.registry_store import RegistryStore
from training.release import CONTENT_TAG, content_sha256
from training.tracking import FinalRun, git_commit, log_final_run

State = Literal["champion", "challenger", "not registered", "not available"]


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
        tags: further tags of their runs and versions, such as the reason for a retraining.
    """

    source: str
    data_sha256: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Path] = field(default_factory=dict)
    folds: Mapping[str, Any] = field(default_factory=dict)
    plots: tuple[Path, ...] = ()
    requirements: Path | None = None
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
    """

    models: tuple[RegistrationResult, ...]
    outside: RegistryEvent | None
    event: RegistryEvent | None
    release: int | None


def register_all(
    store: RegistryStore,
    folder: Path,
    metrics: Mapping[str, Any],
    gate: GateThresholds,
    provenance: Provenance,
    *,
    by: str,
    why: str | None = None,
    promotable: Collection[str] = TARGET_NAMES,
) -> RegistrationReport:
    """Register the models in `folder/<target>/`, point `@challenger` at them and promote those that pass.

    Idempotent: a model is identified by the hash of `model.onnx` and `fit.json`.  A model that was champion
    before and is not now was replaced or rolled back, and is promoted again only by `promote`.

    Args:
        metrics: content of `reports/metrics.json`.
        by: author of the event.
        why: reason for this training in the event, if there is one.
        promotable: targets that may be promoted; the others stay challengers.
    """
    outside = synchronise(store, gate)
    before = store.aliases()
    registered = [_register(store, folder / target, target, metrics, provenance) for target in TARGET_NAMES]
    versions = {item.target: item.version for item in registered if item.version is not None}
    for target, version in versions.items():
        if before.challengers.get(target) != version:
            store.set_challenger(target, version)

    retired = _retired(store, versions)
    verdicts = {
        target: verdict_on(store, target, version, before.champions.get(target), gate)
        for target, version in versions.items()
        if before.champions.get(target) != version and target not in retired and target in promotable
    }
    passing = {target: versions[target] for target, verdict in verdicts.items() if verdict.passed}
    prefix = "" if why is None else f"{why}: "
    event, obstacle = _promote(store, passing, by=by, prefix=prefix)
    if event is None and store.aliases() != before:
        event = record_event(store, "register", by=by, reason=f"{prefix}registered {_list(versions)}, none promoted")

    after = store.aliases()
    obstacles = dict.fromkeys(passing, obstacle)
    outcomes = tuple(
        _outcome(item, after.champions, verdicts.get(item.target), retired, obstacles.get(item.target))
        if item.target in promotable
        else _not_promotable(item, after.champions)
        for item in registered
    )
    return RegistrationReport(outcomes, outside, event, after.release)


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
        folds=tuple(provenance.folds.get(target, ())),
        data_sha256=data_sha256,
        reference=_reference(folder, target, fit, provenance),
        plots=provenance.plots,
        requirements=provenance.requirements,
        tags={**provenance.tags, CONTENT_TAG: content},
    )
    run_id = log_final_run(store.client, store.settings, final)
    origin = {CONTENT_TAG: content, "state_version": str(fit["state_version"]), "source": provenance.source}
    tags = {**provenance.tags, **origin}
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
            retired[target] = (
                f"it was champion until {ended.time} ({ended.kind} by {ended.by}: {ended.reason}); "
                "`python -m training.registry promote` promotes it again"
            )
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
    item: RegistrationResult,
    champions: Mapping[str, int],
    verdict: Verdict | None,
    retired: Mapping[str, str],
    obstacle: str | None,
) -> RegistrationResult:
    if item.version is None:
        return item
    reasons: tuple[str, ...] = () if verdict is None else verdict.reasons
    if champions.get(item.target) == item.version:
        reasons = reasons or ("it is already champion",)
        return RegistrationResult(item.target, "champion", reasons, item.version, item.new)
    if item.target in retired:
        reasons = (retired[item.target],)
    if obstacle is not None:
        reasons = (*reasons, obstacle)
    return RegistrationResult(item.target, "challenger", reasons, item.version, item.new)


def _not_promotable(item: RegistrationResult, champions: Mapping[str, int]) -> RegistrationResult:
    """Result of a target that this training may not promote."""
    if item.version is None or champions.get(item.target) == item.version:
        return _outcome(item, champions, None, {}, None)
    reasons = ("this training was for other targets; `python -m training.registry promote` promotes it",)
    return RegistrationResult(item.target, "challenger", reasons, item.version, item.new)


def _list(versions: Mapping[str, int]) -> str:
    return ", ".join(f"{target} {version}" for target, version in versions.items()) or "nothing"
