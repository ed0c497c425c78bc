"""What the models page asks of the registry, in a process of its own: MLflow loads for seconds and holds the core."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import yaml

from data.errors import TwinError
from data.settings import Settings
from features.targets import TARGET_NAMES

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
    """Who serves and who would like to."""

    domain: str
    release: int | None
    champions: Mapping[str, VersionView]
    challengers: Mapping[str, VersionView]
    events: tuple[EventView, ...]


class ModelDesk:
    """Looks at the registry and moves its champion; one thing after the other.

    Args:
        params: the file with the gate's thresholds.
    """

    def __init__(self, settings: Settings, params: Path) -> None:
        self._settings = settings
        self._params = params
        self._pool: ProcessPoolExecutor | None = None

    async def view(self) -> ModelsView:
        """The registry now.

        Raises:
            TwinError: it cannot be read.
        """
        return await self._run(_view, self._settings)

    async def promote(self, target: str | None, *, reason: str, by: str) -> list[str]:
        """Put the challenger of `target` (every one, where None) forward to the gate; what came of it, in sentences.

        Raises:
            TwinError: there is no challenger, a reason is missing, or the registry cannot be reached.
        """
        return await self._run(_promote, self._settings, self._params, target, _reason(reason), by)

    async def rollback(self, *, reason: str, by: str) -> list[str]:
        """Restore the previous release.

        Raises:
            TwinError: there is none, a reason is missing, or the registry cannot be reached.
        """
        return await self._run(_rollback, self._settings, _reason(reason), by)

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
            future = self._pool.submit(_explained, work, *arguments, **named)
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


def _explained(work: Callable[..., Any], *arguments: Any) -> tuple[Any, str | None]:
    """What `work` gives, or a sentence; exceptions of MLflow do not survive the way between processes."""
    from mlflow.exceptions import MlflowException

    try:
        return work(*arguments), None
    except TwinError as error:
        return None, error.sentence
    except (MlflowException, OSError) as error:
        return None, f"The registry cannot be reached: {type(error).__name__}."


def _view(settings: Settings) -> ModelsView:
    from training.registry.store import RegistryStore

    store = RegistryStore.open(settings, settings.domain)
    aliases = store.aliases()

    def views(versions: Mapping[str, int]) -> dict[str, VersionView]:
        return {target: _version(store, target, versions[target]) for target in TARGET_NAMES if target in versions}

    events = tuple(
        EventView(e.time, e.kind, e.by, e.reason, e.after.release, dict(e.after.champions), e.warnings)
        for e in reversed(store.events())
    )
    return ModelsView(store.domain, aliases.release, views(aliases.champions), views(aliases.challengers), events)


def _version(store: Any, target: str, version: int) -> VersionView:
    with store.files(target, version) as folder:
        file = folder / "metrics.json"
        return VersionView(target, version, json.loads(file.read_text(encoding="utf-8")) if file.exists() else {})


def _promote(settings: Settings, params: Path, target: str | None, reason: str, by: str) -> list[str]:
    from training.gate import GateThresholds
    from training.registry.promotion import promote, synchronise
    from training.registry.store import RegistryStore

    try:
        section = yaml.safe_load(params.read_text(encoding="utf-8"))["gate"]
    except (OSError, KeyError, TypeError) as error:
        raise TwinError(f"{params} has no section gate, which says who may be promoted.", field="params") from error
    store, gate = RegistryStore.open(settings, settings.domain), GateThresholds.from_params(section)
    synchronise(store, gate)
    challengers = dict(store.aliases().challengers)
    if target is not None:
        challengers = {name: version for name, version in challengers.items() if name == target}
    if not challengers:
        raise TwinError("There is no challenger to promote.", field="target", value=target)
    outcome = promote(store, gate, challengers, reason=reason, by=by)
    said = [
        f"{name} version {outcome.versions[name]} {'passes' if verdict.passed else 'fails'} the gate: "
        + "; ".join(verdict.reasons)
        for name, verdict in outcome.verdicts.items()
    ]
    if outcome.event is not None:
        return [f"Release {outcome.event.after.release} is champion.", *said]
    return ["Nothing was promoted.", *(said or ["Every challenger is champion already."])]


def _rollback(settings: Settings, reason: str, by: str) -> list[str]:
    from training.registry.promotion import rollback
    from training.registry.store import RegistryStore

    event = rollback(RegistryStore.open(settings, settings.domain), reason=reason, by=by)
    return [f"Release {event.after.release} is champion again."]
