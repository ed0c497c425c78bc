"""One training: from a copy of the store, through the pipeline, to the registry and its gate."""

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
from retraining.promotion_record import TAG, Promotion, promotion_in, settle
from retraining.retrain_store import RetrainStore
from retraining.trigger import DetectedDrift, RetrainParams
from retraining.workspace import Workspace
from telemetry.errors import TwinError
from telemetry.settings import Settings
from telemetry.stores.snapshot import MANIFEST, SnapshotParams, take_snapshot
from training.gate import GateThresholds
from training.mlflow_client import experiment_id, record_run_status
from training.params import parse_section, read_json
from training.registry.provenance import provenance_in
from training.registry.registration import RegistrationReport, register_all
from training.registry.registry_store import RegistryStore

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = "timescale"
_LOCK_CHECK_INTERVAL_S = 10.0


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Attributes:
        report: what became of each model; None where it failed before.
        promotion: the release that it brought about; None where what serves is what served before.
        error: why it failed, in a sentence; None where it did not.
    """

    report: RegistrationReport | None = None
    promotion: Promotion | None = None
    error: str | None = None

    @property
    def detail(self) -> str:
        """What became of each model, a sentence each."""
        if self.report is None:
            return self.error or "nothing"
        return "; ".join(
            f"{one.target} {'' if one.version is None else f'version {one.version} '}{one.state}"
            + (f" ({', '.join(one.reasons)})" if one.reasons else "")
            for one in self.report.models
        )


class StoppedError(RuntimeError):
    """The training was told to stop."""


@dataclass(frozen=True)
class TrainingRun:
    """How and with what to train.

    Attributes:
        params: content of `params.yaml`; `policy` and `drift` are its sections `retrain` and `drift`.
        is_stopping: True once whoever runs this shall end.
        by: who the registry's history names.
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
        """Train, register and let the gate promote; only for the holder of the lock.

        Whatever goes wrong is recorded, and leaves the champion where it is.

        Args:
            drifts: what asks for it; their targets alone may be promoted. None: asked for by hand, every target may.
        """
        retrain_id = self.records.begin(reason, drifts, self.registry.aliases().release)
        log.info("retraining %d begins: %s", retrain_id, reason)
        try:
            done = self._train(retrain_id, reason, drifts)
        except (TwinError, StoppedError) as error:
            return self._record_failure(retrain_id, error)
        except Exception as error:  # the watch goes on, whatever a training does
            log.exception("retraining %d failed", retrain_id)
            return self._record_failure(retrain_id, error)
        log.info("retraining %d %s: %s", retrain_id, "promoted" if done.promotion else "promoted nothing", done.detail)
        return done

    def _record_failure(self, retrain_id: int, error: Exception) -> TrainingResult:
        """Record why; what was promoted before is a promotion all the same."""
        from mlflow.exceptions import MlflowException

        outcome: Literal["failed", "stopped"] = "stopped" if isinstance(error, StoppedError) else "failed"
        named = isinstance(error, TwinError | StoppedError)
        sentence = (str(error) if named else f"{type(error).__name__}: {error}").partition("\n")[0]
        log.error("retraining %d %s: %s", retrain_id, outcome, sentence)
        promotion = None
        try:
            # The session may be the very thing that was lost; a new one is opened then.
            self.records.note(retrain_id, error=sentence)
            promotion = settle(self.records, self.registry, retrain_id, outcome, sentence)
        except (psycopg2.Error, MlflowException, OSError, TwinError) as also:
            log.warning("how retraining %d ended is recorded later: %s", retrain_id, str(also).partition("\n")[0])
        if promotion is not None:
            log.warning("retraining %d had promoted release %d before", retrain_id, promotion.release)
        return TrainingResult(promotion=promotion, error=sentence)

    def _train(self, retrain_id: int, reason: str, drifts: Sequence[DetectedDrift]) -> TrainingResult:
        tags = {TAG: str(retrain_id), "retrain_reason": reason, **_drift_tags(drifts)}
        with self._run(tags) as run_id, self._workspace(retrain_id) as workspace:
            self.records.note(retrain_id, run_id=run_id)
            # What one battery with a clock ahead of its time says must not make later drift look known.
            reached = self.records.clock(self.drift.min_batteries)
            source = self._copy_store(workspace)
            data_until = reached or _newest(source)
            self.records.note(retrain_id, data_until=data_until)
            workspace.set_params(self._params_on(source, drifts))
            workspace.train(self.settings.var, self._periodic_check())
            self._log(run_id, workspace, data_until)
            self._check()
            report = self._register(workspace, tags, reason, drifts)
            # From here on it serves: on record at once, before anything else can go wrong.
            own = {model.target: model.version for model in report.models}
            promotion = promotion_in(self.registry, report.release, lambda target, version: own[target] == version)
            done = TrainingResult(report, promotion)
            self.records.end(
                retrain_id,
                "not_promoted" if promotion is None else "promoted",
                detail=done.detail,
                release=report.release,
                before=None if promotion is None else promotion.before,
                watched=None if promotion is None else promotion.watched,
            )
        return done

    @contextmanager
    def _workspace(self, retrain_id: int) -> Iterator[Workspace]:
        """A new workspace, which stays for whoever wants to look into it or to repeat it; the oldest go."""
        root = self.settings.var.resolve() / "retrains"
        workspace = Workspace.create(root / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{retrain_id}", PROJECT)
        for folder in sorted(root.iterdir())[: -self.policy.kept]:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            yield workspace
        finally:
            workspace.drop_cache()

    def _copy_store(self, workspace: Workspace) -> Path:
        if self.settings.telemetry_dsn is None:
            raise TwinError("No telemetry store is named.", field="telemetry_dsn")
        params = parse_section(SnapshotParams, self.params.get("snapshot", {}), "snapshot")
        return take_snapshot(
            self.settings.telemetry_dsn.get_secret_value(),
            workspace.folder / "data" / "raw" / SOURCE,
            params,
            check=self._periodic_check(),
        )

    def _params_on(self, source: Path, drifts: Sequence[DetectedDrift]) -> dict[str, Any]:
        """The project's parameters, on the copy and by the definitions of the champion that is to be replaced."""
        params = {**self.params, "domain": self.registry.domain}
        params["source"] = {"name": SOURCE, "path": str(source), "field_map": None, "batteries": None}
        champions = self.registry.aliases().champions
        for target in [*(one.target for one in drifts), *TARGET_NAMES]:
            if target in champions:
                with self.registry.files(target, champions[target], evaluation=False) as folder:
                    # Else the gate could not compare the two.
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
            GateThresholds.from_params(self.params["gate"]),
            provenance_in(workspace.folder, SOURCE, tags),
            by=self.by,
            why=reason,
            promotable=sorted({one.target for one in drifts}) or TARGET_NAMES,
        )

    def _periodic_check(self) -> Callable[[], None]:
        looked_at = time.monotonic()

        def check() -> None:
            nonlocal looked_at
            if self.is_stopping():
                raise StoppedError("it was stopped")
            if time.monotonic() - looked_at >= _LOCK_CHECK_INTERVAL_S:
                self._check()
                looked_at = time.monotonic()

        return check

    def _check(self) -> None:
        """Go on only while nobody else can have begun."""
        if not self.records.holds_lock():
            raise TwinError(
                "The session on the telemetry store was lost, and with it the right to train.", field="telemetry_dsn"
            )

    @contextmanager
    def _run(self, tags: Mapping[str, str]) -> Iterator[str]:
        """A run of its own in MLflow, beside those of tuning and models."""
        client = self.registry.client
        experiment = experiment_id(client, self.settings, self.registry.domain)
        run_id = str(client.create_run(experiment, run_name="retrain", tags={"kind": "retrain", **tags}).info.run_id)
        with record_run_status(client, run_id, stopped_by=(StoppedError,)):
            yield run_id

    def _log(self, run_id: str, workspace: Workspace, data_until: datetime) -> None:
        client = self.registry.client
        client.set_tag(run_id, "data_until", data_until.isoformat())
        for file in (
            workspace.folder / "params.yaml",
            workspace.folder / "dvc.lock",
            workspace.reports / "metrics.json",
        ):
            client.log_artifact(run_id, str(file))


def _drift_tags(drifts: Sequence[DetectedDrift]) -> dict[str, str]:
    tags = {}
    for one in drifts:
        tags[f"drift.{one.target}.{one.kind}"] = f"{one.score:.6g}"
    return tags


def _newest(source: Path) -> datetime:
    """Event time of the newest thing in a snapshot."""
    manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
    times = [manifest[table]["until"] for table in ("readings", "cycles")]
    return max(datetime.fromisoformat(time) for time in times if time is not None)
