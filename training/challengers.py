"""Load the challenger models of all targets, which predict in shadow beside the champion release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from features.targets import TARGET_NAMES
from telemetry.errors import TwinError
from telemetry.settings import Settings
from training.release import (
    CHALLENGER,
    CONTENT_TAG,
    LoadedRelease,
    PinnedModel,
    Release,
    fetch_model,
    horizons_of,
    model_cache,
    model_name,
    version_at,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient


def challenger_versions(client: MlflowClient, domain: str) -> dict[str, int]:
    """By target, the version that `@challenger` points at; one short request per target, so it can be polled."""
    found = {target: version_at(client, model_name(domain, target), CHALLENGER) for target in TARGET_NAMES}
    return {target: version for target, version in found.items() if version is not None}


def load_challengers(client: MlflowClient, settings: Settings, versions: Mapping[str, int]) -> LoadedRelease:
    """Fetch the challengers in `versions` (by target) as an unregistered release of version 0.

    Raises:
        TwinError: a model was not registered by this project, differs from its registered hash, or has another state
            version than the others.
        MlflowException: a version does not exist.
    """
    domain = settings.domain
    pinned = {target: _pin(client, model_name(domain, target), version) for target, version in versions.items()}
    models = {target: fetch_model(client, target, model, model_cache(settings)) for target, model in pinned.items()}
    fits = {target: model.fit for target, model in models.items()}
    state_versions = {int(fit["state_version"]) for fit in fits.values()}
    if len(state_versions) != 1:
        raise TwinError(
            f"the challengers of {domain} have state versions {sorted(state_versions)}: register them with one",
            field="state_version",
        )
    return LoadedRelease(
        f"{domain}-{CHALLENGER}", 0, Release(domain, pinned, state_versions.pop(), horizons_of(fits)), models
    )


def _pin(client: MlflowClient, name: str, version: int) -> PinnedModel:
    content = client.get_model_version(name, str(version)).tags.get(CONTENT_TAG)
    if content is None:
        raise TwinError(
            f"{name} version {version} has no tag {CONTENT_TAG}: only models registered by `dvc repro` can be served",
            field=name,
            value=version,
        )
    return PinnedModel(name, version, content)
