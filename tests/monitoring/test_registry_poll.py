"""What is asked of the registry by those who watch: soon answered, and no number that goes back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from features.table import LabelParams
from monitoring.evaluation.definitions import ModelDefinitions
from monitoring.registry_poll import RegistryPoller, RegistryUnavailableError
from telemetry.settings import Settings
from training.mlflow_client import connect


@pytest.fixture
def settings(tmp_path: Path, empty_registry: Path) -> Settings:
    """A registry with three versions of one model: with definitions, without them, with another file of that name."""
    settings = Settings(var=tmp_path)
    shutil.copy(empty_registry, tmp_path / "mlflow.db")
    client = connect(settings)
    client.create_registered_model("battery-rul")
    files = {1: {"fit.json": '{"definitions": {"eol_fraction": 0.7}}'}, 2: {"MLmodel": ""}, 3: {"fit.json": "{}"}}
    for version, contents in files.items():
        folder = tmp_path / str(version)
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_text(content)
        client.create_model_version("battery-rul", folder.as_uri())
    return settings


def test_definitions_are_those_of_the_model_and_else_the_projects(settings: Settings) -> None:
    project = LabelParams(eol_fraction=0.5)
    definitions = ModelDefinitions(settings, project)
    assert definitions("battery-rul", "1") == LabelParams(eol_fraction=0.7)
    for version in ("2", "3", "4"):
        assert definitions("battery-rul", version) == project


def test_trainings_are_counted_whatever_was_deleted(settings: Settings) -> None:
    watch = RegistryPoller(settings)
    for deleted in (None, "1", "3"):
        if deleted is not None:
            connect(settings).delete_model_version("battery-rul", deleted)
        watch.ask()
        assert watch.state is not None
        assert watch.state.trainings == {"soh": 0, "temperature": 0, "rul": 3, "failure": 0}


def test_who_watches_says_soon_that_the_registry_is_away(tmp_path: Path) -> None:
    """With MLflow's own patience each of these takes minutes: the file would never end."""
    away = Settings(var=tmp_path, mlflow_tracking_uri="http://127.0.0.1:9")
    with pytest.raises(RegistryUnavailableError):
        RegistryPoller(away).ask()
    assert ModelDefinitions(away, LabelParams())("battery-rul", "2") is None
