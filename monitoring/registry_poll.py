"""Polls the model registry in a thread: state for the metrics, and a release for aliases that were moved outside.

A scrape of the metrics never waits for the registry.  One process does it, so that no two of them make a release of the
same alias.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from features.targets import TARGET_NAMES
from telemetry.errors import TwinError
from telemetry.settings import Settings
from training.gate import GateThresholds
from training.registry.promotion import outside_changes, synchronise
from training.registry.registry_store import RegistryStore

logger = logging.getLogger(__name__)

POLL_S = 15.0


class RegistryUnavailableError(RuntimeError):
    """The registry is unavailable."""


@dataclass(frozen=True)
class RegistryState:
    """State of the registry at one poll.

    Attributes:
        trainings: number of versions ever registered, by target.
        champions, challengers: version by target.
        release: version of the release that serves; None without one.
        events: number of events by kind (register, promote, rollback, shadow, outside).
    """

    trainings: Mapping[str, int]
    champions: Mapping[str, int] = field(default_factory=dict)
    challengers: Mapping[str, int] = field(default_factory=dict)
    release: int | None = None
    events: Mapping[str, int] = field(default_factory=dict)


def has_registry(settings: Settings) -> bool:
    """False before the first training here, so that reading does not create MLflow's database."""
    return settings.mlflow_tracking_uri is not None or (settings.var / "mlflow.db").exists()


class RegistryPoller:
    """Holds the latest state of the registry.

    Args:
        gate: thresholds for aliases that were moved outside; None: they are not recorded.

    Attributes:
        state: None before the first successful poll.
        is_up: whether the last poll succeeded.
    """

    def __init__(self, settings: Settings, gate: GateThresholds | None = None) -> None:
        self._settings = settings
        self._gate = gate
        self._outside: list[str] = []
        self.state: RegistryState | None = None
        self.is_up = False

    def run(self, stop: threading.Event) -> None:
        """Poll until `stop` is set."""
        while not stop.is_set():
            try:
                self.poll()
            except RegistryUnavailableError as error:
                if self.is_up:
                    logger.warning("the model registry is unavailable: %s", error)
                self.is_up = False
            stop.wait(POLL_S)

    def poll(self) -> None:
        """Poll once.

        Raises:
            RegistryUnavailableError: the registry is unavailable.
        """
        if not has_registry(self._settings):
            self.state, self.is_up = RegistryState(dict.fromkeys(TARGET_NAMES, 0)), True
            return
        from mlflow.exceptions import MlflowException

        try:
            store = RegistryStore.open(self._settings, self._settings.domain, fail_fast=True)
            if self._gate is not None:
                self._record_outside_changes(store, self._gate)
            self.state = self._fetch(store)
        except (MlflowException, OSError, TwinError) as error:
            raise RegistryUnavailableError(str(error)) from error
        self.is_up = True

    def _record_outside_changes(self, store: RegistryStore, gate: GateThresholds) -> None:
        """Record aliases that were moved outside and update the release, if two polls find the same.

        At one poll a registration or promotion may be about to record them itself.
        """
        changes = outside_changes(store)
        if changes and changes == self._outside:
            try:
                event = synchronise(store, gate)
            except TwinError as error:  # e.g. a release whose file is missing
                logger.warning("aliases were moved outside and cannot be recorded: %s", error.sentence)
            else:
                if event is not None:
                    logger.warning("%s", "; ".join((event.reason, *event.warnings)))
                changes = []
        self._outside = changes

    def _fetch(self, store: RegistryStore) -> RegistryState:
        aliases = store.aliases()
        previous = {} if self.state is None else self.state.trainings
        return RegistryState(
            # Version numbers only grow; the number of existing versions drops when one is deleted.
            trainings={target: max([previous.get(target, 0), *store.versions(target)]) for target in TARGET_NAMES},
            champions=aliases.champions,
            challengers=aliases.challengers,
            release=aliases.release,
            events=Counter(event.kind for event in store.events()),
        )
