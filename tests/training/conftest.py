"""Fixtures: an MLflow registry on SQLite and model files for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from features.targets import TARGET_NAMES
from telemetry.settings import Settings
from tests.training.small_models import ModelFiles
from training.registry.registration import Provenance
from training.registry.registry_store import RegistryStore


@pytest.fixture
def settings(tmp_path: Path, empty_registry: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a temporary folder and an empty registry."""
    monkeypatch.delenv("TWIN_MLFLOW_TRACKING_URI", raising=False)
    var = tmp_path / "var"
    var.mkdir()
    shutil.copy(empty_registry, var / "mlflow.db")
    return Settings(var=var)


@pytest.fixture
def store(settings: Settings) -> RegistryStore:
    """An empty registry of the model namespace `battery`."""
    return RegistryStore.open(settings, "battery")


@pytest.fixture
def models(tmp_path: Path) -> ModelFiles:
    """An empty `models/` folder."""
    return ModelFiles(tmp_path / "models")


@pytest.fixture
def trained(models: ModelFiles) -> ModelFiles:
    """Accurate models of all four targets."""
    for target in TARGET_NAMES:
        models.train(target)
    return models


@pytest.fixture
def provenance() -> Provenance:
    """Provenance of a synthetic source."""
    return Provenance(source="made_up", data_sha256=dict.fromkeys(TARGET_NAMES, "ab" * 32))
