"""What the model registry says, asked now and then in the background, so that a scrape never waits for it."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from features.targets import TARGET_NAMES
from telemetry.settings import Settings
from training.registry.registry_store import RegistryStore

logger = logging.getLogger(__name__)

POLL_S = 15.0


class RegistryUnavailableError(RuntimeError):
    """The registry did not answer."""


@dataclass(frozen=True)
class RegistryState:
    """One answer of the registry.

    Attributes:
        trainings: versions that were ever registered, by target.
        champions, challengers: version by target.
        release: version of the release that serves, None where there is none.
        events: how often something happened, by kind (register, promote, rollback, shadow, outside).
    """

    trainings: Mapping[str, int]
    champions: Mapping[str, int] = field(default_factory=dict)
    challengers: Mapping[str, int] = field(default_factory=dict)
    release: int | None = None
    events: Mapping[str, int] = field(default_factory=dict)


def has_registry(settings: Settings) -> bool:
    """False before anything was ever trained here: whoever only watches does not make the database of it."""
    return settings.mlflow_tracking_uri is not None or (settings.var / "mlflow.db").exists()


class RegistryPoller:
    """Holds the newest answer of the registry.

    Attributes:
        state: None before the first answer.
        is_up: whether the last question was answered.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.state: RegistryState | None = None
        self.is_up = False

    def run(self, stop: threading.Event) -> None:
        """Ask until `stop` is set."""
        while not stop.is_set():
            try:
                self.ask()
            except RegistryUnavailableError as error:
                if self.is_up:
                    logger.warning("the model registry does not answer: %s", error)
                self.is_up = False
            stop.wait(POLL_S)

    def ask(self) -> None:
        """Ask once.

        Raises:
            RegistryUnavailableError: the registry did not answer.
        """
        if not has_registry(self._settings):
            self.state, self.is_up = RegistryState(dict.fromkeys(TARGET_NAMES, 0)), True
            return
        from mlflow.exceptions import MlflowException

        try:
            self.state = self._asked()
        except (MlflowException, OSError) as error:
            raise RegistryUnavailableError(str(error)) from error
        self.is_up = True

    def _asked(self) -> RegistryState:
        store = RegistryStore.open(self._settings, self._settings.domain, fail_fast=True)
        aliases = store.aliases()
        before = {} if self.state is None else self.state.trainings
        return RegistryState(
            # Versions are numbered from 1 on; how many there are goes back when one is deleted.
            trainings={target: max([before.get(target, 0), *store.versions(target)]) for target in TARGET_NAMES},
            champions=aliases.champions,
            challengers=aliases.challengers,
            release=aliases.release,
            events=Counter(event.kind for event in store.events()),
        )
