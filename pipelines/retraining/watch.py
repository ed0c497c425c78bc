"""The time after a promotion: the old champion shadows the new one, and comes back where the new one is worse."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pipelines.retraining.comparison import RollbackParams, compare
from pipelines.retraining.records import RetrainStore, Watched, WatchEnd
from training.registry.promotion import record, rollback
from training.registry.store import RegistryStore

log = logging.getLogger(__name__)

_NO_SHADOW = (
    "no outcome of {target} {old} to compare with: the prediction service lets it predict in the shadow where "
    "TWIN_SHADOW is true and it knows the telemetry store"
)

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
        for watched in self.records.watched():
            release = self.registry.aliases().release
            if release == watched.release:
                self._keep_shadow(watched)
                self._compare(watched)
            else:
                self._end(watched, "superseded", f"release {release} has taken its place")

    def _keep_shadow(self, watched: Watched) -> None:
        """Have what was replaced predict the same moments, also after another training has registered challengers."""
        challengers = self.registry.aliases().challengers
        away = {target: old for target, (_, old) in watched.versions.items() if challengers.get(target) != old}
        for target, old in away.items():
            self.registry.set_challenger(target, old)
        if away:
            names = ", ".join(f"{target} {old}" for target, old in away.items())
            reason = f"retraining {watched.retrain_id}: {names} goes on in the shadow of its successor, to be compared"
            record(self.registry, "shadow", by=self.by, reason=reason)

    def _compare(self, watched: Watched) -> None:
        finished = 0
        for target, (new, old) in watched.versions.items():
            losses = self.records.paired(target, new, old, watched.since)
            outcomes, last = sum(one.outcomes for one in losses), watched.looks.get(target)
            if not losses and self.records.has_outcomes(target, new, watched.since, self.params.min_outcomes):
                self.records.explain_watch(watched.retrain_id, _NO_SHADOW.format(target=target, old=old))
            if outcomes < self.params.next_look(last):
                continue
            if len(losses) < self.params.min_batteries:
                self.records.explain_watch(watched.retrain_id, _FEW.format(len(losses), self.params.min_batteries))
                continue
            if last is None or last < self.params.max_outcomes:
                found = compare(losses, self.params, len(watched.versions))
                sentence = f"{target} {new}: {found.sentence}"
                log.info("release %d: %s", watched.release, sentence)
                self.records.looked(watched.retrain_id, target, outcomes, sentence)
                if found.is_worse:
                    self._roll_back(watched, sentence)
                    return
            finished += outcomes >= self.params.max_outcomes
        if finished == len(watched.versions):
            self._end(watched, "passed", f"not worse than its predecessor over {self.params.max_outcomes} outcomes")

    def _roll_back(self, watched: Watched, sentence: str) -> None:
        self._release_shadow(watched)
        rollback(self.registry, reason=f"worse than its predecessor: {sentence}", by=self.by, to=watched.before)
        self.records.end_watch(watched.retrain_id, "rolled_back", sentence)
        log.warning("release %d is rolled back: %s", watched.release, sentence)

    def _end(self, watched: Watched, how: WatchEnd, detail: str) -> None:
        if self._release_shadow(watched):
            record(
                self.registry, "shadow", by=self.by, reason=f"release {watched.release} is watched no longer: {detail}"
            )
        self.records.end_watch(watched.retrain_id, how, detail)
        log.info("release %d is watched no longer: %s", watched.release, detail)

    def _release_shadow(self, watched: Watched) -> bool:
        """Point `@challenger` at what was registered last again, unless somebody has moved it since."""
        challengers = self.registry.aliases().challengers
        moved = [target for target, (_, old) in watched.versions.items() if challengers.get(target) == old]
        for target in moved:
            self.registry.set_challenger(target, watched.versions[target][0])
        return bool(moved)
