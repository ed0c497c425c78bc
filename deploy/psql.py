"""Run `psql` on the telemetry store, starting the embedded one if none is configured (`make psql`).

python -m deploy.psql -c "SELECT 1"    # arguments are passed on
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from psycopg2.extensions import make_dsn, parse_dsn

from telemetry.command import exit_code
from telemetry.embedded.postgres import ensure_telemetry_store, packaged_binaries
from telemetry.errors import TwinError
from telemetry.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run psql on the store of the settings, which is started unless it runs; psql's exit code.

    Raises:
        TwinError: there is no psql.
    """
    program = psql_program()
    with ensure_telemetry_store(Settings()) as settings:
        if settings.telemetry_dsn is None:
            raise TwinError("No telemetry store is configured.", field="telemetry_dsn")
        parts = parse_dsn(settings.telemetry_dsn.get_secret_value())
        # Arguments of a process are visible to every user of the machine.
        password = {"PGPASSWORD": parts.pop("password")} if "password" in parts else {}
        command = [program, make_dsn(**parts), *(sys.argv[1:] if argv is None else argv)]
        return subprocess.run(command, env={**os.environ, **password}, check=False).returncode


def psql_program(packaged: Path | None = None) -> str:
    """The psql that comes with the embedded PostgreSQL, else the system's.

    Raises:
        TwinError: there is neither.
    """
    bundled = (packaged or packaged_binaries()) / "psql"
    if bundled.exists():
        return str(bundled)
    if found := shutil.which("psql"):
        return found
    raise TwinError(
        "psql was not found: install it (Debian: apt install postgresql-client), or open the address that `make run` "
        "prints with another PostgreSQL client.",
        field="psql",
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
