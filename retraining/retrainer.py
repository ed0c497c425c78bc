"""The retrainer: looks at drift and at watched promotions, trains, promotes or rolls back."""

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
from retraining.promotion_record import settle
from retraining.promotion_watch import PromotionWatch
from retraining.retrain_store import RetrainStore
from retraining.training_run import TrainingResult, TrainingRun
from retraining.trigger import RetrainParams, decide
from telemetry.errors import TwinError
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from telemetry.stores.snapshot import SnapshotParams
from training.params import parse_section, read_json
from training.registry.promotion import current_user
from training.registry.registry_store import RegistryStore
from training.splits import MIN_BATTERIES_FOR_GATE

log = logging.getLogger(__name__)

#: In `var`; younger than half a minute while this runs.
HEARTBEAT_FILE = "retrain.alive"
_HEARTBEAT_INTERVAL_S = 10.0
_RETRY_S = 10.0


@dataclass
class Retrainer:
    """Looks at what drifts and at what was promoted, and does what follows.

    Attributes:
        params: content of `params.yaml`, and its sections as they are used here.
        stop: set to end; a training that is under way is given up.
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
    _learned_from: dict[tuple[str, int], frozenset[str]] = field(default_factory=dict)

    def run(self, interval_s: float) -> None:
        """Look every `interval_s` until `stop` is set; a store or a registry that is away is waited for."""
        from mlflow.exceptions import MlflowException

        with self._heartbeat():
            while not self.stop.is_set():
                try:
                    self.look()
                except (psycopg2.Error, MlflowException, OSError, TwinError) as error:
                    log.warning("could not look: %s: %s", type(error).__name__, str(error).strip().partition("\n")[0])
                    self.stop.wait(_RETRY_S)
                else:
                    self.stop.wait(interval_s)

    def look(self, reason: str | None = None) -> TrainingResult | None:
        """Look once: compare what is watched, and train where a drift asks for it, or a `reason` is given.

        Returns:
            What a training came to; None where there was none.

        Raises:
            psycopg2.Error: the telemetry store did not answer.
            MlflowException: the registry did not answer.
        """
        if not self.records.try_lock():
            holder = self.records.holder() or "somebody"
            self._log_once(f"not now: {holder} is at work")
            return None
        try:
            for retrain_id, error in self.records.abandoned():
                promotion = settle(self.records, self.registry, retrain_id, "failed", error)
                had = "nothing" if promotion is None else f"release {promotion.release}"
                log.warning("retraining %d is gone, and had promoted %s: %s", retrain_id, had, error)
            by = f"{current_user()} on {platform.node()}"
            watch = PromotionWatch(self.records, self.registry, self.rollback, by)
            watch.look()
            drifts = self.records.drifts()
            champions = self.registry.aliases().champions if drifts else {}
            decision = decide(
                drifts,
                champions,
                self.records.past(),
                datetime.now(UTC),
                self.policy,
                lambda target: self._gate_obstacle(target, champions[target]),
            )
            self._log_once(decision.reason)
            if reason is None and not decision.drifts:
                return None
            attempt = TrainingRun(
                self.settings, self.params, self.policy, self.drift, self.records, self.registry, by, self.stop.is_set
            )
            done = attempt.train(decision.reason, decision.drifts) if reason is None else attempt.train(reason, ())
            if self.records.holds_lock():
                watch.look()  # what was replaced predicts in the shadow from now on
            return done
        finally:
            self.records.unlock()

    def _gate_obstacle(self, target: str, champion: int) -> str | None:
        """Why the gate would refuse whatever is trained: no battery is left that it could be compared on."""
        fleet = self.records.fleet(TARGETS[target].cadence, MIN_BATTERIES_FOR_GATE)
        if not 0 < len(fleet) < MIN_BATTERIES_FOR_GATE:
            return None
        if (target, champion) not in self._learned_from:
            with self.registry.files(target, champion, evaluation=False) as folder:
                self._learned_from[target, champion] = frozenset(read_json(folder / "fit.json")["train_batteries"])
        if not self._learned_from[target, champion].issuperset(fleet):
            return None
        return (
            f"its champion has learned from all {len(fleet)} batteries there are, and of fewer than "
            f"{MIN_BATTERIES_FOR_GATE} none is held out to compare it on; train by hand (`python -m retraining "
            "--reason ...`) and promote with `python -m training.registry promote --force`"
        )

    @contextmanager
    def _heartbeat(self) -> Iterator[None]:
        """Touch a file meanwhile, by whose age others see that this goes on: it has no port to be asked at."""
        self.settings.var.mkdir(parents=True, exist_ok=True)
        ended = threading.Event()

        def touch() -> None:
            while True:
                (self.settings.var / HEARTBEAT_FILE).touch()
                if ended.wait(_HEARTBEAT_INTERVAL_S):
                    return

        thread = threading.Thread(target=touch, name="alive", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _log_once(self, sentence: str) -> None:
        """Once, not at every look."""
        if sentence != self._last_logged:
            self._last_logged = sentence
            log.info("%s", sentence)


@contextmanager
def retraining(settings: Settings, params: Mapping[str, Any], stop: threading.Event) -> Iterator[Retrainer]:
    """A retrainer on the store and the registry of `settings`; its session on the store ends with the block.

    Raises:
        TwinError: a parameter is wrong, or no store is named.
        psycopg2.Error: the store does not answer.
    """
    if settings.telemetry_dsn is None:
        raise TwinError("No telemetry store is named.", field="telemetry_dsn")
    policy = parse_section(RetrainParams, params.get("retrain", {}), "retrain")
    rollback = parse_section(RollbackParams, params.get("rollback", {}), "rollback")
    drift = parse_section(DriftParams, params.get("drift", {}), "drift")
    parse_section(SnapshotParams, params.get("snapshot", {}), "snapshot")  # reported before a training begins
    dsn = settings.telemetry_dsn.get_secret_value()
    migrate(dsn)
    records = RetrainStore(dsn, settings.domain, current_user())
    try:
        registry = RegistryStore.open(settings, settings.domain)
        yield Retrainer(settings, params, policy, rollback, drift, records, registry, stop)
    finally:
        records.close()
