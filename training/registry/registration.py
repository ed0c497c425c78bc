"""What the last stage of the pipeline does: register the new models and let the gate decide."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from features.targets import TARGET_NAMES, TARGETS
from telemetry.errors import TwinError
from training.drift_reference import reference_rows
from training.gate import GateThresholds, Verdict
from training.model_card import CardContext, model_card
from training.model_files import load_skops
from training.onnx_export import MAX_DIFFERENCE, onnx_difference
from training.registry.events import RegistryEvent
from training.registry.gate_scores import FEATURE_PREFIX
from training.registry.promotion import publish_release, record_event, synchronise, verdict_on
from training.registry.registry_store import RegistryStore
from training.release import CONTENT_TAG, content_sha256
from training.tracking import FinalRun, git_commit, log_final_run

State = Literal["champion", "challenger", "not registered", "not available"]


@dataclass(frozen=True)
class Provenance:
    """Where the models come from, as their runs say it.

    Attributes:
        source: the data source's name.
        data_sha256: by target, the hash of the table that it was fitted on.
        tables: by target, that table, as far as it is here.
        folds: content of `reports/folds.json`.
        plots: pictures of the evaluation.
        requirements: the lock file of the environment.
        tags: what else their runs and versions say, such as why they were trained.
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
    """What became of one target's model.

    Attributes:
        version: its registered version, None where it was not registered.
        new: whether this call registered it.
        reasons: why it is what it is.
    """

    target: str
    state: State
    reasons: tuple[str, ...]
    version: int | None = None
    new: bool = False


@dataclass(frozen=True)
class RegistrationReport:
    """What a call of `register_all` came to.

    Attributes:
        outside: the event that records aliases moved by other means, where there were any.
        event: the event of this call, None where nothing changed.
        release: version of the release that serves now, None where there is none.
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

    Registering the same files again changes nothing: a model is known by the hash of `model.onnx` and
    `fit.json`.  A model that was champion before and is not now was taken back by somebody, and only
    `promote` brings it in again.

    Args:
        metrics: content of `reports/metrics.json`.
        by: who the event names.
        why: what the event says of the reason for this training, where there was one.
        promotable: targets that may be promoted; the others stay challengers, however good they are.
    """
    outside = synchronise(store, gate)
    before = store.aliases()
    registered = [_register(store, folder / target, target, metrics, provenance) for target in TARGET_NAMES]
    versions = {item.target: item.version for item in registered if item.version is not None}
    for target, version in versions.items():
        if before.challengers.get(target) != version:
            store.set_challenger(target, version)

    retired = _retired(store, versions)
    judged = {
        target: verdict_on(store, target, version, before.champions.get(target), gate)
        for target, version in versions.items()
        if before.champions.get(target) != version and target not in retired and target in promotable
    }
    passing = {target: versions[target] for target, verdict in judged.items() if verdict.passed}
    because = "" if why is None else f"{why}: "
    event, held_back = _promote(store, passing, by=by, because=because)
    if event is None and store.aliases() != before:
        event = record_event(store, "register", by=by, reason=f"{because}registered {_list(versions)}, none promoted")

    after = store.aliases()
    blocked = dict.fromkeys(passing, held_back)
    outcomes = tuple(
        _outcome(item, after.champions, judged.get(item.target), retired, blocked.get(item.target))
        if item.target in promotable
        else _left(item, after.champions)
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
    known = store.find(target, content)
    if known is not None:
        return RegistrationResult(target, "challenger", (), known)
    difference = _recheck(folder, fit["feature_names"])
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
    own = {CONTENT_TAG: content, "state_version": str(fit["state_version"]), "source": provenance.source}
    tags = {**provenance.tags, **own}
    return RegistrationResult(target, "challenger", (), store.add_version(target, run_id, tags, card), new=True)


def _reference(folder: Path, target: str, fit: Mapping[str, Any], provenance: Provenance) -> pd.DataFrame | None:
    """What the model was fitted on, in small; None where the table is not here."""
    judged = folder / "oof.parquet"
    if target not in provenance.tables or not judged.exists():
        return None
    return reference_rows(
        pd.read_parquet(provenance.tables[target]), pd.read_parquet(judged), TARGETS[target], fit["seed"]
    )


def _recheck(folder: Path, feature_names: list[str]) -> float:
    """`onnx_difference` of the two files, on the gate's rows."""
    columns = [FEATURE_PREFIX + name for name in feature_names]
    features = pd.read_parquet(folder / "gate.parquet", columns=columns).to_numpy(dtype=float)
    return onnx_difference(load_skops(folder / "model.skops"), (folder / "model.onnx").read_bytes(), features)


def _retired(store: RegistryStore, versions: Mapping[str, int]) -> dict[str, str]:
    """Targets whose version was champion and is not any more, and why."""
    retired = {}
    events = store.events()
    present = store.aliases().champions
    for target, version in versions.items():
        if present.get(target) == version:
            continue
        held = [position for position, event in enumerate(events) if event.after.champions.get(target) == version]
        if held and held[-1] + 1 < len(events):
            ended = events[held[-1] + 1]
            retired[target] = (
                f"it was champion until {ended.time} ({ended.kind} by {ended.by}: {ended.reason}); "
                "`python -m training.registry promote` brings it back"
            )
    return retired


def _promote(
    store: RegistryStore, passing: Mapping[str, int], *, by: str, because: str
) -> tuple[RegistryEvent | None, str | None]:
    """The event, or why there is none although models passed."""
    if not passing:
        return None, None
    reason = f"{because}passed the gate: {_list(passing)}"
    try:
        return publish_release(store, passing, kind="register", reason=reason, by=by), None
    except TwinError as error:
        return None, error.sentence


def _outcome(
    item: RegistrationResult,
    champions: Mapping[str, int],
    verdict: Verdict | None,
    retired: Mapping[str, str],
    held_back: str | None,
) -> RegistrationResult:
    if item.version is None:
        return item
    reasons: tuple[str, ...] = () if verdict is None else verdict.reasons
    if champions.get(item.target) == item.version:
        reasons = reasons or ("it is champion already",)
        return RegistrationResult(item.target, "champion", reasons, item.version, item.new)
    if item.target in retired:
        reasons = (retired[item.target],)
    if held_back is not None:
        reasons = (*reasons, held_back)
    return RegistrationResult(item.target, "challenger", reasons, item.version, item.new)


def _left(item: RegistrationResult, champions: Mapping[str, int]) -> RegistrationResult:
    """A model whose champion this training was not asked to replace."""
    if item.version is None or champions.get(item.target) == item.version:
        return _outcome(item, champions, None, {}, None)
    reasons = ("this training was for other targets; `python -m training.registry promote` promotes it",)
    return RegistrationResult(item.target, "challenger", reasons, item.version, item.new)


def _list(versions: Mapping[str, int]) -> str:
    return ", ".join(f"{target} {version}" for target, version in versions.items()) or "nothing"
