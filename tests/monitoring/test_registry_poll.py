"""Registry poller and label definitions: short timeouts, and counters that never decrease."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from features.labels import LabelParams
from monitoring.evaluation.definitions import ModelDefinitions
from monitoring.registry_poll import RegistryPoller, RegistryUnavailableError
from telemetry.settings import Settings
from tests.training.small_models import GATE, release_small_models
from training.mlflow_client import connect
from training.registry.registry_store import RegistryStore


@pytest.fixture
def settings(tmp_path: Path, empty_registry: Path) -> Settings:
    """A registry with three versions of one model: with definitions, without, and with an unrelated `fit.json`."""
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


def test_definitions_of_the_model_else_of_the_project(settings: Settings) -> None:
    project = LabelParams(eol_fraction=0.5)
    definitions = ModelDefinitions(settings, project)
    assert definitions("battery-rul", "1") == LabelParams(eol_fraction=0.7)
    for version in ("2", "3", "4"):
        assert definitions("battery-rul", version) == project


def test_training_count_does_not_decrease_when_versions_are_deleted(settings: Settings) -> None:
    poller = RegistryPoller(settings)
    for deleted in (None, "1", "3"):
        if deleted is not None:
            connect(settings).delete_model_version("battery-rul", deleted)
        poller.poll()
        assert poller.state is not None
        assert poller.state.trainings == {"soh": 0, "temperature": 0, "rul": 3, "failure": 0}


def test_unavailable_registry_fails_fast(tmp_path: Path) -> None:
    """With MLflow's default retries each of these takes minutes."""
    unavailable = Settings(var=tmp_path, mlflow_tracking_uri="http://127.0.0.1:9")
    with pytest.raises(RegistryUnavailableError):
        RegistryPoller(unavailable).poll()
    assert ModelDefinitions(unavailable, LabelParams())("battery-rul", "2") is None


def test_aliases_that_were_moved_outside_are_recorded_once_two_polls_agree(
    tmp_path: Path, empty_registry: Path
) -> None:
    var = tmp_path / "var"
    var.mkdir()
    shutil.copy(empty_registry, var / "mlflow.db")
    settings = Settings(var=var)
    release_small_models(settings, tmp_path / "models")
    store = RegistryStore.open(settings, settings.domain)
    poller = RegistryPoller(settings, GATE)
    for _ in range(2):
        poller.poll()
    assert [event.kind for event in store.events()] == ["register"], "nothing was moved"
    store.client.delete_registered_model_alias("battery-rul", "champion")
    poller.poll()
    assert len(store.events()) == 1, "a promotion could be in progress"
    poller.poll()
    assert [event.kind for event in store.events()] == ["register", "outside"]
    assert "battery-rul@champion 1 -> none" in store.events()[-1].reason
    assert store.aliases().release == 2, "the release follows"
    assert poller.state is not None
    assert poller.state.release == 2
    poller.poll()
    poller.poll()
    assert len(store.events()) == 2

    reader = RegistryPoller(settings)
    store.client.delete_registered_model_alias("battery-soh", "champion")
    reader.poll()
    reader.poll()
    assert len(store.events()) == 2, "without thresholds nothing is recorded"
