"""Server process that is started until it is ready, stopped or killed, and restarted on the same data and port."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import httpx

from telemetry.embedded.ports import free_port
from telemetry.errors import TwinError

HOST = "127.0.0.1"
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.1
_LOG_TAIL_LINES = 30


@dataclass(frozen=True)
class Command:
    """How a server is started.

    Attributes:
        ready: returns whether the server can be used.
        log: its output is appended to this file.
        user: user to run as when started by root; the current user if None.
        parent_exit_signal: signal that the kernel sends to the server when this process is killed.
    """

    name: str
    arguments: tuple[str, ...]
    ready: Callable[[], bool]
    log: Path
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    parent_exit_signal: signal.Signals = signal.SIGKILL
    start_timeout_s: float = 60.0


class Server:
    """A server process and its children; a context manager that stops it on exit.

    Start it from a thread that runs as long as the server should: the kernel ends the server with that thread.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs, else None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process and wait until it is ready; does nothing if it is already running.

        Raises:
            TwinError: it exited or was not ready in time; the message ends with the last lines of its log.
        """
        if self.pid is not None:
            return
        command = self.command
        with command.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_kill_on_parent_exit(command.parent_exit_signal), *command.arguments],
                cwd=command.folder,
                env={**os.environ, **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C then reaches only this process, which stops the servers in order.
                start_new_session=True,
                user=command.user,
                group=command.user,
                extra_groups=None if command.user is None else [],
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Send the stop signal and wait; kill the process if it does not exit in time."""
        if self._process is not None and self.pid is not None:
            # To the whole group: not every server forwards the signal to its workers.
            os.killpg(self._process.pid, self.command.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """Kill the process and its children with SIGKILL."""
        if self._process is None:
            return
        children = _children(self._process.pid)
        for target in (self._process.pid, *children):
            for send in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError):
                    send(target, signal.SIGKILL)
        self._process.wait()
        self._process = None
        # Orphaned children cannot be waited for; their files and ports are free once they have exited.
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while any(_is_running(child) for child in children) and time.monotonic() < deadline:
            time.sleep(_POLL_S / 10)

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self.command.start_timeout_s
        while process.poll() is None:
            if self.command.ready():
                return
            if time.monotonic() > deadline:
                raise self._start_error(f"was not ready within {self.command.start_timeout_s:g} s")
            time.sleep(_POLL_S)
        raise self._start_error(f"ended with exit code {process.returncode}")

    def _start_error(self, failure: str) -> TwinError:
        lines = self.command.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        tail = "\n".join(f"  {line}" for line in lines) or "  (empty)"
        return TwinError(
            f"{self.command.name} {failure}. The end of its log, {self.command.log}:\n{tail}", field=self.command.name
        )


def unused_port() -> int:
    """A loopback port on which nothing listens.

    Below the range of ephemeral ports, so that a killed server can bind its port again.
    """
    return free_port(HOST, 20_000 + secrets.randbelow(10_000))


def accepts_connections(port: int) -> bool:
    """Whether a server on loopback accepts TCP connections on `port`."""
    try:
        with socket.create_connection((HOST, port), timeout=2.0):
            return True
    except OSError:
        return False


def responds(url: str) -> bool:
    """Whether GET `url` returns status 200."""
    try:
        return httpx.get(url, trust_env=False, timeout=5.0).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def run(command: list[str], *, environment: Mapping[str, str] | None = None, user: str | None = None) -> str:
    """Run a program and return its output.

    Raises:
        TwinError: it failed; the message ends with the last lines of its output.
    """
    done = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.strip().splitlines()[-_LOG_TAIL_LINES:])
        raise TwinError(f"{Path(command[0]).name} failed with exit code {done.returncode}: {tail}", field=command[0])
    return done.stdout


def _kill_on_parent_exit(number: signal.Signals) -> tuple[str, ...]:
    """Command prefix by which the kernel ends a command when this process exits, even by SIGKILL."""
    setpriv = shutil.which("setpriv")
    return () if setpriv is None else (setpriv, "--pdeathsig", number.name.removeprefix("SIG"), "--")


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"  # zombie or dead: exited, but not yet reaped
