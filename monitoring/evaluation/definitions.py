"""Label definitions (end of life, failure, forecast horizon) that each registered model was trained with."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from pathlib import Path

from features.labels import LabelParams
from monitoring.registry_poll import RegistryUnavailableError, has_registry
from telemetry.errors import TwinError
from telemetry.settings import Settings
from training.mlflow_client import connect
from training.release import fetch_file

logger = logging.getLogger(__name__)

#: Backoff after a failed request to the registry.
_RETRY_S = 30.0
_FIT_FILE = "fit.json"


class ModelDefinitions:
    """`definitions` of each model's `fit.json`, fetched from the registry once.

    A model that is not in the registry, or has no definitions there, is evaluated with the definitions of this project.
    """

    def __init__(self, settings: Settings, project: LabelParams) -> None:
        self._settings = settings
        self._project = project
        self._definitions: dict[tuple[str, str], LabelParams] = {}
        self._retry_at: dict[tuple[str, str], float] = {}

    def __call__(self, name: str | None, version: str | None) -> LabelParams | None:
        """Definitions of version `version` of the registered model `name`; None while the registry is unavailable."""
        if not name or not version or not version.isdecimal() or not has_registry(self._settings):
            return self._project
        key = (name, version)
        if key not in self._definitions and time.monotonic() >= self._retry_at.get(key, 0.0):
            try:
                self._definitions[key] = self._fetch(name, int(version))
            except RegistryUnavailableError as error:
                self._retry_at[key] = time.monotonic() + _RETRY_S
                logger.warning("predictions of %s version %s wait for the registry: %s", name, version, error)
        return self._definitions.get(key)

    def _fetch(self, name: str, version: int) -> LabelParams:
        from mlflow.artifacts import list_artifacts
        from mlflow.exceptions import MlflowException

        try:
            client = connect(self._settings, fail_fast=True)
            address = client.get_model_version_download_uri(name, str(version))
            files = {Path(file.path).name for file in list_artifacts(address, tracking_uri=client.tracking_uri)}
            if _FIT_FILE not in files:
                return self._project_definitions(name, version)
            with tempfile.TemporaryDirectory() as scratch:
                fit = fetch_file(client, name, version, _FIT_FILE, Path(scratch)).read_text(encoding="utf-8")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return self._project_definitions(name, version)
            raise RegistryUnavailableError(str(error)) from error
        except (TwinError, OSError) as error:
            raise RegistryUnavailableError(str(error)) from error
        try:
            return LabelParams.model_validate(json.loads(fit)["definitions"])
        except (ValueError, KeyError, TypeError):  # another system's file of the same name
            return self._project_definitions(name, version)

    def _project_definitions(self, name: str, version: int) -> LabelParams:
        logger.warning(
            "the registry has no label definitions of %s version %s: using those of this project", name, version
        )
        return self._project
