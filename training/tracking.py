"""Logs tuning trials and final models to MLflow as runs with parameters, metrics and artifacts.

Uses `MlflowClient`, which has no global state, and logs in batches, because on SQLite every call costs a
transaction.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from telemetry.settings import Settings
from training.mlflow_client import connect, experiment_id, record_run_status

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Folders of a final run's artifacts; the registered model is `MODEL_FOLDER`.
MODEL_FOLDER = "model"
EVALUATION_FOLDER = "evaluation"
SKLEARN_FOLDER = "sklearn"
#: Drift reference in `EVALUATION_FOLDER`, see `training.registry.drift_reference`.
REFERENCE_FILE = "reference.parquet"

_TAGS_PER_BATCH = 100
_NOTE_LENGTH = 8000
_DIGEST_LENGTH = 36
_EXAMPLE_ROWS = 3


def git_commit() -> str | None:
    """The checked out commit, with `-dirty` if files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


@dataclass(frozen=True)
class TuningRun:
    """The parent run of the trials of a study."""

    client: MlflowClient
    experiment_id: str
    run_id: str
    target: str

    def log_trial(self, number: int, params: Mapping[str, object], error: float) -> None:
        """Log a finished trial as a child run."""
        tags = {"mlflow.parentRunId": self.run_id, "target": self.target, "kind": "trial"}
        run = self.client.create_run(self.experiment_id, run_name=f"{self.target} trial {number}", tags=tags)
        log_values(self.client, run.info.run_id, params=params, metrics={"error": error})
        self.client.set_terminated(run.info.run_id)


@contextmanager
def tuning_run(settings: Settings, domain: str, target: str, study: str, library: str) -> Iterator[TuningRun]:
    """The parent run of `study`, a new one or, if the study is resumed, the existing one.

    Args:
        library: forest library with its version, a tag of the run.
    """
    client = connect(settings)
    experiment = experiment_id(client, settings, domain)
    earlier = client.search_runs([experiment], f"tags.study = '{study}'", max_results=1)
    if earlier:
        run_id = earlier[0].info.run_id
        client.update_run(run_id, status="RUNNING")
    else:
        tags = {"study": study, "target": target, "kind": "tuning", "forest_library": library, **_commit_tag()}
        run_id = client.create_run(experiment, run_name=f"tune {target}", tags=tags).info.run_id
    with record_run_status(client, run_id):
        yield TuningRun(client, experiment, run_id, target)


@dataclass(frozen=True)
class FinalRun:
    """One fitted model with everything that is logged with it.

    Attributes:
        folder: `models/<target>` with `model.onnx`, `model.skops`, `fit.json`, `gate.parquet`.
        fit: content of `fit.json`.
        evaluation: the target's entries of `reports/metrics.json`, "targets" and "gate".
        folds: the target's entry of `reports/folds.json`.
        card: the model card, markdown.
        source: the data source's name.
        data_sha256: hash of the training table.
        reference: sample of the training table (`training.registry.drift_reference`); None if there is no table.
        plots: image files of the evaluation.
        requirements: lock file of the environment.
    """

    domain: str
    target: str
    folder: Path
    fit: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    card: str
    source: str
    folds: tuple[Mapping[str, Any], ...] = ()
    data_sha256: str | None = None
    reference: pd.DataFrame | None = None
    plots: tuple[Path, ...] = ()
    requirements: Path | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


def log_final_run(client: MlflowClient, settings: Settings, final: FinalRun) -> str:
    """Log a final model with everything needed to evaluate and reproduce it.

    Artifacts: `model/` (an MLflow model of ONNX flavour, with `fit.json`), `sklearn/model.skops`,
    `evaluation/` (metrics, gate rows, drift reference, plots), `environment/`, `model_card.md`.

    Returns:
        Id of the finished run.
    """
    experiment = experiment_id(client, settings, final.domain)
    tags = {"target": final.target, "kind": "final", "mlflow.note.content": final.card[:_NOTE_LENGTH]}
    if final.data_sha256:
        tags["data_sha256"] = final.data_sha256
    run = client.create_run(experiment, run_name=f"final {final.target}", tags={**tags, **_commit_tag(), **final.tags})
    run_id = str(run.info.run_id)
    facts = ("seed", "split", "state_version", "n_rows", "n_batteries")
    params = {**final.fit["params"], **{key: final.fit[key] for key in facts if key in final.fit}}
    log_values(client, run_id, params=params, metrics=_metrics(final.evaluation), series=_series(final))
    client.log_inputs(run_id, [_dataset(final)])
    with tempfile.TemporaryDirectory() as scratch:
        _write_artifacts(final, run_id, Path(scratch))
        client.log_artifacts(run_id, scratch)
    client.set_terminated(run_id)
    return run_id


def log_values(
    client: MlflowClient,
    run_id: str,
    *,
    params: Mapping[str, object] | None = None,
    metrics: Mapping[str, float] | None = None,
    series: Mapping[str, Mapping[int, float]] | None = None,
) -> None:
    """Log parameters, metrics and metrics by step in one call."""
    from mlflow.entities import Metric, Param

    now = time.time_ns() // 1_000_000
    points = [Metric(key, value, now, 0) for key, value in (metrics or {}).items()]
    points += [Metric(key, value, now, step) for key, steps in (series or {}).items() for step, value in steps.items()]
    given = [Param(key, str(value)) for key, value in (params or {}).items()]
    client.log_batch(run_id, metrics=points, params=given[:_TAGS_PER_BATCH])


def _commit_tag() -> dict[str, str]:
    commit = git_commit()
    return {} if commit is None else {"mlflow.source.git.commit": commit}


def _metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """`mae`, ... out of fold, `baseline.<name>.mae`, and the same under `gate.`."""
    values = {}
    for prefix, entry in (("", evaluation.get("targets", {})), ("gate.", evaluation.get("gate", {}))):
        values.update(_numbers(entry, prefix))
        for name, measures in entry.get("baselines", {}).items():
            values.update(_numbers(measures, f"{prefix}baseline.{name}."))
    return values


def _numbers(entry: Mapping[str, Any], prefix: str) -> dict[str, float]:
    numbers = {f"{prefix}{key}": value for key, value in entry.items() if isinstance(value, (int, float))}
    return {key: float(value) for key, value in numbers.items() if np.isfinite(value)}


def _series(final: FinalRun) -> dict[str, dict[int, float]]:
    """`fold.<measure>` by fold and `life_quarter.<measure>` by quarter of life."""
    series: dict[str, dict[int, float]] = {}
    quarters = final.evaluation.get("targets", {}).get("by_life_quarter", ())
    for prefix, step_key, entries in (("fold", "fold", final.folds), ("life_quarter", "quarter", quarters)):
        for entry in entries:
            for key, value in _numbers({k: v for k, v in entry.items() if k != step_key}, f"{prefix}.").items():
                series.setdefault(key, {})[int(entry[step_key])] = value
    return series


def _dataset(final: FinalRun) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest = (final.data_sha256 or "unknown")[:_DIGEST_LENGTH]
    profile = {key: final.fit.get(key) for key in ("n_rows", "n_batteries", "split")}
    schema = {"features": final.fit["feature_names"], "target": final.target}
    dataset = Dataset(
        name=f"{final.source}-{final.target}",
        digest=digest,
        source_type="local",
        source=json.dumps({"source": final.source, "sha256": final.data_sha256}),
        schema=json.dumps(schema),
        profile=json.dumps(profile),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _write_artifacts(final: FinalRun, run_id: str, folder: Path) -> None:
    (folder / "model_card.md").write_text(final.card, encoding="utf-8")
    _save_onnx_flavour(final, run_id, folder / MODEL_FOLDER)
    _copy(final.folder / "fit.json", folder / MODEL_FOLDER)
    # Separate folder: MLflow does not accept two flavours in one.
    _copy(final.folder / "model.skops", folder / SKLEARN_FOLDER)
    evaluation = folder / EVALUATION_FOLDER
    _copy(final.folder / "gate.parquet", evaluation)
    (evaluation / "metrics.json").write_text(json.dumps(final.evaluation, indent=2), encoding="utf-8")
    (evaluation / "folds.json").write_text(json.dumps(final.folds, indent=2), encoding="utf-8")
    if final.reference is not None:
        final.reference.to_parquet(evaluation / REFERENCE_FILE, compression="zstd", index=False)
    for plot in final.plots:
        _copy(plot, evaluation)
    if final.requirements is not None:
        _copy(final.requirements, folder / "environment")


def _copy(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file.name).write_bytes(file.read_bytes())


def _save_onnx_flavour(final: FinalRun, run_id: str, folder: Path) -> None:
    import mlflow.onnx
    import onnx
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    single = np.dtype(np.float32)
    n_features = len(final.fit["feature_names"])
    signature = ModelSignature(
        inputs=Schema([TensorSpec(single, (-1, n_features), "features")]),
        outputs=Schema([TensorSpec(single, (-1, 1), "value")]),
    )
    mlflow.onnx.save_model(
        onnx.load(final.folder / "model.onnx"),
        folder,
        mlflow_model=Model(run_id=run_id),
        signature=signature,
        input_example=_input_example(final),
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in ("mlflow", "numpy", "onnxruntime")],
        onnx_execution_providers=["CPUExecutionProvider"],
        metadata={"target": final.target, "feature_names": list(final.fit["feature_names"])},
        save_as_external_data=False,
    )


def _input_example(final: FinalRun) -> dict[str, np.ndarray[Any, Any]]:
    columns = [f"feature_{name}" for name in final.fit["feature_names"]]
    rows = pd.read_parquet(final.folder / "gate.parquet", columns=columns).head(_EXAMPLE_ROWS)
    return {"features": rows.to_numpy(dtype=np.float32)}
