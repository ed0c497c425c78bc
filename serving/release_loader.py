"""Loads the champion release and its challengers from the model registry and follows their changes."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serving.predictor import Predictor
from serving.scorer import Scorer
from serving.service_metrics import FailureReason, ReleaseMetrics
from telemetry.backoff import backoff
from telemetry.errors import TwinError
from telemetry.settings import Settings
from training.challengers import challenger_versions, load_challengers
from training.last_release import load_last_release, save_last_release
from training.mlflow_client import connect
from training.release import LoadedRelease, load_release, missing_release, release_version

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

_MIN_BACKOFF_S, _MAX_BACKOFF_S = 1.0, 60.0
#: Rare garbage collections, without the loaded models: scanning them added up to 300 ms to requests.
_GC_THRESHOLDS = (50_000, 50, 100)


class ReleaseLoader:
    """Holds the scorer of `<domain>-twin@champion`, or the reason why there is none.

    A consumer reads `scorer` once for each request or batch; the scorer is replaced by one assignment.  After a
    failed load the present scorer stays in use, the failure is counted, and loading is retried with backoff.

    Attributes:
        problem: why there is no scorer, as an error message for clients.
    """

    def __init__(self, settings: Settings, metrics: ReleaseMetrics) -> None:
        self.scorer: Scorer | None = None
        self.problem = "the champion release is being loaded: try again in a few seconds"
        self._settings = settings
        self._metrics = metrics
        self._client: MlflowClient | None = None
        # False once the registry lacked the release: created anew, it may give its number to another one.
        self._is_confirmed = True
        self._retries: dict[FailureReason, _Retry] = {"release": _Retry(), "challenger": _Retry()}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="release-loader", daemon=True)

    def refresh(self) -> None:
        """Read the registry once and load what has changed; never raises."""
        try:
            version, challengers = self._read_registry()
        except Exception as error:  # noqa: BLE001 - no registry error may stop serving
            self._record_failure("registry", error)
            if self.scorer is None:
                self._load_last_release()
            return
        self._metrics.record_success("registry")
        champion = self._champion(version)
        if champion is not None:
            self._replace_scorer(champion, self._challenger(champion, challengers))
        else:
            self._load_last_release()

    def follow(self) -> None:
        """Call `refresh` every `registry_poll_s` in a thread, until `stop`; call it after all imports and loading."""
        _freeze_loaded_objects()
        gc.set_threshold(*_GC_THRESHOLDS)
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Stop following; waits at most `timeout_s` for a registry call in progress."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _poll(self) -> None:
        while not self._stopping.wait(self._settings.registry_poll_s):
            self.refresh()

    def _read_registry(self) -> tuple[int | None, Mapping[str, int]]:
        if self._client is None:
            # MLflow's own retries would delay a new champion long after an outage.
            self._client = connect(self._settings, fail_fast=True)
        domain = self._settings.domain
        challengers = challenger_versions(self._client, domain) if self._settings.shadow else {}
        return release_version(self._client, domain), challengers

    def _champion(self, version: int | None) -> Predictor | None:
        """The champion's predictor: the present one unless the alias points to another that can be loaded."""
        present = None if self.scorer is None else self.scorer.champion
        retry = self._retries["release"]
        if version is None:
            missing = missing_release(self._settings.domain)
            self._is_confirmed = False
            if present is None:
                self.problem = f"{missing.sentence}; the service loads it once it is there"
            else:
                self._record_failure("release", missing)
            return present
        if present is not None and present.version == version and self._is_confirmed:
            self._metrics.record_success("release")
            return present
        if not retry.due(version):
            return present
        try:
            loaded = load_release(self._settings.domain, settings=self._settings, client=self._client)
            predictor = _tested_predictor(loaded)
            save_last_release(loaded, self._settings)
        except Exception as error:  # noqa: BLE001 - with any fault in the new release, the present one stays in use
            retry.failed(version)
            self._record_failure("release", error)
            return present
        retry.succeeded()
        self._is_confirmed = True
        self._metrics.record_success("release")
        return predictor

    def _challenger(self, champion: Predictor, versions: Mapping[str, int]) -> Predictor | None:
        """The predictor of the challengers; versions that the champion already has are left out."""
        wanted = {target: version for target, version in versions.items() if champion.versions.get(target) != version}
        present = None if self.scorer is None else self.scorer.challenger
        retry = self._retries["challenger"]
        if not wanted:
            self._metrics.record_success("challenger")
            return None
        if present is not None and present.versions == wanted:
            return present
        if not retry.due(wanted):
            return None
        try:
            assert self._client is not None  # noqa: S101 - set by `_read_registry`
            predictor = _tested_predictor(load_challengers(self._client, self._settings, wanted))
        except Exception as error:  # noqa: BLE001 - a faulty challenger must not affect the champion
            retry.failed(wanted)
            self._record_failure("challenger", error)
            return None
        retry.succeeded()
        self._metrics.record_success("challenger")
        return predictor

    def _replace_scorer(self, champion: Predictor, challenger: Predictor | None) -> None:
        present = self.scorer
        if present is not None and present.champion is champion and present.challenger is challenger:
            return
        self.scorer = Scorer(champion, challenger)
        del present  # the old models have to be freed before the loaded objects are frozen
        _freeze_loaded_objects()
        self._metrics.record_versions(champion, challenger)
        shadows = "" if challenger is None else f", challengers {', '.join(challenger.labels)}"
        logger.info("serving %s%s", champion.label, shadows)

    def _load_last_release(self) -> None:
        """Serve the release that was last served from this machine, until the registry has one that can be loaded."""
        try:
            loaded = load_last_release(self._settings)
            if loaded is not None:
                self._is_confirmed = False
                self._replace_scorer(_tested_predictor(loaded), None)
        except Exception as error:  # noqa: BLE001 - without it there is no scorer until the registry is available
            self._record_failure("release", error)

    def _record_failure(self, reason: FailureReason, error: Exception) -> None:
        message = error.sentence if isinstance(error, TwinError) else f"{type(error).__name__}: {error}"
        if self._metrics.record_failure(reason):  # logged once for each outage
            logger.error("%s: %s", _FAILURE_MESSAGES[reason], message, exc_info=not isinstance(error, TwinError))
        if self.scorer is None:
            public = message if isinstance(error, TwinError) else "the service log has the details"
            self.problem = f"{_FAILURE_MESSAGES[reason]}: {public}; the service retries automatically"


_FAILURE_MESSAGES: Mapping[FailureReason, str] = {
    "registry": "the model registry is unavailable",
    "release": "the champion release cannot be loaded",
    "challenger": "the challengers cannot be loaded",
}


def _freeze_loaded_objects() -> None:
    """Exclude all present objects from later garbage collections; a repeated call is fast if little was added."""
    gc.collect()
    gc.freeze()


def _tested_predictor(loaded: LoadedRelease) -> Predictor:
    predictor = Predictor(loaded)
    predictor.smoke_test()
    return predictor


@dataclass
class _Retry:
    """Exponential backoff for loading one item: 1, 2, 4, ... 60 s; another item is due at once."""

    item: object = None
    pauses_s: Iterator[float] = field(default_factory=lambda: backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S))
    not_before: float = 0.0

    def due(self, item: object) -> bool:
        return item != self.item or time.monotonic() >= self.not_before

    def failed(self, item: object) -> None:
        if item != self.item:
            self.item, self.pauses_s = item, backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
        self.not_before = time.monotonic() + next(self.pauses_s)

    def succeeded(self) -> None:
        self.item = None
