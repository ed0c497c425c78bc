"""Supervisor that kills servers on request and restarts every server that was killed or has exited."""

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
    """Restarts servers that were killed or have exited.

    Args:
        servers: by name.
        pool: runs the restarts; its threads must outlive the servers, because the kernel ends a server with the thread
            that started it.

    Attributes:
        kills: number of kills of each server.
        exits: number of unexpected exits of each server.
        failed_starts: number of starts of each server that failed and were retried.
    """

    servers: Mapping[str, Server]
    pool: ThreadPoolExecutor
    kills: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    failed_starts: Counter[str] = field(default_factory=Counter)
    _restarts: dict[str, Future[None]] = field(default_factory=dict)

    @property
    def running(self) -> list[str]:
        """Sorted names of the servers that are ready."""
        self._check()
        return sorted(self.servers.keys() - self._restarts.keys())

    def kill(self, name: str, pause_s: float) -> None:
        """Kill a running server with SIGKILL and restart it after `pause_s`."""
        self.servers[name].kill()
        self.kills[name] += 1
        self._restart(name, pause_s)

    def wait_until_all_run(self, timeout_s: float) -> None:
        """Wait until all servers are ready again.

        Raises:
            TwinError: a server does not start, or `timeout_s` has passed.
        """
        deadline = time.monotonic() + timeout_s
        while len(self.running) < len(self.servers):
            if time.monotonic() > deadline:
                raise TwinError(f"not ready again after {timeout_s:g} s: {', '.join(sorted(self._restarts))}")
            time.sleep(0.1)

    def _check(self) -> None:
        for name, future in list(self._restarts.items()):
            if future.done():
                future.result()
                del self._restarts[name]
        for name, server in self.servers.items():
            if name not in self._restarts and server.pid is None:
                self.exits[name] += 1
                logger.warning("%s exited unexpectedly, see %s", name, server.command.log)
                self._restart(name, _FIRST_RETRY_S)

    def _restart(self, name: str, pause_s: float) -> None:
        self._restarts[name] = self.pool.submit(self._start, name, pause_s)

    def _start(self, name: str, pause_s: float) -> None:
        for attempt in range(_ATTEMPTS):
            time.sleep(pause_s)
            try:
                self.servers[name].start()
            except TwinError as error:
                self.failed_starts[name] += 1
                logger.warning("%s", error)
                if attempt == _ATTEMPTS - 1:
                    raise
                pause_s = min(_FIRST_RETRY_S * 2.0**attempt, _LONGEST_RETRY_S)
            else:
                return
