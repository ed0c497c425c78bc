"""Monitors a promotion: compares the new champion with its predecessor in the shadow and rolls back if it is worse."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta

from retraining.champion_comparison import RollbackParams, compare
from retraining.retrain_store import RetrainStore, WatchedPromotion, WatchEnd
from telemetry.errors import TwinError
from training.registry.promotion import record_event, rollback
from training.registry.registry_store import RegistryStore

log = logging.getLogger(__name__)

_NO_SHADOW = (
    "no outcome of {target} {old} to compare with: the prediction service shadows it only with TWIN_SHADOW=true and "
    "TWIN_TELEMETRY_DSN set"
)

#: Start of the reason of a rollback, by which it is recognized in the registry's history.
_WORSE = "release {release} is worse than its predecessor: "

_FEW = "only {} batteries have outcomes of both models; at least {} are needed"


@dataclass(frozen=True)
class PromotionMonitor:
    """Compares each monitored promotion with its predecessor once enough labels have matured.

    Attributes:
        by: author of events in the registry's history.
    """

    records: RetrainStore
    registry: RegistryStore
    params: RollbackParams
    by: str

    def run_once(self) -> None:
        """Check every monitored promotion once; requires the advisory lock."""
        from mlflow.exceptions import MlflowException

        for watched in self.records.watched_promotions():
            try:
                self._check(watched)
            except (TwinError, MlflowException) as error:
                missing = self._missing_predecessor(watched)
                if missing is not None:
                    self._finish(watched, "superseded", f"there is nothing to compare it with: {missing}")
                elif isinstance(error, TwinError):  # must not block trainings
                    self.records.set_watch_detail(watched.retrain_id, error.sentence)
                else:
                    raise

    def _check(self, watched: WatchedPromotion) -> None:
        release = self.registry.aliases().release
        if release == watched.release:
            self._ensure_shadow(watched)
            self._compare(watched)
        elif release == watched.previous and (reason := self._rollback_reason(watched)) is not None:
            # The rollback was done here, but the process ended before it was recorded.
            self.records.end_watch(watched.retrain_id, "rolled_back", reason)
        else:
            self._finish(watched, "superseded", f"release {release} has replaced it")

    def _rollback_reason(self, watched: WatchedPromotion) -> str | None:
        """Reason of the rollback of the release in the registry's history; None without one."""
        start = _WORSE.format(release=watched.release)
        reasons = (event.reason for event in reversed(self.registry.events()) if event.kind == "rollback")
        return next((reason.removeprefix(start) for reason in reasons if reason.startswith(start)), None)

    def _missing_predecessor(self, watched: WatchedPromotion) -> str | None:
        """Sentence on the previous release or version that the registry no longer has; None if complete."""
        try:
            self.registry.require_release(watched.previous)
            for target, (_, old) in watched.versions.items():
                self.registry.require_version(target, old)
        except TwinError as error:
            return error.sentence
        return None

    def _ensure_shadow(self, watched: WatchedPromotion) -> None:
        """Point `@challenger` at the replaced versions, also after another training has registered challengers."""
        challengers = self.registry.aliases().challengers
        moved = {target: old for target, (_, old) in watched.versions.items() if challengers.get(target) != old}
        for target, old in moved.items():
            self.registry.set_challenger(target, old)
        if moved:
            names = ", ".join(f"{target} {old}" for target, old in moved.items())
            reason = f"retraining {watched.retrain_id}: {names} stays challenger to be compared with its successor"
            record_event(self.registry, "shadow", by=self.by, reason=reason)

    def _compare(self, watched: WatchedPromotion) -> None:
        duration_passed = self._duration_passed(watched)
        finished = 0
        for target, (new, old) in watched.versions.items():
            last = watched.compared_outcomes.get(target)
            if last is not None and last >= self.params.max_outcomes:
                finished += 1
                continue
            needed = self.params.next_comparison(last)
            if needed == self.params.max_outcomes and not duration_passed:
                continue  # the last comparison covers a whole day, however many outcomes an hour has
            losses = self.records.paired_losses(target, new, old, watched.since)
            outcomes = sum(loss.outcomes for loss in losses)
            if not losses and self.records.has_outcomes(target, new, watched.since, self.params.min_outcomes):
                self.records.set_watch_detail(watched.retrain_id, _NO_SHADOW.format(target=target, old=old))
            if outcomes < needed:
                continue
            if len(losses) < self.params.min_batteries:
                self.records.set_watch_detail(watched.retrain_id, _FEW.format(len(losses), self.params.min_batteries))
                continue
            comparison = compare(losses, self.params, len(watched.versions))
            sentence = f"{target} {new}: {comparison.sentence}"
            log.info("release %d: %s", watched.release, sentence)
            if comparison.is_worse:
                self._roll_back(watched, sentence)
                return
            compared = outcomes if duration_passed else min(outcomes, self.params.max_outcomes - 1)
            self.records.record_comparison(watched.retrain_id, target, compared, sentence)
            finished += compared >= self.params.max_outcomes
        if finished == len(watched.versions):
            self._finish(watched, "passed", f"not worse than its predecessor over {self.params.max_outcomes} outcomes")

    def _duration_passed(self, watched: WatchedPromotion) -> bool:
        """Whether `watch_s` of event time has passed, as the last comparison requires."""
        if self.params.watch_s == 0.0:
            return True
        watermark = self.records.watermark(self.params.min_batteries)
        if watermark is None:
            return False
        if watched.started is None:
            self.records.start_watch(watched.retrain_id, watermark)
            return False
        return watermark >= watched.started + timedelta(seconds=self.params.watch_s)

    def _roll_back(self, watched: WatchedPromotion, sentence: str) -> None:
        if self.registry.aliases().release != watched.release:
            return  # the release was changed meanwhile; the next run handles it
        self._restore_challengers(watched)
        reason = _WORSE.format(release=watched.release) + sentence
        rollback(self.registry, reason=reason, by=self.by, to=watched.previous, expected=watched.release)
        self.records.end_watch(watched.retrain_id, "rolled_back", sentence)
        log.warning("release %d is rolled back: %s", watched.release, sentence)

    def _finish(self, watched: WatchedPromotion, state: WatchEnd, detail: str) -> None:
        if self._restore_challengers(watched):
            reason = f"monitoring of release {watched.release} has ended: {detail}"
            record_event(self.registry, "shadow", by=self.by, reason=reason)
        self.records.end_watch(watched.retrain_id, state, detail)
        log.info("monitoring of release %d has ended: %s", watched.release, detail)

    def _restore_challengers(self, watched: WatchedPromotion) -> bool:
        """Point `@challenger` at the promoted versions again, unless it was moved since."""
        challengers = self.registry.aliases().challengers
        moved = {
            target: new
            for target, (new, old) in watched.versions.items()
            if challengers.get(target) == old and new in self.registry.versions(target)
        }
        for target, new in moved.items():
            self.registry.set_challenger(target, new)
        return bool(moved)
