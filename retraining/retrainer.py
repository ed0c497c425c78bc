"""Retraining loop: polls drift and monitored promotions, then trains, promotes or rolls back."""

from __future__ import annotations

import logging
import platform
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg2

from features.targets import TARGETS
from monitoring.drift.drift_params import DriftParams
from retraining.champion_comparison import RollbackParams
from retraining.promotion_monitor import PromotionMonitor
from retraining.promotion_record import close_record
from retraining.retrain_store import RetrainStore
from retraining.training_run import TrainingResult, TrainingRun
from retraining.trigger import RetrainParams, decide
from telemetry.errors import TwinError
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from telemetry.stores.snapshot import SnapshotParams
from training.params import read_json
from training.registry.registry_store import RegistryStore
from training.splits import MIN_BATTERIES_FOR_GATE
from training.tracking import current_user

log = logging.getLogger(__name__)

#: File in `var` whose modification time is at most half a minute old while the retrainer runs.
HEARTBEAT_FILE = "retrain.alive"
_HEARTBEAT_INTERVAL_S = 10.0
_RETRY_S = 10.0


@dataclass
class Retrainer:
    """Polls drift and promotions, and runs the resulting training or rollback.

    Attributes:
        params: content of `params.yaml`; `policy`, `rollback` and `drift` are its typed sections.
        stop: set to end; a running training is aborted.
    """

    settings: Settings
    params: Mapping[str, Any]
    policy: RetrainParams
    rollback: RollbackParams
    drift: DriftParams
    records: RetrainStore
    registry: RegistryStore
    stop: threading.Event
    _last_logged: str = ""
    _train_batteries: dict[tuple[str, int], frozenset[str]] = field(default_factory=dict)

    def run(self, interval_s: float) -> None:
        """Run every `interval_s` until `stop` is set; an unavailable store or registry is retried."""
        from mlflow.exceptions import MlflowException

        with self._heartbeat():
            while not self.stop.is_set():
                try:
                    self.run_once()
                except (psycopg2.Error, MlflowException, OSError, TwinError) as error:
                    log.warning("check failed: %s: %s", type(error).__name__, str(error).strip().partition("\n")[0])
                    self.stop.wait(_RETRY_S)
                else:
                    self.stop.wait(interval_s)

    def run_once(self, reason: str | None = None) -> TrainingResult | None:
        """Check monitored promotions, then train on drift or, if given, for `reason`.

        Returns:
            Result of the training; None without one.

        Raises:
            psycopg2.Error: the telemetry store failed.
            MlflowException: the registry failed.
        """
        if not self.records.try_lock():
            holder = self.records.lock_holder() or "another process"
            self._log_once(f"waiting: {holder} holds the lock")
            return None
        try:
            for retrain_id, error in self.records.abandoned():
                promotion = close_record(self.records, self.registry, retrain_id, "failed", error)
                promoted = "nothing" if promotion is None else f"release {promotion.release}"
                log.warning("retraining %d was interrupted, it had promoted %s: %s", retrain_id, promoted, error)
            by = f"{current_user()} on {platform.node()}"
            monitor = PromotionMonitor(self.records, self.registry, self.rollback, by)
            monitor.run_once()
            drifts = self.records.drifts()
            champions = self.registry.aliases().champions if drifts else {}
            decision = decide(
                drifts,
                champions,
                self.records.history(),
                datetime.now(UTC),
                self.policy,
                lambda target: self._gate_obstacle(target, champions[target]),
            )
            self._log_once(decision.reason)
            if reason is None and not decision.drifts:
                return None
            run = TrainingRun(
                self.settings, self.params, self.policy, self.drift, self.records, self.registry, by, self.stop.is_set
            )
            result = run.train(decision.reason, decision.drifts) if reason is None else run.train(reason, ())
            if self.records.holds_lock():
                monitor.run_once()  # makes the replaced champion the challenger
            return result
        finally:
            self.records.unlock()

    def _gate_obstacle(self, target: str, champion: int) -> str | None:
        """Why the gate could not promote any new model: the champion was trained on every battery; None otherwise."""
        batteries = self.records.trainable_batteries(TARGETS[target].cadence, MIN_BATTERIES_FOR_GATE)
        if not 0 < len(batteries) < MIN_BATTERIES_FOR_GATE:
            return None
        if (target, champion) not in self._train_batteries:
            with self.registry.files(target, champion, evaluation=False) as folder:
                self._train_batteries[target, champion] = frozenset(read_json(folder / "fit.json")["train_batteries"])
        if not self._train_batteries[target, champion].issuperset(batteries):
            return None
        return (
            f"its champion was trained on all {len(batteries)} batteries, and with fewer than {MIN_BATTERIES_FOR_GATE} "
            "none is held out for a comparison; train manually (`python -m retraining --reason ...`) and promote with "
            "`python -m training.registry promote --force`"
        )

    @contextmanager
    def _heartbeat(self) -> Iterator[None]:
        """Touch the heartbeat file in a thread, for health checks of this process, which has no port."""
        self.settings.var.mkdir(parents=True, exist_ok=True)
        finished = threading.Event()

        def touch() -> None:
            while True:
                (self.settings.var / HEARTBEAT_FILE).touch()
                if finished.wait(_HEARTBEAT_INTERVAL_S):
                    return

        thread = threading.Thread(target=touch, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()

    def _log_once(self, sentence: str) -> None:
        """Log `sentence` unless it is the last one logged."""
        if sentence != self._last_logged:
            self._last_logged = sentence
            log.info("%s", sentence)


@contextmanager
def open_retrainer(settings: Settings, params: Mapping[str, Any], stop: threading.Event) -> Iterator[Retrainer]:
    """A retrainer on the store and the registry of `settings`; its connection to the store ends with the block.

    Raises:
        TwinError: a parameter is invalid, or no store is configured.
        psycopg2.Error: the store is unavailable.
    """
    if settings.telemetry_dsn is None:
        raise TwinError("No telemetry store is configured.", field="telemetry_dsn")
    policy = RetrainParams.of(params)
    rollback = RollbackParams.of(params)
    drift = DriftParams.of(params)
    SnapshotParams.of(params)  # reported before a training begins
    dsn = settings.telemetry_dsn.get_secret_value()
    migrate(dsn)
    records = RetrainStore(dsn, settings.domain, current_user())
    try:
        registry = RegistryStore.open(settings, settings.domain)
        yield Retrainer(settings, params, policy, rollback, drift, records, registry, stop)
    finally:
        records.close()
