"""The one place that says who predicts now; it follows the registry."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.garbage_collection import settle
from serving.predictor import Predictor
from serving.scorer import Scorer
from serving.service_metrics import Reason, ReleaseMetrics
from telemetry.errors import TwinError
from telemetry.settings import Settings
from training.challengers import challenger_versions, load_challengers
from training.last_release import recall_release, remember_release
from training.mlflow_client import connect
from training.release import CHAMPION, LoadedRelease, load_release, release_version, twin_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 60.0


class Champion:
    """Holds the scorer of `<domain>-twin@champion`, or the reason why there is none.

    Whoever answers reads `scorer` once and answers from what it got; replacing it is one assignment.  What
    cannot be loaded leaves the present scorer where it is, counts, and is tried again.

    Attributes:
        problem: why there is no scorer, in a sentence for the client.
    """

    def __init__(self, settings: Settings, metrics: ReleaseMetrics) -> None:
        self.scorer: Scorer | None = None
        self.problem = "the champion release is being loaded: try again in some seconds"
        self._settings = settings
        self._metrics = metrics
        self._client: MlflowClient | None = None
        self._retries: dict[Reason, _Retry] = {"release": _Retry(), "challenger": _Retry()}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="champion", daemon=True)

    def refresh(self) -> None:
        """Look at the registry once and take over what has changed; never raises."""
        try:
            version, challengers = self._look()
        except Exception as error:  # noqa: BLE001 - whatever a registry does, serving goes on
            self._failed("registry", error)
            if self.scorer is None:
                self._recall()
            return
        self._metrics.succeeded("registry")
        champion = self._champion(version)
        if champion is not None:
            self._serve(champion, self._challenger(champion, challengers))
        elif version is not None:
            self._recall()

    def follow(self) -> None:
        """Refresh every `registry_poll_s` in a thread of its own, until `stop`."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Stop following; a registry that does not answer is waited for no longer than `timeout_s`."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _follow(self) -> None:
        while not self._stopping.wait(self._settings.registry_poll_s):
            self.refresh()

    def _look(self) -> tuple[int | None, Mapping[str, int]]:
        if self._client is None:
            # A new champion would wait long after an outage.
            self._client = connect(self._settings, patient=False)
        domain = self._settings.domain
        challengers = challenger_versions(self._client, domain) if self._settings.shadow else {}
        return release_version(self._client, domain), challengers

    def _champion(self, version: int | None) -> Predictor | None:
        """The champion's predictor: the present one unless the alias points to another that can be loaded."""
        present = None if self.scorer is None else self.scorer.champion
        retry = self._retries["release"]
        if version is None:
            if present is None:
                name = twin_name(self._settings.domain)
                self.problem = (
                    f"the registry has no release {name}@{CHAMPION}; run `dvc repro`: it is served when it is there"
                )
            return present
        if present is not None and present.version == version:
            self._metrics.succeeded("release")
            return present
        if not retry.due(version):
            return present
        try:
            loaded = load_release(self._settings.domain, settings=self._settings, client=self._client)
            predictor = _ready(loaded)
            remember_release(loaded, self._settings)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a release, the present one goes on
            retry.failed(version)
            self._failed("release", error)
            return present
        retry.succeeded()
        self._metrics.succeeded("release")
        return predictor

    def _challenger(self, champion: Predictor, versions: Mapping[str, int]) -> Predictor | None:
        """The challengers' predictor; a challenger that is champion already has nothing to add."""
        wanted = {target: version for target, version in versions.items() if champion.versions.get(target) != version}
        present = None if self.scorer is None else self.scorer.challenger
        retry = self._retries["challenger"]
        if not wanted:
            self._metrics.succeeded("challenger")
            return None
        if present is not None and present.versions == wanted:
            return present
        if not retry.due(wanted):
            return None
        try:
            assert self._client is not None  # noqa: S101 - `_look` made it
            predictor = _ready(load_challengers(self._client, self._settings, wanted))
        except Exception as error:  # noqa: BLE001 - a challenger never stands in the way of the champion
            retry.failed(wanted)
            self._failed("challenger", error)
            return None
        retry.succeeded()
        self._metrics.succeeded("challenger")
        return predictor

    def _serve(self, champion: Predictor, challenger: Predictor | None) -> None:
        present = self.scorer
        if present is not None and present.champion is champion and present.challenger is challenger:
            return
        self.scorer = Scorer(champion, challenger)
        del present  # so that what is not used any more is gone before the collector settles
        settle()
        self._metrics.serving(champion, challenger)
        shadows = "" if challenger is None else f", shadowed by {', '.join(challenger.labels)}"
        logger.info("%s answers%s", champion.label, shadows)

    def _recall(self) -> None:
        """Start with what was served from here last; what the registry has follows when it can be had."""
        try:
            loaded = recall_release(self._settings)
            if loaded is not None:
                self._serve(_ready(loaded), None)
        except Exception as error:  # noqa: BLE001 - then there is none until the registry is back
            self._failed("release", error)

    def _failed(self, reason: Reason, error: Exception) -> None:
        sentence = error.sentence if isinstance(error, TwinError) else f"{type(error).__name__}: {error}"
        if self._metrics.failed(reason):  # not again and again while it lasts
            logger.error("%s: %s", _WHAT[reason], sentence, exc_info=not isinstance(error, TwinError))
        if self.scorer is None:
            told = sentence if isinstance(error, TwinError) else "the service's log says why"
            self.problem = f"{_WHAT[reason]}: {told}; the service tries again by itself"


_WHAT: Mapping[Reason, str] = {
    "registry": "the registry cannot be asked for the champion",
    "release": "the champion release cannot be loaded",
    "challenger": "the challengers cannot be loaded",
}


def _ready(loaded: LoadedRelease) -> Predictor:
    predictor = Predictor(loaded)
    predictor.try_out()
    return predictor


@dataclass
class _Retry:
    """When to try again: the same thing after 1, 2, 4, ... 60 s, another one at once."""

    what: object = None
    pause_s: float = 0.0
    not_before: float = 0.0

    def due(self, what: object) -> bool:
        return what != self.what or time.monotonic() >= self.not_before

    def failed(self, what: object) -> None:
        self.pause_s = min(2.0 * self.pause_s, _LONGEST_PAUSE_S) if what == self.what else 1.0
        self.what = what
        self.not_before = time.monotonic() + self.pause_s

    def succeeded(self) -> None:
        self.what = None
