"""Access of the models page to the model registry through a worker process, because importing MLflow takes seconds."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from features.targets import TARGET_NAMES
from telemetry.errors import TwinError
from telemetry.settings import Settings
from training.registry.events import RegisteredVersion

if TYPE_CHECKING:
    from training.gate import GateThresholds
    from training.registry.registry_store import RegistryStore

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True)
class VersionView:
    """One registered model version, with its entry of `reports/metrics.json` at registration."""

    target: str
    version: int
    evaluation: Mapping[str, Any]


@dataclass(frozen=True)
class EventView:
    """One event of the registry's history: registration, promotion or rollback."""

    time: str
    kind: str
    by: str
    reason: str
    release: int | None
    champions: Mapping[str, int]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ModelsView:
    """Champions, challengers and history of the model registry.

    Attributes:
        release: release that is champion, None if there is none.
        previous: release that a rollback restores, None if there is none.
        previous_problem: why that release cannot be restored (it was deleted), None if it can.
        versions: by target, all versions with the gate's verdicts, oldest first; each can be promoted.
        not_recorded: aliases that were moved outside and are not in the history yet, one text each.
        unavailable: by target, why the newest training has no model of it.
    """

    domain: str
    release: int | None
    previous: int | None
    champions: Mapping[str, VersionView]
    challengers: Mapping[str, VersionView]
    events: tuple[EventView, ...]
    versions: Mapping[str, tuple[RegisteredVersion, ...]] = field(default_factory=dict)
    not_recorded: tuple[str, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)
    previous_problem: str | None = None


class RegistryError(TwinError):
    """The registry is unavailable, or refused a change.

    Args:
        status: HTTP status for it: 404 unknown version, 409 another release is champion, 503 unavailable, 422 other.
    """

    def __init__(
        self, sentence: str, *, status: int = 503, field: str | None = "registry", value: object = None
    ) -> None:
        super().__init__(sentence, field=field, value=value)
        self.status = status


#: HTTP status of an error of the registry, by its field.
_STATUS = {"release": 409, "version": 404, "mlflow_tracking_uri": 503}


class RegistryProcess:
    """Reads the registry, promotes and rolls back in one worker process, one call at a time.

    Args:
        params: file with the thresholds of the promotion gate.
    """

    def __init__(self, settings: Settings, params: Path) -> None:
        self._settings = settings
        self._params = params
        self._pool: ProcessPoolExecutor | None = None
        # Registered versions never change; with this cache reads are short, so that a promotion does not wait for them.
        self._cached_versions: Mapping[tuple[str, int], VersionView] = {}

    async def view(self) -> ModelsView:
        """Read the registry.

        Raises:
            TwinError: the registry is unavailable.
        """
        view = await self._run(_view, self._settings, self._cached_versions)
        versions = (*view.champions.values(), *view.challengers.values())
        self._cached_versions = {(version.target, version.version): version for version in versions}
        return view

    async def promote(
        self, versions: Mapping[str, int], *, reason: str, by: str, expected: int | None = None
    ) -> list[str]:
        """Promote those of `versions` (by target) that pass the gate; returns messages about the outcome.

        Args:
            expected: release that the page showed as champion.

        Raises:
            TwinError: a version does not exist, `expected` is not champion, the reason is empty, or the registry is
                unavailable.
        """
        return await self._run(_promote, self._settings, self._params, dict(versions), _reason(reason), by, expected)

    async def rollback(self, *, reason: str, by: str, expected: int | None = None) -> list[str]:
        """Restore the release before the current one; returns messages about the outcome.

        Args:
            expected: release that the page showed as champion.

        Raises:
            TwinError: there is no previous release, `expected` is not champion, the reason is empty, or the registry is
                unavailable.
        """
        return await self._run(_rollback, self._settings, self._params, _reason(reason), by, expected)

    def close(self) -> None:
        """Shut the worker process down."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    async def _run(self, work: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
        if self._pool is None:
            # Spawned, not forked: this process has threads.
            self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        try:
            future = self._pool.submit(_call_worker, work, *arguments, **named)
            result, problem = await asyncio.wrap_future(future)
        except BrokenProcessPool:
            self.close()
            raise RegistryError("The worker process for the model registry ended unexpectedly; try again.") from None
        if problem is not None:
            raise RegistryError(**problem)
        return result  # type: ignore[no-any-return]


def _reason(text: str) -> str:
    if not text.strip():
        raise RegistryError("A reason is required: it is recorded in the history.", status=422, field="reason")
    return text.strip()


def _call_worker(work: Callable[..., Any], *arguments: Any) -> tuple[Any, dict[str, Any] | None]:
    """Result of `work`, or arguments of `RegistryError`: exceptions of MLflow cannot be pickled between processes."""
    from mlflow.exceptions import MlflowException

    try:
        return work(*arguments), None
    except TwinError as error:
        status = _STATUS.get(error.field or "", 422)
        return None, {"sentence": error.sentence, "status": status, "field": error.field, "value": error.value}
    except (MlflowException, OSError) as error:
        return None, {"sentence": f"Model registry unavailable: {type(error).__name__}."}


def _view(settings: Settings, cache: Mapping[tuple[str, int], VersionView]) -> ModelsView:
    from training.registry.promotion import outside_changes, release_problem
    from training.registry.registry_store import RegistryStore

    store = RegistryStore.open(settings, settings.domain, fail_fast=True)
    aliases = store.aliases()

    def views(versions: Mapping[str, int]) -> dict[str, VersionView]:
        return {
            target: cache.get((target, version)) or VersionView(target, version, store.metrics(target, version))
            for target, version in versions.items()
        }

    events = tuple(
        EventView(e.time, e.kind, e.by, e.reason, e.after.release, dict(e.after.champions), e.warnings)
        for e in reversed(store.events())
    )
    previous = None if aliases.release is None else store.previous_release(aliases.release)
    return ModelsView(
        domain=store.domain,
        release=aliases.release,
        previous=previous,
        previous_problem=None if previous is None else release_problem(store, previous),
        champions=views(aliases.champions),
        challengers=views(aliases.challengers),
        events=events,
        versions={target: tuple(found) for target in TARGET_NAMES if (found := store.registered(target))},
        not_recorded=tuple(outside_changes(store)),
        unavailable=store.unavailable(),
    )


def _open(settings: Settings, params: Path) -> tuple[RegistryStore, GateThresholds]:
    """The registry, after aliases that were moved outside have been recorded, and the thresholds of the gate."""
    from training.gate import required_gate
    from training.registry.promotion import synchronise
    from training.registry.registry_store import RegistryStore

    gate = required_gate(params)
    store = RegistryStore.open(settings, settings.domain)
    synchronise(store, gate)
    return store, gate


def _promote(
    settings: Settings, params: Path, versions: Mapping[str, int], reason: str, by: str, expected: int | None
) -> list[str]:
    from training.registry.promotion import promote

    store, gate = _open(settings, params)
    outcome = promote(store, gate, versions, reason=reason, by=by, expected=expected)
    messages = [
        f"{name} version {outcome.versions[name]} {verdict.sentence}" for name, verdict in outcome.verdicts.items()
    ]
    if outcome.event is not None:
        return [f"Release {outcome.event.after.release} is champion.", *messages]
    return ["Nothing was promoted.", *(messages or ["Every version named is already champion."])]


def _rollback(settings: Settings, params: Path, reason: str, by: str, expected: int | None) -> list[str]:
    from training.registry.promotion import rollback

    store, _ = _open(settings, params)
    event = rollback(store, reason=reason, by=by, expected=expected)
    return [f"Release {event.after.release} is champion again."]
