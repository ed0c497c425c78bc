"""Access to the MLflow model registry: versions, releases, aliases and events of one model namespace."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from features.targets import TARGET_NAMES, TARGETS
from telemetry.errors import TwinError
from telemetry.settings import Settings
from telemetry.wire import rfc3339
from training.gate import Verdict
from training.mlflow_client import connect
from training.registry.events import Aliases, RegisteredVersion, RegistryEvent
from training.release import (
    CHALLENGER,
    CHAMPION,
    CONTENT_TAG,
    MODEL_FILES,
    RELEASE_FILE,
    Release,
    fetch_file,
    model_name,
    twin_name,
    validate_domain,
)
from training.tracking import EVALUATION_FOLDER, EXPERIMENT_TAG, MODEL_FOLDER, REFERENCE_FILE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

REPLACES_TAG = "replaces"
#: Tags of a model version: the gate's newest verdict and its reasons.
GATE_TAG = "gate"
GATE_REASONS_TAG = "gate_reasons"

_EVENT_PREFIX = "event."
_UNAVAILABLE_TAG = "not_available"
_RELEASE_FOLDER = "release"
_RUNS = "runs:/"
#: Page size of registry queries; MLflow's default is 100.
_PAGE_SIZE = 1000


@dataclass(frozen=True)
class RegistryStore:
    """The registered models of one model namespace (`domain`)."""

    client: MlflowClient
    settings: Settings
    domain: str

    @classmethod
    def open(cls, settings: Settings, domain: str, *, fail_fast: bool = False) -> RegistryStore:
        """Connect to the registry in `settings`, see `training.mlflow_client.connect`.

        Raises:
            TwinError: `domain` is not a valid model namespace.
        """
        return cls(connect(settings, fail_fast=fail_fast), settings, validate_domain(domain))

    def domains(self) -> list[str]:
        """Model namespaces that have a registered model or release, sorted."""
        suffixes = [twin_name(""), *(model_name("", target) for target in TARGET_NAMES)]
        names = [model.name for model in self.client.search_registered_models(max_results=_PAGE_SIZE)]
        return sorted({name.removesuffix(end) for name in names for end in suffixes if name.endswith(end)})

    # Versions

    def find(self, target: str, content_sha256: str) -> int | None:
        """The version of `target` with this content hash, None if there is none."""
        name = model_name(self.domain, target)
        if self._registered(name) is None:
            return None
        found = self.client.search_model_versions(f"name = '{name}' AND tags.{CONTENT_TAG} = '{content_sha256}'")
        return min((int(version.version) for version in found), default=None)

    def add_version(self, target: str, run_id: str, tags: Mapping[str, str], description: str) -> int:
        """Register the model of a final run as a new version; its number."""
        name = model_name(self.domain, target)
        return self._add(name, run_id, MODEL_FOLDER, tags, description)

    def versions(self, target: str) -> list[int]:
        """All versions of `target`, oldest first."""
        return self._versions(model_name(self.domain, target))

    def require_version(self, target: str, version: int) -> int:
        """`version`, if `target` has it.

        Raises:
            TwinError: it does not exist; the message lists the existing ones.
        """
        return _require(version, self.versions(target), model_name(self.domain, target))

    def registered(self, target: str) -> list[RegisteredVersion]:
        """All versions of `target` with the gate's verdicts, oldest first."""
        name = model_name(self.domain, target)
        found = [_described(target, version) for version in self.client.search_model_versions(f"name = '{name}'")]
        return sorted(found, key=attrgetter("version"))

    def set_verdict(self, target: str, version: int, verdict: Verdict) -> None:
        """Store the gate's newest verdict on a version as its tags."""
        name, present = model_name(self.domain, target), self.tags(target, version)
        for key, value in ((GATE_TAG, verdict.outcome), (GATE_REASONS_TAG, "; ".join(verdict.reasons))):
            if present.get(key) != value:
                self.client.set_model_version_tag(name, str(version), key, value)

    def exists(self, name: str, version: int) -> bool:
        """Whether the registered model or release `name` has this version."""
        return version in self._versions(name)

    def file_names(self, name: str, version: int) -> set[str]:
        """Names of the files of a model or release version; empty if its run was deleted or is none of this project.

        Raises:
            MlflowException: the version does not exist, or the registry is unavailable.
        """
        from mlflow.exceptions import MlflowException

        source = str(self.client.get_model_version(name, str(version)).source)
        run_id, _, folder = source.removeprefix(_RUNS).partition("/")
        if not source.startswith(_RUNS):
            return set()
        try:
            return {item.path.rpartition("/")[2] for item in self.client.list_artifacts(run_id, folder)}
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return set()
            raise

    def tags(self, target: str, version: int) -> dict[str, str]:
        """Tags of a version, with its provenance.

        Raises:
            MlflowException: the version does not exist, or the registry is unavailable.
        """
        return dict(self.client.get_model_version(model_name(self.domain, target), str(version)).tags)

    @contextmanager
    def files(self, target: str, version: int, *, evaluation: bool = True) -> Iterator[Path]:
        """A temporary folder with a version's `model.onnx`, `fit.json` and, if `evaluation`, gate rows and metrics.

        Raises:
            TwinError: the version does not exist, or lacks a file as it was not registered by this project.
        """
        name = model_name(self.domain, target)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            for file in MODEL_FILES:
                fetch_file(self.client, name, version, file, folder)
            if evaluation:
                self._fetch_evaluation(name, version, folder)
            yield folder

    def reference(self, target: str, version: int) -> pd.DataFrame | None:
        """Drift reference of a version (`training.registry.drift_reference`), None if it has none.

        Raises:
            MlflowException: the version does not exist, or the registry is unavailable.
        """
        with tempfile.TemporaryDirectory() as scratch:
            self._fetch_from_run(model_name(self.domain, target), version, (REFERENCE_FILE,), Path(scratch))
            file = Path(scratch) / REFERENCE_FILE
            return pd.read_parquet(file) if file.exists() else None

    def metrics(self, target: str, version: int) -> dict[str, Any]:
        """Entries of `reports/metrics.json` with which a version was registered; empty if it has none.

        Raises:
            MlflowException: the version does not exist, or the registry is unavailable.
        """
        with tempfile.TemporaryDirectory() as scratch:
            self._fetch_from_run(model_name(self.domain, target), version, ("metrics.json",), Path(scratch))
            file = Path(scratch) / "metrics.json"
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            return content

    def _fetch_evaluation(self, name: str, version: int, folder: Path) -> None:
        self._fetch_from_run(name, version, ("gate.parquet", "metrics.json"), folder)

    def _fetch_from_run(self, name: str, version: int, files: Sequence[str], folder: Path) -> None:
        run_id = self.client.get_model_version(name, str(version)).run_id
        present = {item.path for item in self.client.list_artifacts(run_id, EVALUATION_FOLDER)} if run_id else set()
        for file in files:
            path = f"{EVALUATION_FOLDER}/{file}"
            if path in present:
                Path(self.client.download_artifacts(run_id, path, str(folder))).replace(folder / file)

    # Releases

    def add_release(self, release: Release, replaces: int | None, description: str) -> int:
        """Register `release` as a new release version; no alias is moved."""
        models = [self.client.get_model_version(one.name, str(one.version)) for one in release.models.values()]
        # Its file is an artifact of the run of its newest model, so that a release needs no run of its own.
        run_id = max(models, key=lambda version: version.creation_timestamp).run_id
        folder = f"{_RELEASE_FOLDER}-{uuid.uuid4().hex[:8]}"
        self.client.log_text(run_id, release.to_json(), f"{folder}/{RELEASE_FILE}")
        tags = {REPLACES_TAG: str(replaces)} if replaces is not None else {}
        return self._add(twin_name(self.domain), run_id, folder, tags, description)

    def require_release(self, release: int) -> int:
        """`release`, if it exists.

        Raises:
            TwinError: it does not exist; the message lists the existing ones.
        """
        name = twin_name(self.domain)
        return _require(release, self._versions(name), name)

    def releases_text(self) -> str:
        """Numbers of the existing releases, for error messages."""
        return _listed(self._versions(twin_name(self.domain)))

    def previous_release(self, release: int) -> int | None:
        """The release that was champion when `release` was created."""
        tags = self.client.get_model_version(twin_name(self.domain), str(release)).tags
        return int(tags[REPLACES_TAG]) if REPLACES_TAG in tags else None

    # Aliases

    def aliases(self) -> Aliases:
        """The present aliases."""
        champions, challengers = {}, {}
        for target in TARGET_NAMES:
            registered = self._registered(model_name(self.domain, target))
            pointed = {} if registered is None else dict(registered.aliases)
            if CHAMPION in pointed:
                champions[target] = int(pointed[CHAMPION])
            if CHALLENGER in pointed:
                challengers[target] = int(pointed[CHALLENGER])
        twin = self._registered(twin_name(self.domain))
        release = None if twin is None else twin.aliases.get(CHAMPION)
        return Aliases(champions, challengers, None if release is None else int(release))

    def set_challenger(self, target: str, version: int) -> None:
        """Point `@challenger` of `target` at `version`."""
        self.client.set_registered_model_alias(model_name(self.domain, target), CHALLENGER, str(version))

    def set_champions(self, champions: Mapping[str, int], release: int) -> None:
        """Set the champion aliases of all models, then that of `release`, which the services poll."""
        present = self.aliases().champions
        for target, version in champions.items():
            if present.get(target) != version:
                self.client.set_registered_model_alias(model_name(self.domain, target), CHAMPION, str(version))
        for target in present.keys() - champions.keys():
            self.client.delete_registered_model_alias(model_name(self.domain, target), CHAMPION)
        self.client.set_registered_model_alias(twin_name(self.domain), CHAMPION, str(release))

    # Targets that the newest training could not provide: stored as a tag of the release's registered model

    def unavailable(self) -> dict[str, str]:
        """By target, why the newest training has no model of it."""
        twin = self._registered(twin_name(self.domain))
        reasons: dict[str, str] = json.loads("{}" if twin is None else twin.tags.get(_UNAVAILABLE_TAG, "{}"))
        return reasons

    def set_unavailable(self, reasons: Mapping[str, str]) -> None:
        """Store `reasons`, by target, in place of those of the training before."""
        if self.unavailable() != reasons:
            text = json.dumps(dict(reasons), sort_keys=True)
            self.client.set_registered_model_tag(self._ensure(twin_name(self.domain)), _UNAVAILABLE_TAG, text)

    # Events: stored as tags of the release's registered model, so that MLflow's web page shows them

    def events(self) -> list[RegistryEvent]:
        """All events, oldest first."""
        return [RegistryEvent.from_json(text) for _, text in self._event_tags()]

    def add_event(self, event: RegistryEvent) -> None:
        """Append `event`; its key has a random suffix, so that concurrent events do not overwrite each other."""
        name = self._ensure(twin_name(self.domain))
        sequence = len(self._event_tags()) + 1
        self.client.set_registered_model_tag(
            name, f"{_EVENT_PREFIX}{sequence:06d}.{uuid.uuid4().hex[:8]}", event.to_json()
        )

    def _event_tags(self) -> list[tuple[str, str]]:
        twin = self._registered(twin_name(self.domain))
        tags = {} if twin is None else twin.tags
        return sorted((key, value) for key, value in tags.items() if key.startswith(_EVENT_PREFIX))

    def _versions(self, name: str) -> list[int]:
        return sorted(int(version.version) for version in self.client.search_model_versions(f"name = '{name}'"))

    def _registered(self, name: str) -> RegisteredModel | None:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _ensure(self, name: str) -> str:
        if self._registered(name) is None:
            self.client.create_registered_model(name, description=_model_description(self.domain, name))
        return name

    def _add(self, name: str, run_id: str, folder: str, tags: Mapping[str, str], description: str) -> int:
        # runs:/ is the only kind of source accepted by SQLite, a server and a server with remote artifacts.
        version = self.client.create_model_version(
            self._ensure(name),
            f"runs:/{run_id}/{folder}",
            run_id=run_id,
            tags=dict(tags),
            description=description,
            await_creation_for=0,
        )
        return int(version.version)


def _model_description(domain: str, name: str) -> str:
    """Description of a registered model in MLflow's web page."""
    release = twin_name(domain)
    if name == release:
        return (
            f"Releases: each version pins one version of each model of {domain}. The services follow `@{CHAMPION}`. "
            "The history is in the tags `event.*`, and is printed by `python -m training.registry history`."
        )
    target = TARGETS[name.removeprefix(model_name(domain, ""))]
    return (
        f"{target.title}, in {target.unit}: a random forest on {len(target.feature_names)} features. `@{CHAMPION}` "
        f"serves as part of `{release}@{CHAMPION}`, `@{CHALLENGER}` is the newest candidate; the tag `gate` is the "
        f"verdict of the promotion gate. To promote: `python -m training.registry promote {target.name}=VERSION "
        '--reason "..."`.'
    )


def _described(target: str, version: ModelVersion) -> RegisteredVersion:
    tags = version.tags
    time = datetime.fromtimestamp(version.creation_timestamp // 1000, UTC)
    return RegisteredVersion(
        target=target,
        version=int(version.version),
        registered_at=rfc3339(time),
        gate=tags.get(GATE_TAG),
        reasons=tags.get(GATE_REASONS_TAG, ""),
        experiment=tags.get(EXPERIMENT_TAG),
        source=tags.get("source"),
    )


def _require(version: int, existing: list[int], name: str) -> int:
    if version not in existing:
        raise TwinError(
            f"there is no version {version} of {name}; existing: {_listed(existing)}", field="version", value=version
        )
    return version


def _listed(versions: Sequence[int]) -> str:
    return ", ".join(map(str, versions)) or "none"
