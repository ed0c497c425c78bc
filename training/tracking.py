"""Logs tuning trials and final models to MLflow as runs with parameters, metrics and artifacts.

Uses `MlflowClient`, which has no global state, and logs in batches, because on SQLite every call costs a
transaction.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from telemetry.settings import Settings
from training.mlflow_client import HOW_TO_COMPARE, connect, experiment_id, record_run_status
from training.params import experiment_name
from training.release import CONTENT_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Folders of a final run's artifacts; the registered model is `MODEL_FOLDER`.
MODEL_FOLDER = "model"
EVALUATION_FOLDER = "evaluation"
SKLEARN_FOLDER = "sklearn"
#: Drift reference in `EVALUATION_FOLDER`, see `training.registry.drift_reference`.
REFERENCE_FILE = "reference.parquet"

#: Models of a `ForestRun`: this one, and the baselines by their names.
FOREST = "forest"
#: Tags of runs: the target whose forest and baselines are compared; the DVC experiment.
COMPARISON_TAG = "compare"
EXPERIMENT_TAG = "experiment"

_TRIAL_TAG = "trial"
_PARAMS_PER_BATCH = 100
_NOTE_LENGTH = 8000
_DIGEST_LENGTH = 36
_EXAMPLE_ROWS = 3


@dataclass(frozen=True)
class Trial:
    """A finished trial of a tuning study with its error."""

    number: int
    params: Mapping[str, Any]
    error: float


def git_commit() -> str | None:
    """The checked out commit, with `-dirty` if files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def current_user() -> str:
    """Name of the current user: `user.name` of git, otherwise the login name."""
    try:
        name = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        name = ""
    if name:
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without an entry for the user
        return "unknown"


def stage_tags(stage: str, target: str) -> dict[str, str]:
    """Tags of the runs of `python -m pipelines.<stage> <target>`: user, source, commit, target and DVC experiment."""
    tags = {
        "target": target,
        "mlflow.user": current_user(),
        "mlflow.source.name": f"python -m pipelines.{stage} {target}",
        "mlflow.source.type": "LOCAL",
    }
    optional = {"mlflow.source.git.commit": git_commit(), EXPERIMENT_TAG: experiment_name()}
    return tags | {name: value for name, value in optional.items() if value is not None}


@dataclass(frozen=True)
class TuningRun:
    """The parent run of the trials of a study.

    Attributes:
        tags: of each trial, besides those of a child run.
    """

    client: MlflowClient
    experiment_id: str
    run_id: str
    tags: Mapping[str, str]

    def log_trial(self, trial: Trial, began_ms: int | None = None) -> None:
        """Log a finished trial as a child run.

        Args:
            began_ms: when it began, ms since 1970; None: not known.
        """
        tags = {**self.tags, "mlflow.parentRunId": self.run_id, "kind": "trial", _TRIAL_TAG: str(trial.number)}
        name = f"{self.tags['target']} trial {trial.number}"
        run = self.client.create_run(self.experiment_id, began_ms, tags, name)
        log_values(self.client, run.info.run_id, params=trial.params, metrics={"error": trial.error})
        self.client.set_terminated(run.info.run_id)

    def log_missing(self, trials: Iterable[Trial]) -> None:
        """Log those of `trials` that have no child run yet."""
        children = self.client.search_runs([self.experiment_id], f"tags.mlflow.parentRunId = '{self.run_id}'")
        logged = {child.data.tags.get(_TRIAL_TAG) for child in children}
        for trial in trials:
            if str(trial.number) not in logged:
                self.log_trial(trial)


@contextmanager
def tuning_run(
    settings: Settings, domain: str, target: str, study: str, more_tags: Mapping[str, str] | None = None
) -> Iterator[TuningRun]:
    """The parent run of `study`, a new one or, if the study is resumed, the existing one.

    Args:
        more_tags: further tags, such as the forest library with its version.
    """
    client = connect(settings)
    experiment, own_tags = experiment_id(client, settings, domain), stage_tags("tune", target)
    earlier = client.search_runs([experiment], f"tags.study = '{study}' AND tags.kind = 'tuning'", max_results=1)
    if earlier:
        run_id = earlier[0].info.run_id
        client.update_run(run_id, status="RUNNING")
    else:
        note = "Each child run is a trial; `error` is that of three folds of at most `tune.max_rows` rows."
        tags = {**own_tags, "study": study, "kind": "tuning", "mlflow.note.content": note, **(more_tags or {})}
        run_id = client.create_run(experiment, run_name=f"{target} tuning", tags=tags).info.run_id
    with record_run_status(client, run_id):
        yield TuningRun(client, experiment, run_id, own_tags)


def log_reused_tuning(
    client: MlflowClient, settings: Settings, domain: str, target: str, study: str, trials: Iterable[Trial]
) -> None:
    """Log the trials of a tuning result that was reused from a file, unless its study has a run."""
    experiment = experiment_id(client, settings, domain)
    if not client.search_runs([experiment], f"tags.study = '{study}' AND tags.kind = 'tuning'", max_results=1):
        with tuning_run(settings, domain, target, study, {"reused": f"reports/tuning/{target}.json"}) as run:
            run.log_missing(trials)


@dataclass(frozen=True)
class ForestRun:
    """The run of one forest, with a child run of the same metrics for each baseline.

    Attributes:
        run_ids: by model, `FOREST` or the name of a baseline.
    """

    client: MlflowClient
    experiment_id: str
    run_ids: Mapping[str, str]

    @property
    def run_id(self) -> str:
        """Id of the forest's run."""
        return self.run_ids[FOREST]

    def log(self, errors: Mapping[str, Mapping[str, float]], prefix: str = "", step: int = 0) -> None:
        """Log error measures, by model, with `prefix` before their names."""
        for model, measures in errors.items():
            if model in self.run_ids:
                values = {key: {step: value} for key, value in numbers(measures, prefix).items()}
                log_values(self.client, self.run_ids[model], series=values)

    def set_content(self, content_sha256: str) -> None:
        """Tag the forest's run with the hash of its model, by which `find_forest_run` finds it."""
        self.client.set_tag(self.run_id, CONTENT_TAG, content_sha256)


@contextmanager
def forest_run(
    settings: Settings,
    domain: str,
    target: str,
    baselines: Iterable[str],
    params: Mapping[str, object],
    *,
    stage: str = "train",
) -> Iterator[ForestRun]:
    """A new run of a forest and of its `baselines`, which lasts as long as the block.

    Args:
        params: parameters of the forest.
    """
    client = connect(settings)
    experiment = experiment_id(client, settings, domain)
    tags = {**stage_tags(stage, target), COMPARISON_TAG: target}
    own = {**tags, "kind": FOREST, "mlflow.note.content": HOW_TO_COMPARE}
    run = client.create_run(experiment, run_name=f"{target} forest", tags=own)
    run_ids = {FOREST: str(run.info.run_id)}
    log_values(client, run_ids[FOREST], params=params)
    with ExitStack() as stack:
        stack.enter_context(record_run_status(client, run_ids[FOREST]))
        for name in baselines:
            run_ids[name] = create_baseline_run(client, experiment, run_ids[FOREST], name, tags)
            stack.enter_context(record_run_status(client, run_ids[name]))
        yield ForestRun(client, experiment, run_ids)


def create_baseline_run(
    client: MlflowClient, experiment: str, forest: str, baseline: str, tags: Mapping[str, str]
) -> str:
    """Create the child run of a baseline; its id.

    Args:
        forest: id of the parent run.
        tags: of the parent run.
    """
    own = {
        "mlflow.parentRunId": forest,
        "kind": "baseline",
        "baseline": baseline,
        "mlflow.note.content": HOW_TO_COMPARE,
    }
    own = {**tags, **own}
    return str(client.create_run(experiment, run_name=f"{tags['target']} {baseline}", tags=own).info.run_id)


def find_forest_run(client: MlflowClient, settings: Settings, domain: str, content_sha256: str) -> ForestRun | None:
    """The newest run that trained the model with this content hash; None if this tracking store has none."""
    experiment = experiment_id(client, settings, domain)
    query = f"tags.{CONTENT_TAG} = '{content_sha256}' AND tags.kind = '{FOREST}'"
    found = client.search_runs([experiment], query, max_results=1)
    if not found:
        return None
    run_id = str(found[0].info.run_id)
    children = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run_id}'")
    own = {child.data.tags["baseline"]: str(child.info.run_id) for child in children if "baseline" in child.data.tags}
    return ForestRun(client, experiment, {FOREST: run_id, **own})


@dataclass(frozen=True)
class FinalRun:
    """One fitted model with everything that is logged to its run when it is registered.

    Attributes:
        folder: `models/<target>` with `model.onnx`, `model.skops`, `fit.json`, `gate.parquet`.
        fit: content of `fit.json`.
        evaluation: the target's entries of `reports/metrics.json`, "targets" and "gate".
        folds: the target's entry of `reports/folds.json`.
        card: the model card, markdown.
        source: the data source's name.
        content_sha256: hash of the model's files.
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
    content_sha256: str
    folds: tuple[Mapping[str, Any], ...] = ()
    data_sha256: str | None = None
    reference: pd.DataFrame | None = None
    plots: tuple[Path, ...] = ()
    requirements: Path | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


def log_final_run(settings: Settings, client: MlflowClient, final: FinalRun) -> str:
    """Log a final model to the run that trained it, with everything needed to evaluate and reproduce it.

    In a tracking store without that run, e.g. after `dvc pull`, a new one is created.  Metrics that the run has are
    not logged again.  Artifacts: `model/` (an MLflow model of ONNX flavour, with `fit.json`), `sklearn/model.skops`,
    `evaluation/` (metrics, gate rows, drift reference, plots), `environment/`, `model_card.md`.

    Returns:
        Id of the finished run.
    """
    run = find_forest_run(client, settings, final.domain, final.content_sha256)
    if run is not None:
        _complete(run, final)
        return run.run_id
    with forest_run(settings, final.domain, final.target, (), final.fit["params"], stage="register") as new:
        new.set_content(final.content_sha256)
        _complete(new, final)
    return new.run_id


def _complete(run: ForestRun, final: FinalRun) -> None:
    """Log what is known only after the evaluation."""
    from mlflow.entities import RunTag

    client, run_id = run.client, run.run_id
    present = client.get_run(run_id).data
    note = f"{HOW_TO_COMPARE}\n\n{final.card}"[:_NOTE_LENGTH]
    tags = {**final.tags, "mlflow.note.content": note}
    if final.data_sha256:
        tags["data_sha256"] = final.data_sha256
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    facts = ("seed", "split", "state_version", "n_rows", "n_batteries")
    series = {key: points for key, points in _series(final).items() if key not in present.metrics}
    log_values(client, run_id, params={key: final.fit[key] for key in facts if key in final.fit}, series=series)
    for model, metrics in _results(final.evaluation).items():
        if model not in run.run_ids:
            child = create_baseline_run(client, run.experiment_id, run_id, model, _inherited(present.tags))
            with record_run_status(client, child):
                log_values(client, child, metrics=metrics)
        else:
            logged = client.get_run(run.run_ids[model]).data.metrics
            log_values(client, run.run_ids[model], metrics={k: v for k, v in metrics.items() if k not in logged})
    client.log_inputs(run_id, [_dataset(final)])
    with tempfile.TemporaryDirectory() as scratch:
        _write_artifacts(final, run_id, Path(scratch))
        client.log_artifacts(run_id, scratch)


def _inherited(tags: Mapping[str, str]) -> dict[str, str]:
    """Those tags of a forest's run that its baselines have, too."""
    names = ("target", COMPARISON_TAG, EXPERIMENT_TAG, "mlflow.user")
    return {key: value for key, value in tags.items() if key in names or key.startswith("mlflow.source.")}


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
    client.log_batch(run_id, metrics=points, params=given[:_PARAMS_PER_BATCH])


def _results(evaluation: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By model, `mae`, ..., `skill` out of fold and the same under `gate.`; the best baseline has the skill 0."""
    found: dict[str, dict[str, float]] = {FOREST: {}}
    for prefix, entry in (("", evaluation.get("targets", {})), ("gate.", evaluation.get("gate", {}))):
        found[FOREST] |= numbers(entry, prefix)
        baselines = entry.get("baselines", {})
        primary = "brier" if any("brier" in measures for measures in baselines.values()) else "mae"
        best = min((measures[primary] for measures in baselines.values()), default=0.0)
        for name, measures in baselines.items():
            skill = 1.0 - measures[primary] / best if best > 0.0 else float("nan")
            found.setdefault(name, {}).update(numbers({**measures, "skill": skill}, prefix))
    return found


def numbers(entry: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The finite numbers of `entry`, with `prefix` before their names."""
    found = {f"{prefix}{key}": value for key, value in entry.items() if isinstance(value, (int, float))}
    return {key: float(value) for key, value in found.items() if np.isfinite(value)}


def _series(final: FinalRun) -> dict[str, dict[int, float]]:
    """`fold.<measure>` by fold and `life_quarter.<measure>` by quarter of life."""
    series: dict[str, dict[int, float]] = {}
    quarters = final.evaluation.get("targets", {}).get("by_life_quarter", ())
    for prefix, step_key, entries in (("fold", "fold", final.folds), ("life_quarter", "quarter", quarters)):
        for entry in entries:
            for key, value in numbers({k: v for k, v in entry.items() if k != step_key}, f"{prefix}.").items():
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
    from mlflow.types import ColSpec, DataType, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.float, name) for name in final.fit["feature_names"]]),
        outputs=Schema([ColSpec(DataType.float, "value")]),
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


def _input_example(final: FinalRun) -> pd.DataFrame:
    columns = [f"feature_{name}" for name in final.fit["feature_names"]]
    rows = pd.read_parquet(final.folder / "gate.parquet", columns=columns).head(_EXAMPLE_ROWS)
    names = pd.Index(final.fit["feature_names"], dtype=object)  # MLflow compares them, which pandas warns of for others
    return rows.set_axis(names, axis=1).astype(np.float32).reset_index(drop=True)
