"""Migrates a database to the schema of `telemetry/migrations`: forward only, each numbered file once, in order.

Files named `NNNN_*.sql` are recorded in `schema_migrations` with the SHA-256 of their statements, which never change
once released; comments and blank lines may.  Files named `repeatable_*.sql` are idempotent and run after them every
time.

    python -m telemetry.stores.migrate            # the database of TWIN_TELEMETRY_DSN
"""

from __future__ import annotations

import hashlib
import re
import sys
from contextlib import closing
from pathlib import Path

import psycopg2
import psycopg2.extensions

from telemetry.errors import TwinError
from telemetry.settings import Settings
from telemetry.stores.connection import connect

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"

#: Versions that recorded the SHA-256 of a file's full text released these files.  A line each: the digest of the full
#: text, the digest of the statements, the name.
_FULL_TEXT_DIGESTS = "released.sha256"

#: Arbitrary, but the same in every process: concurrent migrations of one database wait for each other.
_ADVISORY_LOCK = 7_308_001

#: A string or quoted name, which stays, or a comment to the end of its line, which goes.
_QUOTED_OR_COMMENT = re.compile(r"""('(?:[^']|'')*'|"[^"]*")|--[^\n]*""")


class MigrationError(TwinError):
    """The migration files and `schema_migrations` disagree."""


def migrate(dsn: str, folder: Path = MIGRATIONS) -> list[str]:
    """Apply the missing migrations and return the names of the numbered files that were applied.

    Safe to call at every start and from several processes at once.  Each file is one transaction.
    A login that may not create tables, such as a member of twin_writer, only checks that nothing is missing.

    Raises:
        MigrationError: the statements of an applied file have changed, the file is gone, or a missing one may not be
            applied.
        psycopg2.Error: the database refused a statement; that file is rolled back as a whole.
    """
    connection = connect(dsn, "battery-twin-migrate")
    with closing(connection):
        return _migrate(connection, folder)


def statements_digest(sql: str) -> str:
    """SHA-256 of the statements of a migration: without comments, blank lines and spaces at the end of lines."""
    code = _QUOTED_OR_COMMENT.sub(lambda match: match[1] or "", sql)
    lines = [line.rstrip() for line in code.splitlines()]
    return hashlib.sha256("\n".join(line for line in lines if line).encode()).hexdigest()


def _migrate(connection: psycopg2.extensions.connection, folder: Path) -> list[str]:
    if not _may_create(connection):
        _require(connection, [file.name for file in _numbered(folder)])
        return []
    _run(connection, "SELECT pg_advisory_lock(%s)", (_ADVISORY_LOCK,))
    _run(
        connection,
        """CREATE TABLE IF NOT EXISTS schema_migrations (
               name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())""",
    )
    applied = _applied(connection)
    files = _numbered(folder)
    if unknown := sorted(set(applied) - {file.name for file in files}):
        raise MigrationError(
            f"The database was migrated by {unknown[-1]}, which this version does not have; use a newer version.",
            field="schema_migrations",
            value=unknown,
        )
    full_text_digests = _full_text_digests(folder)
    new = []
    for file in files:
        sql = file.read_text(encoding="utf-8")
        digest = statements_digest(sql)
        if file.name not in applied:
            with connection, connection.cursor() as cursor:
                cursor.execute(sql)
                cursor.execute("INSERT INTO schema_migrations (name, sha256) VALUES (%s, %s)", (file.name, digest))
            new.append(file.name)
        elif full_text_digests.get((file.name, applied[file.name]), applied[file.name]) != digest:
            raise MigrationError(
                f"The statements of {file.name} have changed since it was applied; restore them and add a new "
                "migration instead.",
                field="schema_migrations",
                value=file.name,
            )
    for file in sorted(folder.glob("repeatable_*.sql")):
        _run(connection, file.read_text(encoding="utf-8"))
    return new


def _full_text_digests(folder: Path) -> dict[tuple[str, str], str]:
    """(name, digest of the full text) -> digest of the statements, of the files that were released with the former."""
    file = folder / _FULL_TEXT_DIGESTS
    if not file.exists():
        return {}
    rows = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
    return {(name, full_text): statements for full_text, statements, name in rows}


def _numbered(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))


def _may_create(connection: psycopg2.extensions.connection) -> bool:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT has_schema_privilege(current_schema(), 'CREATE')")
        (allowed,) = cursor.fetchone() or (False,)
        return bool(allowed)


def _require(connection: psycopg2.extensions.connection, names: list[str]) -> None:
    try:
        missing = sorted(set(names) - set(_applied(connection)))
    except (psycopg2.errors.UndefinedTable, psycopg2.errors.InsufficientPrivilege):
        missing = names
    if missing:
        raise MigrationError(
            f"The database lacks {missing[0]} and this login may not apply it; run "
            "`python -m telemetry.stores.migrate` as the owner of the database.",
            field="schema_migrations",
            value=missing,
        )


def _applied(connection: psycopg2.extensions.connection) -> dict[str, str]:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT name, sha256 FROM schema_migrations")
        return dict(cursor.fetchall())


def _run(connection: psycopg2.extensions.connection, sql: str, values: tuple[object, ...] | None = None) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(sql, values)


def main() -> int:
    """Migrate the database of the settings."""
    dsn = Settings().telemetry_dsn
    if dsn is None:
        print("TWIN_TELEMETRY_DSN is not set: name the database to migrate.", file=sys.stderr)
        return 2
    new = migrate(dsn.get_secret_value())
    print("\n".join(f"applied {name}" for name in new) or "nothing to apply")
    return 0


if __name__ == "__main__":
    sys.exit(main())
