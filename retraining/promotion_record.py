"""Finds the promotion that belongs to a training in the registry, also for a training that was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from retraining.retrain_store import RetrainStore
from training.registry.promotion import versions_in_release
from training.registry.registry_store import RegistryStore

#: Tag of a model version: id of the retraining that registered it.
RETRAIN_TAG = "retrain"


@dataclass(frozen=True)
class Promotion:
    """A release that a training promoted.

    Attributes:
        previous: the release that it replaced; None if there was none.
        watched: by target, the promoted version and the one that it replaced; empty if it replaced none.
    """

    release: int
    previous: int | None
    watched: Mapping[str, tuple[int, int]]


def promotion_of(
    registry: RegistryStore, release: int | None, is_from_training: Callable[[str, int], bool]
) -> Promotion | None:
    """The promotion of a training's models by `release`; None if it serves no new model of that training.

    Args:
        release: the release that serves; None for none.
        is_from_training: whether a version of a target was registered by the training.
    """
    if release is None:
        return None
    previous = registry.previous_release(release)
    former = {} if previous is None else versions_in_release(registry, previous)
    promoted = {
        target: version
        for target, version in versions_in_release(registry, release).items()
        if former.get(target) != version and is_from_training(target, version)
    }
    if not promoted:
        return None
    watched = {target: (version, former[target]) for target, version in promoted.items() if target in former}
    return Promotion(release, previous, watched)


def close_record(
    records: RetrainStore, registry: RegistryStore, retrain_id: int, outcome: Literal["failed", "stopped"], error: str
) -> Promotion | None:
    """Close the record of an interrupted training; if it had promoted a model, the promotion is monitored.

    Args:
        outcome: recorded unless it had promoted something.

    Raises:
        MlflowException: the registry failed; the record stays open, as with the other errors.
        TwinError: a release could not be read.
        psycopg2.Error: the store failed.
    """
    release = registry.aliases().release
    promotion = promotion_of(
        registry, release, lambda target, version: registry.tags(target, version).get(RETRAIN_TAG) == str(retrain_id)
    )
    kind = next((event.kind for event in registry.events() if event.after.release == release), None)
    if promotion is None or kind == "promote":  # promoted manually, not by the training
        records.finish(retrain_id, outcome, error=error)
        return None
    records.finish(
        retrain_id,
        "promoted",
        error=error,
        release=promotion.release,
        previous=promotion.previous,
        watched=promotion.watched,
    )
    return promotion
