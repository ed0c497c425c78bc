"""Parts that are killed at any moment and started again by a supervisor, each after a pause of its own."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from deploy.servers.process import Server
from telemetry.errors import TwinError

logger = logging.getLogger(__name__)

_ATTEMPTS = 8
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.5, 8.0


@dataclass
class Supervisor:
    """Starts again what was killed, and what ended by itself.

    Args:
        parts: by name.
        pool: starts them; its threads have to outlive them, because the kernel ends a server with the thread that
            started it.

    Attributes:
        kills: how often each was killed.
        ended: how often each ended by itself.
        failed_starts: how often each was not up in time, and was tried again.
    """

    parts: Mapping[str, Server]
    pool: ThreadPoolExecutor
    kills: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    failed_starts: Counter[str] = field(default_factory=Counter)
    _reviving: dict[str, Future[None]] = field(default_factory=dict)

    @property
    def up(self) -> list[str]:
        """Names of the parts that run and are ready, in order."""
        self._look()
        return sorted(self.parts.keys() - self._reviving.keys())

    def kill(self, name: str, pause_s: float) -> None:
        """Kill a part that is up by SIGKILL, and have it started again after `pause_s`."""
        self.parts[name].kill()
        self.kills[name] += 1
        self._revive(name, pause_s)

    def wait_until_all_are_up(self, timeout_s: float) -> None:
        """Return when everything is up again.

        Raises:
            TwinError: a part does not start any more, or it took longer than `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while len(self.up) < len(self.parts):
            if time.monotonic() > deadline:
                raise TwinError(f"not up again after {timeout_s:g} s: {', '.join(sorted(self._reviving))}")
            time.sleep(0.1)

    def _look(self) -> None:
        for name, future in list(self._reviving.items()):
            if future.done():
                future.result()
                del self._reviving[name]
        for name, server in self.parts.items():
            if name not in self._reviving and server.pid is None:
                self.ended[name] += 1
                logger.warning("%s ended by itself, see %s", name, server.command.log)
                self._revive(name, _FIRST_RETRY_S)

    def _revive(self, name: str, pause_s: float) -> None:
        self._reviving[name] = self.pool.submit(self._start, name, pause_s)

    def _start(self, name: str, pause_s: float) -> None:
        for attempt in range(_ATTEMPTS):
            time.sleep(pause_s)
            try:
                self.parts[name].start()
            except TwinError as error:
                self.failed_starts[name] += 1
                logger.warning("%s", error)
                if attempt == _ATTEMPTS - 1:
                    raise
                pause_s = min(_FIRST_RETRY_S * 2.0**attempt, _LONGEST_RETRY_S)
            else:
                return
