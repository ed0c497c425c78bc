"""Start Debian's PostgreSQL, with TimescaleDB where it is installed, on a Unix socket and loopback TCP.

Unlike `telemetry/embedded/postgres.py`, which several processes share and which stops with the last of them, this
server uses the configuration file of compose and can be killed and restarted.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import psycopg2

from deploy.servers.install import DEBIAN, require
from deploy.servers.process import HOST, Command, Server, run, unused_port
from deploy.servers.versions import DEPLOY, versions
from telemetry.embedded.server_user import let_others_enter, server_user, system_user

License = Literal["timescale", "apache"]
_OWNER_ONLY = 0o600
#: Environment variables that deploy/database.sh requires.
PASSWORDS = (
    "TWIN_DB_PASSWORD",
    "TWIN_WRITER_DB_PASSWORD",
    "TWIN_READER_DB_PASSWORD",
    "TWIN_CONSOLE_DB_PASSWORD",
    "TWIN_MLFLOW_DB_PASSWORD",
)


@dataclass(frozen=True)
class Databases:
    """DSNs of compose's databases over loopback; none of the logins is a superuser.

    Attributes:
        owner_dsn: the telemetry store as its owner, for migrations.
    """

    owner_dsn: str
    mlflow_dsn: str


@dataclass(frozen=True)
class Postgres:
    """A server on which the caller creates the databases.

    Attributes:
        dsn: database postgres as superuser, over a socket in a folder that other users cannot enter.
        tcp_dsn: the same over loopback, with a password.
        password: of the superuser postgres.
    """

    dsn: str
    tcp_dsn: str
    port: int
    password: str
    server: Server


def create_databases(server: Postgres) -> Databases:
    """Create the databases `telemetry` and `mlflow` on a new server with deploy/database.sh, as compose does.

    Raises:
        TwinError: the script failed.
    """
    connection = psycopg2.connect(server.dsn)
    connection.autocommit = True
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE telemetry")
    passwords = {name: secrets.token_hex(16) for name in PASSWORDS}
    login = {"PGHOST": HOST, "PGPORT": str(server.port), "PGPASSWORD": server.password, "POSTGRES_USER": "postgres"}
    run(["sh", str(DEPLOY / "database.sh")], environment=login | passwords)

    def dsn(login: str, password: str, database: str) -> str:
        return f"postgresql://{login}:{passwords[password]}@{HOST}:{server.port}/{database}"

    return Databases(
        owner_dsn=dsn("twin", "TWIN_DB_PASSWORD", "telemetry"),
        mlflow_dsn=dsn("mlflow", "TWIN_MLFLOW_DB_PASSWORD", "mlflow"),
    )


def binaries() -> Path:
    """Folder of Debian's server programs."""
    return Path("/usr/lib/postgresql") / versions().postgresql / "bin"


def missing_timescaledb() -> str | None:
    """Reason why the server cannot load TimescaleDB; None if it can."""
    if reason := DEBIAN["postgresql-15"].missing():
        return reason
    library = Path(run([str(binaries() / "pg_config"), "--pkglibdir"]).strip()) / "timescaledb.so"
    return None if library.exists() else "the server does not offer the extension timescaledb"


@contextmanager
def postgres(folder: Path, *, durable: bool = True, timescaledb: License | None = None) -> Iterator[Postgres]:
    """A running server with its data in `folder`, which is created if missing.

    Args:
        durable: False for a throw-away database: no fsync.
        timescaledb: load the extension under this licence (`apache`: its Apache-licensed features only); None for plain
            PostgreSQL.

    Raises:
        TwinError: PostgreSQL is not installed, or did not start.
    """
    require(DEBIAN["postgresql-15"])
    folder.mkdir(parents=True, exist_ok=True)
    user, port, password = server_user(), unused_port(), secrets.token_hex(16)
    sockets = Path(tempfile.mkdtemp(prefix="twin-postgres-"))  # a socket's path is limited to about 100 bytes
    data, password_file, settings = folder / "data", folder / "password", folder / "postgresql.conf"
    password_file.touch(mode=_OWNER_ONLY)
    password_file.write_text(password)
    settings.write_text((DEPLOY / "postgres" / "postgresql.conf").read_text())
    data.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        entry = system_user(user)
        let_others_enter(folder)
        for path in (data, sockets, password_file, settings):
            os.chown(path, entry.pw_uid, entry.pw_gid)
    new = not (data / "PG_VERSION").exists()
    if new:
        run(
            [str(binaries() / "initdb"), "-D", str(data), "-U", "postgres", "--pwfile", str(password_file),
             "--auth-local=trust", "--auth-host=scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"],
            user=user,
        )  # fmt: skip
    password_file.unlink()
    options = {
        "config_file": str(settings),
        "data_directory": str(data),
        "hba_file": str(data / "pg_hba.conf"),
        "ident_file": str(data / "pg_ident.conf"),
        "listen_addresses": HOST,
        "port": str(port),
        "unix_socket_directories": str(sockets),
        "shared_preload_libraries": "timescaledb" if timescaledb else "",
        "timescaledb.license": timescaledb or "apache",
        "fsync": "on" if durable else "off",
    }
    dsn = f"postgresql://postgres@/postgres?host={quote(str(sockets), safe='')}&port={port}"
    server = Server(
        Command(
            f"PostgreSQL {versions().postgresql}",
            (
                str(binaries() / "postgres"),
                *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
            ),
            ready=lambda: _can_connect(dsn),
            log=folder / "server.log",
            folder=data,
            environment={"LC_ALL": "C", "TZ": "UTC"},
            user=user,
            # Fast shutdown: the postmaster ends its connections and exits cleanly.
            stop_signal=signal.SIGINT,
            parent_exit_signal=signal.SIGQUIT,
        )
    )
    try:
        with server:
            if not new:
                _set_password(dsn, password)
            tcp_dsn = f"postgresql://postgres:{password}@{HOST}:{port}/postgres"
            yield Postgres(dsn, tcp_dsn, port, password, server)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def _can_connect(dsn: str) -> bool:
    try:
        psycopg2.connect(dsn, connect_timeout=2).close()
    except psycopg2.OperationalError:
        return False
    return True


def _set_password(dsn: str, password: str) -> None:
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("ALTER ROLE postgres PASSWORD %s", (password,))
