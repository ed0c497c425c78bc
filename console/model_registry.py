"""What the models page asks of the registry, in a process of its own: MLflow loads for seconds and holds the core."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import yaml

from telemetry.errors import TwinError
from telemetry.settings import Settings

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True)
class VersionView:
    """One version of a model: its entry in `reports/metrics.json` when it was registered."""

    target: str
    version: int
    evaluation: Mapping[str, Any]


@dataclass(frozen=True)
class EventView:
    """One line of the registry's history."""

    time: str
    kind: str
    by: str
    reason: str
    release: int | None
    champions: Mapping[str, int]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ModelsView:
    """Who serves and who would like to.

    Attributes:
        release: the one that serves, None where none does.
        previous: the one that a rollback restores, None where there is none.
    """

    domain: str
    release: int | None
    previous: int | None
    champions: Mapping[str, VersionView]
    challengers: Mapping[str, VersionView]
    events: tuple[EventView, ...]


class RegistryProcess:
    """Looks at the registry and moves its champion; one thing after the other.

    Args:
        params: the file with the gate's thresholds.
    """

    def __init__(self, settings: Settings, params: Path) -> None:
        self._settings = settings
        self._params = params
        self._pool: ProcessPoolExecutor | None = None
        # A registered version never changes, and whoever promotes waits behind whoever looks.
        self._known: Mapping[tuple[str, int], VersionView] = {}

    async def view(self) -> ModelsView:
        """The registry now.

        Raises:
            TwinError: it cannot be read.
        """
        view = await self._run(_view, self._settings, self._known)
        seen = (*view.champions.values(), *view.challengers.values())
        self._known = {(version.target, version.version): version for version in seen}
        return view

    async def promote(
        self, versions: Mapping[str, int], *, reason: str, by: str, expected: int | None = None
    ) -> list[str]:
        """Put challengers (version by target) forward to the gate; what came of it, in sentences.

        Args:
            expected: the release that was champion when somebody decided this.

        Raises:
            TwinError: one of `versions` is no challenger any more, another release than `expected` is champion, a
                reason is missing, or the registry cannot be reached.
        """
        return await self._run(_promote, self._settings, self._params, dict(versions), _reason(reason), by, expected)

    async def rollback(self, *, reason: str, by: str, expected: int | None = None) -> list[str]:
        """Restore the release that the present one replaced.

        Args:
            expected: the release that was champion when somebody decided this.

        Raises:
            TwinError: there is none, another release than `expected` is champion, a reason is missing, or the registry
                cannot be reached.
        """
        return await self._run(_rollback, self._settings, _reason(reason), by, expected)

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    async def _run(self, work: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
        if self._pool is None:
            # Not forked: this process has threads.
            self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        try:
            future = self._pool.submit(_readable_errors, work, *arguments, **named)
            result, problem = await asyncio.wrap_future(future)
        except BrokenProcessPool:
            self.close()
            raise TwinError("The registry's process ended unexpectedly; try again.", field="registry") from None
        if problem is not None:
            raise TwinError(problem, field="registry")
        return result  # type: ignore[no-any-return]


def _reason(text: str) -> str:
    if not text.strip():
        raise TwinError("A reason is needed: it is kept in the history.", field="reason")
    return text.strip()


def _readable_errors(work: Callable[..., Any], *arguments: Any) -> tuple[Any, str | None]:
    """What `work` gives, or a sentence; exceptions of MLflow do not survive the way between processes."""
    from mlflow.exceptions import MlflowException

    try:
        return work(*arguments), None
    except TwinError as error:
        return None, error.sentence
    except (MlflowException, OSError) as error:
        return None, f"The registry cannot be reached: {type(error).__name__}."


def _view(settings: Settings, known: Mapping[tuple[str, int], VersionView]) -> ModelsView:
    from training.registry.registry_store import RegistryStore

    store = RegistryStore.open(settings, settings.domain, fail_fast=True)
    aliases = store.aliases()

    def views(versions: Mapping[str, int]) -> dict[str, VersionView]:
        return {
            target: known.get((target, version)) or VersionView(target, version, store.metrics(target, version))
            for target, version in versions.items()
        }

    events = tuple(
        EventView(e.time, e.kind, e.by, e.reason, e.after.release, dict(e.after.champions), e.warnings)
        for e in reversed(store.events())
    )
    return ModelsView(
        domain=store.domain,
        release=aliases.release,
        previous=None if aliases.release is None else store.previous_release(aliases.release),
        champions=views(aliases.champions),
        challengers=views(aliases.challengers),
        events=events,
    )


def _promote(
    settings: Settings, params: Path, versions: Mapping[str, int], reason: str, by: str, expected: int | None
) -> list[str]:
    from training.gate import GateThresholds
    from training.registry.promotion import promote, synchronise
    from training.registry.registry_store import RegistryStore

    try:
        section = yaml.safe_load(params.read_text(encoding="utf-8"))["gate"]
    except (OSError, KeyError, TypeError) as error:
        raise TwinError(f"{params} has no section gate, which says who may be promoted.", field="params") from error
    store, gate = RegistryStore.open(settings, settings.domain), GateThresholds.from_params(section)
    synchronise(store, gate)
    challengers = store.aliases().challengers
    for target, version in versions.items():
        if challengers.get(target) != version:
            raise TwinError(
                f"Version {version} of {target} is no longer the challenger, {challengers.get(target, 'none')} is: "
                "look again, and decide anew.",
                field="version",
                value=version,
            )
    outcome = promote(store, gate, versions, reason=reason, by=by, expected=expected)
    said = [
        f"{name} version {outcome.versions[name]} {'passes' if verdict.passed else 'fails'} the gate: "
        + "; ".join(verdict.reasons)
        for name, verdict in outcome.verdicts.items()
    ]
    if outcome.event is not None:
        return [f"Release {outcome.event.after.release} is champion.", *said]
    return ["Nothing was promoted.", *(said or ["Every challenger is champion already."])]


def _rollback(settings: Settings, reason: str, by: str, expected: int | None) -> list[str]:
    from training.registry.promotion import rollback
    from training.registry.registry_store import RegistryStore

    event = rollback(RegistryStore.open(settings, settings.domain), reason=reason, by=by, expected=expected)
    return [f"Release {event.after.release} is champion again."]
