"""Runs in MLflow: tuning trials, forests beside their baselines, registration and artifacts."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest

from telemetry.settings import Settings
from tests.training.small_models import ModelFiles
from training import tracking
from training.model_files import load_skops
from training.registry.registry_store import RegistryStore
from training.release import content_sha256
from training.tracking import FinalRun, Trial, current_user, git_commit, log_final_run, log_reused_tuning, tuning_run

TRIALS = [Trial(number, {"n_estimators": 50, "max_depth": None}, 0.1 / (number + 1)) for number in range(3)]


def children(store: RegistryStore, run_id: str) -> dict[str, mlflow.entities.Run]:
    """Child runs by name."""
    experiment = store.client.get_run(run_id).info.experiment_id
    found = store.client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run_id}'")
    return {run.info.run_name: run for run in found}


def test_trials_are_child_runs_of_the_study(settings: Settings, store: RegistryStore) -> None:
    with tuning_run(settings, "battery", "soh", "study-1", {"forest_library": "scikit-learn 1"}) as run:
        assert store.client.get_run(run.run_id).info.status == "RUNNING"
        run.log_trial(TRIALS[0], began_ms=1_000)
        run.log_missing(TRIALS)  # those that an interrupted run with another tracking store has finished
    found = children(store, run.run_id)
    assert sorted(found) == ["soh trial 0", "soh trial 1", "soh trial 2"]
    assert {child.info.status for child in found.values()} == {"FINISHED"}
    assert found["soh trial 0"].info.start_time == 1_000
    assert found["soh trial 0"].data.params == {"n_estimators": "50", "max_depth": "None"}
    assert min(child.data.metrics["error"] for child in found.values()) == pytest.approx(0.1 / 3)
    tags = store.client.get_run(run.run_id).data.tags
    assert tags["mlflow.user"] == current_user()
    assert tags["mlflow.source.name"] == "python -m pipelines.tune soh"


def test_trials_of_a_reused_result_are_logged_once(settings: Settings, store: RegistryStore) -> None:
    for _ in range(2):
        log_reused_tuning(store.client, settings, "battery", "soh", "study-1", TRIALS)
    experiment = store.client.get_experiment_by_name("battery")
    (parent,) = store.client.search_runs([experiment.experiment_id], "tags.kind = 'tuning'")
    assert parent.data.tags["reused"] == "reports/tuning/soh.json"
    assert len(children(store, parent.info.run_id)) == 3
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "sort by `mae`" in experiment.tags["mlflow.note.content"]


def test_resumed_study_continues_its_run(settings: Settings) -> None:
    with pytest.raises(KeyboardInterrupt), tuning_run(settings, "battery", "soh", "study-1") as first:
        raise KeyboardInterrupt
    assert first.client.get_run(first.run_id).info.status == "KILLED"
    with tuning_run(settings, "battery", "soh", "study-1") as second:
        assert second.run_id == first.run_id
    assert first.client.get_run(first.run_id).info.status == "FINISHED"
    with tuning_run(settings, "battery", "soh", "study-2") as other:
        assert other.run_id != first.run_id


def test_failed_study_has_status_failed(settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError), tuning_run(settings, "battery", "soh", "study-1") as run:
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
            content_sha256=content_sha256(folder),
            folds=({"fold": 0, "brier": 0.1, "batteries": ["B0"]}, {"fold": 1, "brier": 0.2, "batteries": ["B1"]}),
            data_sha256="ab" * 32,
            plots=(plot,),
            requirements=lock,
        )

    def test_registration_completes_the_run_of_the_training(
        self, settings: Settings, store: RegistryStore, final: FinalRun
    ) -> None:
        params = {"n_estimators": 10}
        with tracking.forest_run(settings, "battery", "failure", ("mean",), params) as training:
            for fold in range(2):
                training.log({"forest": {"brier": 0.1 + fold}, "mean": {"brier": 0.3}}, "fold.", fold)
            training.log({"forest": {"brier": 0.15}, "mean": {"brier": 0.3}})
            training.set_content(final.content_sha256)
        ended = store.client.get_run(training.run_id).info.end_time
        assert log_final_run(settings, store.client, final) == training.run_id
        run = store.client.get_run(training.run_id)
        assert run.info.end_time == ended, "the duration is that of the training"
        assert (run.data.tags["mlflow.source.name"], run.data.tags["mlflow.user"]) == (
            "python -m pipelines.train failure",
            current_user(),
        )
        assert run.data.metrics["brier"] == 0.15, "what the training logged is not logged again"
        assert len(store.client.get_metric_history(training.run_id, "brier")) == 1
        history = store.client.get_metric_history(training.run_id, "fold.brier")
        assert [(point.step, point.value) for point in history] == [(0, 0.1), (1, 1.1)]
        assert {"skill", "gate.brier", "gate.skill", "life_quarter.brier"} <= run.data.metrics.keys()
        baseline = children(store, training.run_id)["failure mean"]
        assert {"brier", "skill", "fold.brier", "gate.brier", "gate.skill"} <= baseline.data.metrics.keys()
        assert baseline.data.metrics["skill"] == 0.0, "it is the best baseline"

    def test_without_the_run_of_the_training_registration_logs_one(
        self, settings: Settings, store: RegistryStore, final: FinalRun, tmp_path: Path
    ) -> None:
        client = store.client
        run_id = log_final_run(settings, client, final)
        run = client.get_run(run_id)
        assert run.info.status == "FINISHED"
        assert run.data.params["n_estimators"] == "10"
        assert run.data.tags["data_sha256"] == "ab" * 32
        assert "# Model card" in run.data.tags["mlflow.note.content"]
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

    def test_sorted_by_error_the_forest_stands_before_its_baselines(
        self, settings: Settings, store: RegistryStore, final: FinalRun
    ) -> None:
        experiment = store.client.get_run(log_final_run(settings, store.client, final)).info.experiment_id
        for metric, order in (("brier", "ASC"), ("gate.brier", "ASC"), ("skill", "DESC")):
            sorted_runs = store.client.search_runs(
                [experiment], "tags.compare = 'failure'", order_by=[f"metrics.`{metric}` {order}"]
            )
            assert [run.info.run_name for run in sorted_runs] == ["failure forest", "failure mean"], metric

    def test_logged_model_runs_in_mlflow_pyfunc(
        self, settings: Settings, store: RegistryStore, final: FinalRun, tmp_path: Path
    ) -> None:
        client = store.client
        run_id = log_final_run(settings, client, final)
        model = mlflow.pyfunc.load_model(client.download_artifacts(run_id, "model", str(tmp_path)))
        names = final.fit["feature_names"]
        assert model.metadata.signature.inputs.input_names() == names
        rows = pd.read_parquet(final.folder / "gate.parquet")
        features = rows[[f"feature_{name}" for name in names]].set_axis(pd.Index(names, dtype=object), axis=1)
        predicted = model.predict(features.astype(np.float32))
        np.testing.assert_allclose(predicted["value"].to_numpy(dtype=float).ravel(), rows["predicted"], atol=1e-6)
        assert model.input_example.shape == (3, len(names))
        assert list(model.input_example.columns) == names


def test_git_commit_is_none_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None
