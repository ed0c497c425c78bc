"""The time after a promotion: the old champion shadows the new one, and comes back where the new one is worse."""

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
    "no outcome of {target} {old} to compare with: the prediction service lets it predict in the shadow where "
    "TWIN_SHADOW is true and it knows the telemetry store"
)

#: How the reason of a rollback begins, by which it is known again.
_WORSE = "release {release} is worse than its predecessor: "

_FEW = "only {} batteries have outcomes of both models; it is compared from {} on"


@dataclass(frozen=True)
class PromotionWatch:
    """Compares each promotion that is watched, once enough came true.

    Attributes:
        by: who the registry's history names.
    """

    records: RetrainStore
    registry: RegistryStore
    params: RollbackParams
    by: str

    def look(self) -> None:
        """Look at every open watch once; only for the holder of the lock."""
        from mlflow.exceptions import MlflowException

        for watched in self.records.watched():
            try:
                self._look(watched)
            except (TwinError, MlflowException) as error:
                lacks = self._lacks(watched)
                if lacks is not None:
                    self._end(watched, "superseded", f"there is nothing to compare it with: {lacks}")
                elif isinstance(error, TwinError):  # what one watch cannot read holds up no training
                    self.records.explain_watch(watched.retrain_id, error.sentence)
                else:
                    raise

    def _look(self, watched: WatchedPromotion) -> None:
        release = self.registry.aliases().release
        if release == watched.release:
            self._keep_shadow(watched)
            self._compare(watched)
        elif release == watched.before and (reason := self._taken_back(watched)) is not None:
            # It was taken back here, and nobody lived to write it down.
            self.records.end_watch(watched.retrain_id, "rolled_back", reason)
        else:
            self._end(watched, "superseded", f"release {release} has taken its place")

    def _taken_back(self, watched: WatchedPromotion) -> str | None:
        """Why this watch has rolled its release back; None where it has not."""
        start = _WORSE.format(release=watched.release)
        reasons = (event.reason for event in reversed(self.registry.events()) if event.kind == "rollback")
        return next((reason.removeprefix(start) for reason in reasons if reason.startswith(start)), None)

    def _lacks(self, watched: WatchedPromotion) -> str | None:
        """What the registry has no more of that the watch needs, in a sentence."""
        try:
            self.registry.require_release(watched.before)
            for target, (_, old) in watched.versions.items():
                self.registry.require_version(target, old)
        except TwinError as error:
            return error.sentence
        return None

    def _keep_shadow(self, watched: WatchedPromotion) -> None:
        """Have what was replaced predict the same moments, also after another training has registered challengers."""
        challengers = self.registry.aliases().challengers
        away = {target: old for target, (_, old) in watched.versions.items() if challengers.get(target) != old}
        for target, old in away.items():
            self.registry.set_challenger(target, old)
        if away:
            names = ", ".join(f"{target} {old}" for target, old in away.items())
            reason = f"retraining {watched.retrain_id}: {names} goes on in the shadow of its successor, to be compared"
            record_event(self.registry, "shadow", by=self.by, reason=reason)

    def _compare(self, watched: WatchedPromotion) -> None:
        has_lasted = self._has_lasted(watched)
        finished = 0
        for target, (new, old) in watched.versions.items():
            last = watched.looks.get(target)
            if last is not None and last >= self.params.max_outcomes:
                finished += 1
                continue
            needed = self.params.next_comparison(last)
            if needed == self.params.max_outcomes and not has_lasted:
                continue  # the last comparison sees a whole day, however many outcomes an hour has
            losses = self.records.paired(target, new, old, watched.since)
            outcomes = sum(one.outcomes for one in losses)
            if not losses and self.records.has_outcomes(target, new, watched.since, self.params.min_outcomes):
                self.records.explain_watch(watched.retrain_id, _NO_SHADOW.format(target=target, old=old))
            if outcomes < needed:
                continue
            if len(losses) < self.params.min_batteries:
                self.records.explain_watch(watched.retrain_id, _FEW.format(len(losses), self.params.min_batteries))
                continue
            found = compare(losses, self.params, len(watched.versions))
            sentence = f"{target} {new}: {found.sentence}"
            log.info("release %d: %s", watched.release, sentence)
            if found.is_worse:
                self._roll_back(watched, sentence)
                return
            seen = outcomes if has_lasted else min(outcomes, self.params.max_outcomes - 1)
            self.records.looked(watched.retrain_id, target, seen, sentence)
            finished += seen >= self.params.max_outcomes
        if finished == len(watched.versions):
            self._end(watched, "passed", f"not worse than its predecessor over {self.params.max_outcomes} outcomes")

    def _has_lasted(self, watched: WatchedPromotion) -> bool:
        """Whether the watch has seen enough of the fleet's time for its last comparison."""
        if self.params.watch_s == 0.0:
            return True
        reached = self.records.clock(self.params.min_batteries)
        if reached is None:
            return False
        if watched.began is None:
            self.records.begin_watch(watched.retrain_id, reached)
            return False
        return reached >= watched.began + timedelta(seconds=self.params.watch_s)

    def _roll_back(self, watched: WatchedPromotion, sentence: str) -> None:
        if self.registry.aliases().release != watched.release:
            return  # somebody was faster; the next look sees it
        self._release_shadow(watched)
        reason = _WORSE.format(release=watched.release) + sentence
        rollback(self.registry, reason=reason, by=self.by, to=watched.before, expected=watched.release)
        self.records.end_watch(watched.retrain_id, "rolled_back", sentence)
        log.warning("release %d is rolled back: %s", watched.release, sentence)

    def _end(self, watched: WatchedPromotion, how: WatchEnd, detail: str) -> None:
        if self._release_shadow(watched):
            record_event(
                self.registry, "shadow", by=self.by, reason=f"release {watched.release} is watched no longer: {detail}"
            )
        self.records.end_watch(watched.retrain_id, how, detail)
        log.info("release %d is watched no longer: %s", watched.release, detail)

    def _release_shadow(self, watched: WatchedPromotion) -> bool:
        """Point `@challenger` at what was registered last again, unless somebody has moved it since."""
        challengers = self.registry.aliases().challengers
        moved = {
            target: new
            for target, (new, old) in watched.versions.items()
            if challengers.get(target) == old and new in self.registry.versions(target)
        }
        for target, new in moved.items():
            self.registry.set_challenger(target, new)
        return bool(moved)
