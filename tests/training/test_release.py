"""Loading a release for serving: contents, cache, hash check, and no training library imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.state import STATE_VERSION
from features.targets import TARGET_NAMES
from telemetry.errors import TwinError
from telemetry.settings import Settings
from tests.training.small_models import GATE, ModelFiles
from training.onnx_runtime import OnnxForest
from training.registry.registration import Provenance, register_all
from training.registry.registry_store import RegistryStore
from training.release import LoadedRelease, PinnedModel, Release, load_release, release_version

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def loaded(store: RegistryStore, trained: ModelFiles, provenance: Provenance, settings: Settings) -> LoadedRelease:
    register_all(store, trained.folder, trained.metrics, GATE, provenance, by="a test")
    return load_release("battery", settings=settings)


def test_loaded_release_has_models_horizons_and_versions(loaded: LoadedRelease, trained: ModelFiles) -> None:
    assert loaded.label == "battery-twin/1"
    assert loaded.release.horizons == {"temperature_s": 300.0, "failure_cycles": 100.0}
    assert loaded.release.rul_unit == "equivalent full cycles"
    assert loaded.release.state_version == STATE_VERSION
    for target in TARGET_NAMES:
        model = loaded.models[target]
        assert model.label == f"battery-{target}/1"
        rows = pd.read_parquet(trained.folder / target / "gate.parquet")
        features = rows[[f"feature_{name}" for name in model.fit["feature_names"]]].to_numpy(dtype=np.float32)
        served = OnnxForest(model.path).predict(features)
        fitted = OnnxForest(trained.folder / target / "model.onnx").predict(features)
        np.testing.assert_array_equal(served, fitted)


def test_second_load_uses_the_cache(loaded: LoadedRelease, settings: Settings) -> None:
    before = {path: path.stat().st_mtime_ns for path in (settings.var / "models").rglob("*")}
    again = load_release("battery", settings=settings)
    assert again == loaded
    assert {path: path.stat().st_mtime_ns for path in (settings.var / "models").rglob("*")} == before


def test_release_version(loaded: LoadedRelease, store: RegistryStore) -> None:
    assert release_version(store.client, "battery") == 1
    assert release_version(store.client, "matr") is None


def test_model_with_another_hash_is_rejected(
    store: RegistryStore, models: ModelFiles, provenance: Provenance, settings: Settings
) -> None:
    models.train("soh")
    register_all(store, models.folder, models.metrics, GATE, provenance, by="a test")
    (stored,) = settings.artifact_root.rglob("model.onnx")
    stored.write_bytes(stored.read_bytes() + b"\0")
    with pytest.raises(TwinError, match="its hash differs"):
        load_release("battery", settings=settings)
    assert not list((settings.var / "models").iterdir())


def test_missing_release_error_names_the_remedy(settings: Settings) -> None:
    with pytest.raises(TwinError, match="battery-twin@champion; run `dvc repro`"):
        load_release("battery", settings=settings)


def test_release_json_round_trip() -> None:
    release = Release("b", {"soh": PinnedModel("b-soh", 3, "ab")}, 2, {"temperature_s": 300.0})
    assert Release.from_json(release.to_json()) == release


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"models": {"soh": {"name": "x"}}}', '{"models": {}, "extra": 1}'])
def test_invalid_release_json_is_rejected(text: str) -> None:
    with pytest.raises(TwinError, match="is not a release"):
        Release.from_json(text)


def test_serving_modules_import_no_training_library() -> None:
    code = (
        "import sys, training.release, training.onnx_runtime, training.registry.promotion; "
        "heavy = {'sklearn', 'skl2onnx', 'onnx', 'optuna', 'matplotlib', 'skops', 'mlflow'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
