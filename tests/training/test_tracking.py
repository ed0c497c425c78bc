"""Runs in MLflow: tuning trials, final models and their artifacts."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest

from telemetry.settings import Settings
from tests.training.small_models import ModelFiles
from training.model_files import load_skops
from training.registry.registry_store import RegistryStore
from training.tracking import FinalRun, git_commit, log_final_run, tuning_run


def test_trials_are_child_runs_of_the_study(settings: Settings) -> None:
    with tuning_run(settings, "battery", "soh", "study-1", "scikit-learn 1") as run:
        for number in range(3):
            run.log_trial(number, {"n_estimators": 50, "max_depth": None}, 0.1 / (number + 1))
    experiment = run.client.get_experiment_by_name("battery")
    assert experiment is not None
    children = run.client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{run.run_id}'")
    assert len(children) == 3
    assert {child.info.status for child in children} == {"FINISHED"}
    assert children[0].data.params == {"n_estimators": "50", "max_depth": "None"}
    assert min(child.data.metrics["error"] for child in children) == pytest.approx(0.1 / 3)


def test_resumed_study_continues_its_run(settings: Settings) -> None:
    with pytest.raises(KeyboardInterrupt), tuning_run(settings, "battery", "soh", "study-1", "scikit-learn 1") as first:
        raise KeyboardInterrupt
    assert first.client.get_run(first.run_id).info.status == "KILLED"
    with tuning_run(settings, "battery", "soh", "study-1", "scikit-learn 1") as second:
        assert second.run_id == first.run_id
    assert first.client.get_run(first.run_id).info.status == "FINISHED"
    with tuning_run(settings, "battery", "soh", "study-2", "scikit-learn 1") as other:
        assert other.run_id != first.run_id


def test_failed_study_has_status_failed(settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError), tuning_run(settings, "battery", "soh", "study-1", "scikit-learn 1") as run:
        raise ZeroDivisionError
    assert run.client.get_run(run.run_id).info.status == "FAILED"


class TestFinalRun:
    @pytest.fixture
    def final(self, models: ModelFiles, tmp_path: Path) -> FinalRun:
        models.train("failure")
        folder = models.folder / "failure"
        plot, lock = tmp_path / "importance.png", tmp_path / "requirements.lock"
        plot.write_bytes(b"picture")
        lock.write_text("numpy==2.4.6\n")
        return FinalRun(
            domain="battery",
            target="failure",
            folder=folder,
            fit=json.loads((folder / "fit.json").read_text()),
            evaluation={kind: models.metrics[kind]["failure"] for kind in ("targets", "gate")},
            card="# Model card: failure\n",
            source="made_up",
            folds=({"fold": 0, "brier": 0.1, "batteries": ["B0"]}, {"fold": 1, "brier": 0.2, "batteries": ["B1"]}),
            data_sha256="ab" * 32,
            plots=(plot,),
            requirements=lock,
        )

    def test_final_run_logs_parameters_metrics_and_artifacts(
        self, settings: Settings, store: RegistryStore, final: FinalRun, tmp_path: Path
    ) -> None:
        client = store.client
        run_id = log_final_run(client, settings, final)
        run = client.get_run(run_id)
        assert run.info.status == "FINISHED"
        assert run.data.params["n_estimators"] == "10"
        assert run.data.tags["data_sha256"] == "ab" * 32
        assert run.data.tags["mlflow.note.content"].startswith("# Model card")
        assert run.data.metrics["brier"] < run.data.metrics["baseline.mean.brier"]
        assert {"gate.brier", "gate.skill", "life_quarter.brier"} <= run.data.metrics.keys()
        history = client.get_metric_history(run_id, "fold.brier")
        assert [(point.step, point.value) for point in history] == [(0, 0.1), (1, 0.2)]
        (dataset,) = run.inputs.dataset_inputs
        assert dataset.dataset.name == "made_up-failure"
        assert ("ab" * 32).startswith(dataset.dataset.digest)

        files = Path(client.download_artifacts(run_id, "", str(tmp_path)))
        assert (files / "model_card.md").read_text() == final.card
        assert (files / "environment" / "requirements.lock").exists()
        assert {path.name for path in (files / "evaluation").iterdir()} == {
            "gate.parquet",
            "metrics.json",
            "folds.json",
            "importance.png",
        }
        assert (files / "model" / "model.onnx").read_bytes() == (final.folder / "model.onnx").read_bytes()
        assert load_skops(files / "sklearn" / "model.skops").n_features_in_ == len(final.fit["feature_names"])

    def test_logged_model_runs_in_mlflow_pyfunc(
        self, settings: Settings, store: RegistryStore, final: FinalRun, tmp_path: Path
    ) -> None:
        client = store.client
        run_id = log_final_run(client, settings, final)
        model = mlflow.pyfunc.load_model(client.download_artifacts(run_id, "model", str(tmp_path)))
        assert model.metadata.signature.inputs.input_names() == ["features"]
        columns = [f"feature_{name}" for name in final.fit["feature_names"]]
        rows = pd.read_parquet(final.folder / "gate.parquet")
        predicted = model.predict({"features": rows[columns].to_numpy(dtype=np.float32)})
        np.testing.assert_allclose(predicted["value"][:, 0], rows["predicted"], atol=1e-6)
        example = model.input_example
        assert example["features"].shape == (3, len(columns))


def test_git_commit_is_none_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None
