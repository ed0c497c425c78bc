"""What is asked of the MLflow registry, in this project's words: one domain's models, aliases and events."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from features.targets import TARGET_NAMES
from telemetry.errors import TwinError
from telemetry.settings import Settings
from training.mlflow_client import connect, experiment_id
from training.registry.events import Aliases, RegistryEvent
from training.release import (
    CHALLENGER,
    CHAMPION,
    CONTENT_TAG,
    RELEASE_FILE,
    Release,
    fetch_file,
    model_name,
    twin_name,
    validate_domain,
)
from training.tracking import EVALUATION_FOLDER, MODEL_FOLDER, REFERENCE_FILE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

REPLACES_TAG = "replaces"

_EVENT_PREFIX = "event."
_RELEASE_FOLDER = "release"
#: What MLflow gives at once; its own default is 100.
_MANY = 1000


@dataclass(frozen=True)
class RegistryStore:
    """The registered models of one domain."""

    client: MlflowClient
    settings: Settings
    domain: str

    @classmethod
    def open(cls, settings: Settings, domain: str, *, fail_fast: bool = False) -> RegistryStore:
        """Connect to the registry in `settings`, as `training.mlflow_client.connect`.

        Raises:
            TwinError: `domain` cannot name registered models.
        """
        return cls(connect(settings, fail_fast=fail_fast), settings, validate_domain(domain))

    def domains(self) -> list[str]:
        """Every domain that has a registered model or release, by name."""
        suffixes = [twin_name(""), *(model_name("", target) for target in TARGET_NAMES)]
        names = [model.name for model in self.client.search_registered_models(max_results=_MANY)]
        return sorted({name.removesuffix(end) for name in names for end in suffixes if name.endswith(end)})

    # Versions

    def find(self, target: str, content_sha256: str) -> int | None:
        """The version of `target` with this content, None where there is none."""
        name = model_name(self.domain, target)
        if self._registered(name) is None:
            return None
        found = self.client.search_model_versions(f"name = '{name}' AND tags.{CONTENT_TAG} = '{content_sha256}'")
        return min((int(version.version) for version in found), default=None)

    def add_version(self, target: str, run_id: str, tags: Mapping[str, str], description: str) -> int:
        """Register the model of a final run as a new version."""
        name = model_name(self.domain, target)
        return self._add(name, run_id, MODEL_FOLDER, tags, description)

    def versions(self, target: str) -> list[int]:
        """Every version of `target`, oldest first."""
        return self._versions(model_name(self.domain, target))

    def require_version(self, target: str, version: int) -> int:
        """`version`, if `target` has it.

        Raises:
            TwinError: naming those that there are.
        """
        return _one_of(version, self.versions(target), model_name(self.domain, target))

    def tags(self, target: str, version: int) -> dict[str, str]:
        """What a version says of where it comes from.

        Raises:
            MlflowException: the version does not exist, or the registry did not answer.
        """
        return dict(self.client.get_model_version(model_name(self.domain, target), str(version)).tags)

    @contextmanager
    def files(self, target: str, version: int, *, evaluation: bool = True) -> Iterator[Path]:
        """A temporary folder with a version's `model.onnx` and `fit.json` and, asked for, its gate rows and metrics.

        Raises:
            TwinError: the version does not exist, or has no model or fit because others registered it.
        """
        name = model_name(self.domain, target)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            for file in ("model.onnx", "fit.json"):
                fetch_file(self.client, name, version, file, folder)
            if evaluation:
                self._fetch_evaluation(name, version, folder)
            yield folder

    def reference(self, target: str, version: int) -> pd.DataFrame | None:
        """What a version was fitted on, in small (`training.drift_reference`); None where it came without.

        Raises:
            MlflowException: the version does not exist, or the registry did not answer.
        """
        with tempfile.TemporaryDirectory() as scratch:
            self._fetch_from_run(model_name(self.domain, target), version, (REFERENCE_FILE,), Path(scratch))
            file = Path(scratch) / REFERENCE_FILE
            return pd.read_parquet(file) if file.exists() else None

    def metrics(self, target: str, version: int) -> dict[str, Any]:
        """A version's entry in `reports/metrics.json` when it was registered; empty where it came without.

        Raises:
            MlflowException: the version does not exist, or the registry did not answer.
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
        """Register `release` as a new version of the domain's twin; no alias is moved."""
        experiment = experiment_id(self.client, self.settings, self.domain)
        run = self.client.create_run(experiment, run_name="release", tags={"kind": "release"})
        self.client.log_text(run.info.run_id, release.to_json(), f"{_RELEASE_FOLDER}/{RELEASE_FILE}")
        self.client.set_terminated(run.info.run_id)
        tags = {REPLACES_TAG: str(replaces)} if replaces is not None else {}
        return self._add(twin_name(self.domain), run.info.run_id, _RELEASE_FOLDER, tags, description)

    def require_release(self, release: int) -> int:
        """`release`, if the domain has it.

        Raises:
            TwinError: naming those that there are.
        """
        name = twin_name(self.domain)
        return _one_of(release, self._versions(name), name)

    def previous_release(self, release: int) -> int | None:
        """The release that `release` took the place of when it was made."""
        tags = self.client.get_model_version(twin_name(self.domain), str(release)).tags
        return int(tags[REPLACES_TAG]) if REPLACES_TAG in tags else None

    # Aliases

    def aliases(self) -> Aliases:
        """Where the aliases point now."""
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
        """Point every champion alias at what `release` holds; the release's own moves last, and with it serving."""
        present = self.aliases().champions
        for target, version in champions.items():
            if present.get(target) != version:
                self.client.set_registered_model_alias(model_name(self.domain, target), CHAMPION, str(version))
        for target in present.keys() - champions.keys():
            self.client.delete_registered_model_alias(model_name(self.domain, target), CHAMPION)
        self.client.set_registered_model_alias(twin_name(self.domain), CHAMPION, str(release))

    # Events: tags of the twin, so that they live in the registry itself and can be read in its web page

    def events(self) -> list[RegistryEvent]:
        """Everything that happened, oldest first."""
        return [RegistryEvent.from_json(text) for _, text in self._event_tags()]

    def add_event(self, event: RegistryEvent) -> None:
        """Append `event`.  Its key ends at random: of two at the same moment neither overwrites the other."""
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
            self.client.create_registered_model(name)
        return name

    def _add(self, name: str, run_id: str, folder: str, tags: Mapping[str, str], description: str) -> int:
        # runs:/ is the one kind of source that SQLite, a server and a server with remote artifacts all accept.
        version = self.client.create_model_version(
            self._ensure(name),
            f"runs:/{run_id}/{folder}",
            run_id=run_id,
            tags=dict(tags),
            description=description,
            await_creation_for=0,
        )
        return int(version.version)


def _one_of(version: int, known: list[int], name: str) -> int:
    if version not in known:
        listed = ", ".join(map(str, known)) or "none"
        raise TwinError(f"there is no version {version} of {name}; known: {listed}", field="version", value=version)
    return version
