"""Runs one training: snapshot of the store, DVC pipeline, registration and promotion by the gate."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psycopg2

from features.targets import TARGET_NAMES
from monitoring.drift.drift_params import DriftParams
from retraining.promotion_record import RETRAIN_TAG, Promotion, close_record, promotion_of
from retraining.retrain_store import RetrainStore
from retraining.trigger import DetectedDrift, RetrainParams
from retraining.workspace import Workspace
from telemetry.errors import TwinError
from telemetry.settings import Settings
from telemetry.stores.snapshot import MANIFEST, SnapshotParams, take_snapshot
from training.gate import GateThresholds
from training.mlflow_client import experiment_id, record_run_status
from training.params import read_json
from training.registry.provenance import provenance_in
from training.registry.registration import RegistrationReport, register_all
from training.registry.registry_store import RegistryStore

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = "timescale"
_LOCK_CHECK_INTERVAL_S = 10.0


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training.

    Attributes:
        report: registration of each model; None if it failed before.
        promotion: the promoted release; None if the serving release is unchanged.
        error: error sentence; None on success.
    """

    report: RegistrationReport | None = None
    promotion: Promotion | None = None
    error: str | None = None

    @property
    def detail(self) -> str:
        """Registration result of each model, one sentence each."""
        if self.report is None:
            return self.error or "nothing"
        return "; ".join(
            f"{model.target} {'' if model.version is None else f'version {model.version} '}{model.state}"
            + (f" ({', '.join(model.reasons)})" if model.reasons else "")
            for model in self.report.models
        )


class StoppedError(RuntimeError):
    """The training was stopped."""


@dataclass(frozen=True)
class TrainingRun:
    """Configuration and connections of a training.

    Attributes:
        params: content of `params.yaml`; `policy` and `drift` are its sections `retrain` and `drift`.
        is_stopping: whether the process is shutting down.
        by: author of events in the registry's history.
    """

    settings: Settings
    params: Mapping[str, Any]
    policy: RetrainParams
    drift: DriftParams
    records: RetrainStore
    registry: RegistryStore
    by: str
    is_stopping: Callable[[], bool] = lambda: False

    def train(self, reason: str, drifts: Sequence[DetectedDrift]) -> TrainingResult:
        """Train, register and let the gate promote; requires the advisory lock.

        Any error is recorded and leaves the champion unchanged.

        Args:
            drifts: the cause; only their targets may be promoted.  Empty for a manual training: every target may.
        """
        retrain_id = self.records.start(reason, drifts, self.registry.aliases().release)
        log.info("retraining %d started: %s", retrain_id, reason)
        try:
            result = self._train(retrain_id, reason, drifts)
        except (TwinError, StoppedError) as error:
            return self._record_failure(retrain_id, error)
        except Exception as error:  # the retrainer continues after any failure
            log.exception("retraining %d failed", retrain_id)
            return self._record_failure(retrain_id, error)
        outcome = "promoted" if result.promotion else "did not promote"
        log.info("retraining %d %s: %s", retrain_id, outcome, result.detail)
        return result

    def _record_failure(self, retrain_id: int, error: Exception) -> TrainingResult:
        """Record the error; a promotion that was already made is recorded as such."""
        from mlflow.exceptions import MlflowException

        outcome: Literal["failed", "stopped"] = "stopped" if isinstance(error, StoppedError) else "failed"
        is_expected = isinstance(error, TwinError | StoppedError)
        sentence = (str(error) if is_expected else f"{type(error).__name__}: {error}").partition("\n")[0]
        log.error("retraining %d %s: %s", retrain_id, outcome, sentence)
        promotion = None
        try:
            # If the connection was lost, a new one is opened.
            self.records.update(retrain_id, error=sentence)
            promotion = close_record(self.records, self.registry, retrain_id, outcome, sentence)
        except (psycopg2.Error, MlflowException, OSError, TwinError) as second:
            log.warning(
                "the outcome of retraining %d is recorded later: %s", retrain_id, str(second).partition("\n")[0]
            )
        if promotion is not None:
            log.warning("retraining %d had already promoted release %d", retrain_id, promotion.release)
        return TrainingResult(promotion=promotion, error=sentence)

    def _train(self, retrain_id: int, reason: str, drifts: Sequence[DetectedDrift]) -> TrainingResult:
        tags = {RETRAIN_TAG: str(retrain_id), "retrain_reason": reason, **_drift_tags(drifts)}
        with self._mlflow_run(tags) as run_id, self._workspace(retrain_id) as workspace:
            self.records.update(retrain_id, run_id=run_id)
            # The watermark, so that one battery with a clock set ahead does not mark later drift as already learned.
            watermark = self.records.watermark(self.drift.min_batteries)
            source = self._take_snapshot(workspace)
            data_until = watermark or _newest_time(source)
            self.records.update(retrain_id, data_until=data_until)
            workspace.set_params(self._params_on(source, drifts))
            workspace.train(self.settings.var, self._periodic_check())
            self._log_artifacts(run_id, workspace, data_until)
            self._require_lock()
            report = self._register(workspace, tags, reason, drifts)
            # The new release serves now, so the outcome is recorded before anything else can fail.
            versions = {model.target: model.version for model in report.models}
            promotion = promotion_of(self.registry, report.release, lambda target, version: versions[target] == version)
            result = TrainingResult(report, promotion)
            self.records.finish(
                retrain_id,
                "not_promoted" if promotion is None else "promoted",
                detail=result.detail,
                release=report.release,
                previous=None if promotion is None else promotion.previous,
                watched=None if promotion is None else promotion.watched,
            )
        return result

    @contextmanager
    def _workspace(self, retrain_id: int) -> Iterator[Workspace]:
        """A new workspace, kept for inspection; the oldest are deleted."""
        root = self.settings.var.resolve() / "retrains"
        workspace = Workspace.create(root / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{retrain_id}", PROJECT)
        for folder in sorted(root.iterdir())[: -self.policy.kept]:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            yield workspace
        finally:
            workspace.drop_cache()

    def _take_snapshot(self, workspace: Workspace) -> Path:
        if self.settings.telemetry_dsn is None:
            raise TwinError("No telemetry store is configured.", field="telemetry_dsn")
        params = SnapshotParams.of(self.params)
        return take_snapshot(
            self.settings.telemetry_dsn.get_secret_value(),
            workspace.folder / "data" / "raw" / SOURCE,
            params,
            until=self.settings.time_limit(),
            check=self._periodic_check(),
        )

    def _params_on(self, source: Path, drifts: Sequence[DetectedDrift]) -> dict[str, Any]:
        """The project's parameters with the snapshot as source and the champion's label definitions."""
        params = {**self.params, "domain": self.registry.domain}
        params["source"] = {"name": SOURCE, "path": str(source), "field_map": None, "batteries": None}
        champions = self.registry.aliases().champions
        for target in [*(drift.target for drift in drifts), *TARGET_NAMES]:
            if target in champions:
                with self.registry.files(target, champions[target], evaluation=False) as folder:
                    # With different label definitions the gate could not compare the two.
                    params["targets"] = read_json(folder / "fit.json")["definitions"]
                break
        return params

    def _register(
        self, workspace: Workspace, tags: Mapping[str, str], reason: str, drifts: Sequence[DetectedDrift]
    ) -> RegistrationReport:
        return register_all(
            self.registry,
            workspace.models,
            read_json(workspace.reports / "metrics.json"),
            GateThresholds.of(self.params),
            provenance_in(workspace.folder, SOURCE, tags),
            by=self.by,
            why=reason,
            promotable=sorted({drift.target for drift in drifts}) or TARGET_NAMES,
        )

    def _periodic_check(self) -> Callable[[], None]:
        checked_at = time.monotonic()

        def check() -> None:
            nonlocal checked_at
            if self.is_stopping():
                raise StoppedError("it was stopped")
            if time.monotonic() - checked_at >= _LOCK_CHECK_INTERVAL_S:
                self._require_lock()
                checked_at = time.monotonic()

        return check

    def _require_lock(self) -> None:
        """Raise if the advisory lock was lost, since another process may train now."""
        if not self.records.holds_lock():
            raise TwinError(
                "The connection to the telemetry store was lost, and with it the advisory lock.", field="telemetry_dsn"
            )

    @contextmanager
    def _mlflow_run(self, tags: Mapping[str, str]) -> Iterator[str]:
        """MLflow run of the retraining, beside those of tuning and models."""
        client = self.registry.client
        experiment = experiment_id(client, self.settings, self.registry.domain)
        run_id = str(client.create_run(experiment, run_name="retrain", tags={"kind": "retrain", **tags}).info.run_id)
        with record_run_status(client, run_id, stopped_by=(StoppedError,)):
            yield run_id

    def _log_artifacts(self, run_id: str, workspace: Workspace, data_until: datetime) -> None:
        client = self.registry.client
        client.set_tag(run_id, "data_until", data_until.isoformat())
        for file in (
            workspace.folder / "params.yaml",
            workspace.folder / "dvc.lock",
            workspace.reports / "metrics.json",
        ):
            client.log_artifact(run_id, str(file))


def _drift_tags(drifts: Sequence[DetectedDrift]) -> dict[str, str]:
    return {f"drift.{drift.target}.{drift.kind}": f"{drift.score:.6g}" for drift in drifts}


def _newest_time(source: Path) -> datetime:
    """Event time of the newest row of a snapshot."""
    manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
    times = [manifest[table]["until"] for table in ("readings", "cycles")]
    return max(datetime.fromisoformat(time) for time in times if time is not None)
