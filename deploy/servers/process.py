"""One server process: started until it is ready, stopped or killed, and started again in the same place."""

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
    """How a server is run.

    Attributes:
        ready: answers whether the server can be used.
        log: what it prints is added here.
        user: whom it runs as when we are root; ourselves where absent.
        ends_with_parent: the signal that the kernel sends it when we are killed.
    """

    name: str
    arguments: tuple[str, ...]
    ready: Callable[[], bool]
    log: Path
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    ends_with_parent: signal.Signals = signal.SIGKILL
    start_timeout_s: float = 60.0


class Server:
    """A process and all that it started; `with` stops it in the end.

    Start it from a thread that lives as long as the server should: the kernel ends the server with that thread.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process, while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process and wait until it is ready; nothing happens if it runs.

        Raises:
            TwinError: it ended or was not ready in time; the end of its log follows the sentence.
        """
        if self.pid is not None:
            return
        command = self.command
        with command.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_dying_with_us(command.ends_with_parent), *command.arguments],
                cwd=command.folder,
                env={**os.environ, **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches us only, and we stop it in order.
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
        """Let the process finish; kill it if it does not."""
        if self._process is not None and self.pid is not None:
            # Some pass it on to their workers and some do not.
            os.killpg(self._process.pid, self.command.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """End the process and its children at once, without a chance to save anything."""
        if self._process is None:
            return
        children = _children(self._process.pid)
        for target in (self._process.pid, *children):
            for send in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError):
                    send(target, signal.SIGKILL)
        self._process.wait()
        self._process = None
        # A child is no longer ours to wait for; its files and ports are free once it is gone.
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while any(_alive(child) for child in children) and time.monotonic() < deadline:
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
                raise self._not_up(f"was not ready within {self.command.start_timeout_s:g} s")
            time.sleep(_POLL_S)
        raise self._not_up(f"ended with exit code {process.returncode}")

    def _not_up(self, what: str) -> TwinError:
        lines = self.command.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        tail = "\n".join(f"  {line}" for line in lines) or "  (it is empty)"
        return TwinError(
            f"{self.command.name} {what}. The end of its log, {self.command.log}:\n{tail}", field=self.command.name
        )


def unused_port() -> int:
    """A port of loopback on which nothing listens.

    Below those that outgoing connections get, so that a server that was killed finds its port free again.
    """
    return free_port(HOST, 20_000 + secrets.randbelow(10_000))


def accepts(port: int) -> bool:
    """Whether a server on loopback takes connections at `port`."""
    try:
        with socket.create_connection((HOST, port), timeout=2.0):
            return True
    except OSError:
        return False


def answers(url: str) -> bool:
    """Whether a GET of `url` is answered by 200."""
    try:
        return httpx.get(url, trust_env=False, timeout=5.0).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def run(command: list[str], *, environment: Mapping[str, str] | None = None, user: str | None = None) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        TwinError: it failed; the sentence ends with the end of what it printed.
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


def _dying_with_us(number: signal.Signals) -> tuple[str, ...]:
    """What to put before a command so that it does not outlive us, even if we are killed."""
    setpriv = shutil.which("setpriv")
    return () if setpriv is None else (setpriv, "--pdeathsig", number.name.removeprefix("SIG"), "--")


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"  # dead, only not yet buried by whoever inherited it
