"""One training: from a copy of the store, through the pipeline, to the registry and its gate."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.errors import TwinError
from data.settings import Settings
from data.stores.snapshot import MANIFEST, SnapshotParams, take_snapshot
from features.targets import TARGET_NAMES
from monitoring.drift.params import DriftParams
from pipelines.params import read_json, typed
from pipelines.register import provenance_in
from pipelines.retraining.records import RetrainStore
from pipelines.retraining.trigger import Drift, RetrainParams
from pipelines.retraining.workspace import Workspace
from training.gate import GateThresholds
from training.mlflow_client import ending_run, experiment_id
from training.registry.promotion import champions_of
from training.registry.registration import RegisterReport, register_all
from training.registry.store import RegistryStore

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = "timescale"
_LOCK_LOOKED_AT_EVERY_S = 10.0


@dataclass(frozen=True)
class Retrained:
    """What a training came to.

    Attributes:
        report: what became of each model; None where it failed before.
        promoted: whether another release serves now.
        watched: by target, the promoted version and the one that it replaced.
        error: why it failed, in a sentence; None where it did not.
    """

    report: RegisterReport | None = None
    promoted: bool = False
    watched: Mapping[str, tuple[int, int]] = field(default_factory=dict)
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
    """The training was told to stop, or may not go on."""


@dataclass(frozen=True)
class Attempt:
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

    def train(self, reason: str, drifts: Sequence[Drift]) -> Retrained:
        """Train, register and let the gate promote; only for the holder of the lock.

        Whatever goes wrong is recorded, and leaves the champion where it is.

        Args:
            drifts: what asks for it; their targets alone may be promoted. None: asked for by hand, every target may.
        """
        retrain_id = self.records.begin(reason, drifts, self.registry.aliases().release)
        log.info("retraining %d begins: %s", retrain_id, reason)
        try:
            done = self._train(retrain_id, reason, drifts)
        except Exception as error:  # the watch goes on, whatever a training does
            sentence = error.sentence if isinstance(error, TwinError) else f"{type(error).__name__}: {error}"
            if not isinstance(error, TwinError | StoppedError):
                log.exception("retraining %d failed", retrain_id)
            done = Retrained(error=sentence.partition("\n")[0])
            self.records.end(retrain_id, "failed", error=done.error)
            log.error("retraining %d failed: %s", retrain_id, done.error)
            return done
        log.info("retraining %d %s: %s", retrain_id, "promoted" if done.promoted else "promoted nothing", done.detail)
        return done

    def _train(self, retrain_id: int, reason: str, drifts: Sequence[Drift]) -> Retrained:
        tags = {"retrain": str(retrain_id), "retrain_reason": reason, **_drift_tags(drifts)}
        with self._run(tags) as run_id, self._workspace(retrain_id) as workspace:
            self.records.note(retrain_id, run_id=run_id)
            # What one battery with a clock ahead of its time says must not make later drift look known.
            reached = self.records.clock(self.drift.min_batteries)
            source = self._copy_store(workspace)
            data_until = reached or _newest(source)
            self.records.note(retrain_id, data_until=data_until)
            workspace.set_params(self._params_on(source, drifts))
            workspace.train(self.settings.var, self._check_now_and_then())
            self._log(run_id, workspace, data_until)
            self._check()
            before = self.registry.aliases().release
            former = {} if before is None else champions_of(self.registry, before)
            report = self._register(workspace, tags, reason, drifts)
            # From here on it serves: on record at once, before anything else can go wrong.
            promoted = report.release is not None and report.release != before
            done = Retrained(report, promoted, _replaced(report, former) if promoted else {})
            self.records.end(
                retrain_id,
                "promoted" if done.promoted else "not_promoted",
                detail=done.detail,
                release=report.release,
                watched=done.watched,
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
        params = typed(SnapshotParams, self.params.get("snapshot", {}), "snapshot")
        return take_snapshot(
            self.settings.telemetry_dsn.get_secret_value(), workspace.folder / "data" / "raw" / SOURCE, params
        )

    def _params_on(self, source: Path, drifts: Sequence[Drift]) -> dict[str, Any]:
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
        self, workspace: Workspace, tags: Mapping[str, str], reason: str, drifts: Sequence[Drift]
    ) -> RegisterReport:
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

    def _check_now_and_then(self) -> Callable[[], None]:
        looked_at = time.monotonic()

        def check() -> None:
            nonlocal looked_at
            if self.is_stopping():
                raise StoppedError("it was stopped")
            if time.monotonic() - looked_at >= _LOCK_LOOKED_AT_EVERY_S:
                self._check()
                looked_at = time.monotonic()

        return check

    def _check(self) -> None:
        """Go on only while nobody else can have begun."""
        if not self.records.holds_lock():
            raise StoppedError("the session on the telemetry store was lost, and with it the right to train")

    @contextmanager
    def _run(self, tags: Mapping[str, str]) -> Iterator[str]:
        """A run of its own in MLflow, beside those of tuning and models."""
        client = self.registry.client
        experiment = experiment_id(client, self.settings, self.registry.domain)
        run_id = str(client.create_run(experiment, run_name="retrain", tags={"kind": "retrain", **tags}).info.run_id)
        with ending_run(client, run_id):
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


def _replaced(report: RegisterReport, former: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """By target, the version that was promoted and the one that it replaced."""
    return {
        model.target: (model.version, former[model.target])
        for model in report.models
        if model.version is not None
        and model.state == "champion"
        and former.get(model.target, model.version) != model.version
    }


def _drift_tags(drifts: Sequence[Drift]) -> dict[str, str]:
    tags = {}
    for one in drifts:
        tags[f"drift.{one.target}.{one.kind}"] = f"{one.score:.6g}"
    return tags


def _newest(source: Path) -> datetime:
    """Event time of the newest thing in a snapshot."""
    manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
    times = [manifest[table]["until"] for table in ("readings", "cycles")]
    return max(datetime.fromisoformat(time) for time in times if time is not None)
