"""Whether a training has promoted anything, as the registry tells: it knows also where a training broke off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from retraining.retrain_store import RetrainStore
from training.registry.promotion import versions_in_release
from training.registry.registry_store import RegistryStore

#: Of a model version: the number of the training that registered it.
TAG = "retrain"


@dataclass(frozen=True)
class Promotion:
    """A release that a training brought about.

    Attributes:
        before: the release in whose place it came; None where there was none.
        watched: by target, the promoted version and the one that it replaced; empty where it replaced none.
    """

    release: int
    before: int | None
    watched: Mapping[str, tuple[int, int]]


def promotion_in(registry: RegistryStore, release: int | None, is_ours: Callable[[str, int], bool]) -> Promotion | None:
    """What `release` brought in, if anything of it is a training's own.

    Args:
        release: that serves; None for none.
        is_ours: whether a version of a target is the training's.
    """
    if release is None:
        return None
    before = registry.previous_release(release)
    former = {} if before is None else versions_in_release(registry, before)
    brought = {
        target: version
        for target, version in versions_in_release(registry, release).items()
        if former.get(target) != version and is_ours(target, version)
    }
    if not brought:
        return None
    watched = {target: (version, former[target]) for target, version in brought.items() if target in former}
    return Promotion(release, before, watched)


def settle(
    records: RetrainStore, registry: RegistryStore, retrain_id: int, outcome: Literal["failed", "stopped"], error: str
) -> Promotion | None:
    """End the record of a training that broke off; what it had promoted by then serves, and is watched.

    Args:
        outcome: unless it had promoted something.

    Raises:
        MlflowException: the registry did not answer; the record stays open, as with the other errors.
        TwinError: a release could not be read.
        psycopg2.Error: the store did not answer.
    """
    release = registry.aliases().release
    promotion = promotion_in(
        registry, release, lambda target, version: registry.tags(target, version).get(TAG) == str(retrain_id)
    )
    made = next((event.kind for event in registry.events() if event.after.release == release), None)
    if promotion is None or made == "promote":  # by somebody who chose it, and answers for it
        records.end(retrain_id, outcome, error=error)
        return None
    records.end(
        retrain_id,
        "promoted",
        error=error,
        release=promotion.release,
        before=promotion.before,
        watched=promotion.watched,
    )
    return promotion
