"""Releases (sets of model versions served together): their file format, download from the registry and local cache.

Imports no training library, and MLflow only when a model is fetched, as every service imports this module.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.targets import TARGETS
from telemetry.errors import TwinError
from telemetry.settings import Settings
from training.mlflow_client import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"
RELEASE_FILE = "release.json"

#: Tag of a model version: `content_sha256` of its files.
CONTENT_TAG = "content_sha256"

MODEL_FILES = ("model.onnx", "fit.json")
_DOMAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,49}")


def validate_domain(name: str) -> str:
    """`name`, if it is a valid model namespace.

    Raises:
        TwinError: it is not.
    """
    if not _DOMAIN.fullmatch(name):
        raise TwinError(
            f"domain {name!r} is not a valid model namespace: give 1 to 50 characters of A-Z a-z 0-9 _ . -, "
            "a letter or digit first",
            field="domain",
            value=name,
        )
    return name


def model_name(domain: str, target: str) -> str:
    """Registered name of a target's model, e.g. `battery-soh`."""
    return f"{domain}-{target}"


def twin_name(domain: str) -> str:
    """Registered name of the releases of `domain`, e.g. `battery-twin`."""
    return f"{domain}-twin"


@dataclass(frozen=True)
class PinnedModel:
    """One version of a registered model with the hash of its content."""

    name: str
    version: int
    content_sha256: str


@dataclass(frozen=True)
class Release:
    """Content of `release.json`.

    Attributes:
        models: champions by target; a target without a champion is absent.
        state_version: `STATE_VERSION` of the features that all models were fitted on.
        horizons: by `Target.horizon_key`, e.g. `temperature_s`, of the models that the release has.
    """

    domain: str
    models: Mapping[str, PinnedModel]
    state_version: int
    horizons: Mapping[str, float]
    rul_unit: str = TARGETS["rul"].unit

    def to_json(self) -> str:
        """The file's text."""
        content = {
            "domain": self.domain,
            "models": {target: vars(pinned) for target, pinned in self.models.items()},
            "state_version": self.state_version,
            "horizons": dict(self.horizons),
            "rul_unit": self.rul_unit,
        }
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Release:
        """The release in the text of a `release.json`.

        Raises:
            TwinError: the text is not a valid release.
        """
        try:
            content = json.loads(text)
            models = {target: PinnedModel(**pinned) for target, pinned in content.pop("models").items()}
            return cls(models=models, **content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TwinError(
                f"{RELEASE_FILE} is not a release: {error}", field=RELEASE_FILE, value=text[:200]
            ) from error


@dataclass(frozen=True)
class LocalModel:
    """A released model in the local cache.

    Attributes:
        path: its `model.onnx`.
        fit: its `fit.json`: `feature_names`, `state_version`, `definitions`, ...
    """

    target: str
    name: str
    version: int
    path: Path
    fit: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Name in the service's responses, e.g. `battery-soh/9`."""
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class LoadedRelease:
    """A release with its models in the local cache."""

    name: str
    version: int
    release: Release
    models: Mapping[str, LocalModel]

    @property
    def label(self) -> str:
        """Name in the service's responses, e.g. `battery-twin/12`."""
        return f"{self.name}/{self.version}"


def model_cache(settings: Settings) -> Path:
    """Folder of the local model cache, with a subfolder for each content hash."""
    return settings.var / "models"


def content_sha256(folder: Path) -> str:
    """Hash that identifies a model: SHA-256 of `model.onnx` and `fit.json` in `folder`."""
    digest = hashlib.sha256()
    for name in MODEL_FILES:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def release_version(client: MlflowClient, domain: str, alias: str = CHAMPION) -> int | None:
    """Version of the release that `alias` points at, None if there is none; one short request, so it can be polled."""
    return version_at(client, twin_name(domain), alias)


def version_at(client: MlflowClient, name: str, alias: str) -> int | None:
    """Version of a registered model that `alias` points at, None if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return int(client.get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        # MLflow reports a missing alias by the second code.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def missing_release(domain: str, alias: str = CHAMPION) -> TwinError:
    """Error for a registry without the release that `alias` should point at: none was made yet, or it was deleted."""
    return TwinError(
        f"the registry has no release {twin_name(domain)}@{alias}; run `dvc repro` or, if there are champions, "
        "`python -m training.registry promote --reason ...`: both make a release, also where the last one was deleted",
        field="domain",
        value=domain,
    )


def load_release(
    domain: str, alias: str = CHAMPION, *, settings: Settings | None = None, client: MlflowClient | None = None
) -> LoadedRelease:
    """Fetch the release that `alias` points at; models in the cache are not fetched again.

    Raises:
        TwinError: there is no such release, or a model differs from its registered hash.
    """
    settings = settings or Settings()
    client = client or connect(settings)
    version = release_version(client, domain, alias)
    if version is None:
        raise missing_release(domain, alias)
    release = read_release(client, domain, version)
    models = {
        target: fetch_model(client, target, pinned, model_cache(settings)) for target, pinned in release.models.items()
    }
    return LoadedRelease(twin_name(domain), version, release, models)


def horizons_of(fits: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """`Release.horizons` from the `fit.json` of its models, by target."""
    return {
        key: TARGETS[name].horizon_in(fit["definitions"])
        for name, fit in fits.items()
        if (key := TARGETS[name].horizon_key) is not None
    }


def read_release(client: MlflowClient, domain: str, version: int) -> Release:
    """Read `release.json` of one release version."""
    with tempfile.TemporaryDirectory() as scratch:
        file = fetch_file(client, twin_name(domain), version, RELEASE_FILE, Path(scratch))
        return Release.from_json(file.read_text(encoding="utf-8"))


def fetch_file(client: MlflowClient, name: str, version: int, file: str, folder: Path) -> Path:
    """Download one file of a model version into `folder`.

    Raises:
        TwinError: the version or its file does not exist.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        address = client.get_model_version_download_uri(name, str(version))
        found = download_artifacts(f"{address}/{file}", dst_path=str(folder), tracking_uri=client.tracking_uri)
    except (MlflowException, OSError) as error:
        raise TwinError(f"{name} version {version} has no {file}: {error}", field=name, value=version) from error
    return Path(found)


def fetch_model(client: MlflowClient, target: str, pinned: PinnedModel, cache: Path) -> LocalModel:
    """Download a model into the folder `cache`, unless it is there.

    Raises:
        TwinError: it does not exist, or its hash differs from the pinned one.
    """
    # By content hash: a re-created registry may give the same name and version to another model.
    folder = cache / pinned.content_sha256
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            download = Path(scratch) / "model"
            download.mkdir()
            for file in MODEL_FILES:
                fetch_file(client, pinned.name, pinned.version, file, download)
            if content_sha256(download) != pinned.content_sha256:
                raise TwinError(
                    f"{pinned.name} version {pinned.version} is not the model that was released: its hash differs",
                    field=pinned.name,
                    value=pinned.version,
                )
            _move_into_place(download, folder)
    return cached_model(target, pinned, cache)


def cached_model(target: str, pinned: PinnedModel, cache: Path) -> LocalModel:
    """A model that `fetch_model` has downloaded into `cache`."""
    folder = cache / pinned.content_sha256
    fit = json.loads((folder / "fit.json").read_text(encoding="utf-8"))
    return LocalModel(target, pinned.name, pinned.version, folder / "model.onnx", fit)


def _move_into_place(download: Path, folder: Path) -> None:
    try:
        download.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another worker downloaded the same content first
            raise
