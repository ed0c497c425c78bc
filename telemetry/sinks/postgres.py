"""Sink that writes to the telemetry store (PostgreSQL or TimescaleDB)."""

from __future__ import annotations

import psycopg2
import psycopg2.errors

from telemetry.batch import Batch, RowKind
from telemetry.settings import Settings
from telemetry.sinks.base import SinkOffError, SinkRefusedError, SinkUnavailableError
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore

#: Errors of the rows.  All others (connection, permission, missing table, disk space) are temporary errors of the
#: store.
_REFUSED = (
    psycopg2.DataError,
    psycopg2.IntegrityError,
    psycopg2.errors.ProgramLimitExceeded,  # a text too long for its index
    TypeError,
    ValueError,
)


class StoreSink:
    """Commits one transaction per write, so that `flush` has nothing to wait for."""

    kinds: tuple[RowKind, ...] = ("battery", "reading", "late", "cycle", "prediction")

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._store = PostgresStore(dsn)
        self.acknowledged = 0

    @classmethod
    def from_settings(cls, settings: Settings) -> StoreSink:
        """The store of TWIN_TELEMETRY_DSN."""
        if settings.telemetry_dsn is None:
            raise SinkOffError(
                "TWIN_TELEMETRY_DSN is not set: set it to the database to write to.", field="telemetry_dsn"
            )
        return cls(settings.telemetry_dsn.get_secret_value())

    def setup(self) -> None:
        """Migrate the schema."""
        try:
            migrate(self._dsn)
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            raise SinkUnavailableError(f"The telemetry store cannot be reached: {_first_line(error)}") from error
        except psycopg2.Error as error:
            raise SinkUnavailableError(f"The telemetry store cannot be migrated: {_first_line(error)}") from error

    def write(self, batch: Batch) -> None:
        """Write and commit `batch` in one transaction."""
        try:
            self._store.write(batch)
        except _REFUSED as error:
            raise SinkRefusedError(f"The telemetry store refused the batch: {_first_line(error)}") from error
        except psycopg2.Error as error:
            raise SinkUnavailableError(f"The telemetry store did not accept the batch: {_first_line(error)}") from error
        self.acknowledged += len(batch)

    def flush(self) -> None:
        """Do nothing: `write` returns after the commit."""

    def close(self) -> None:
        """Close the connection."""
        self._store.close()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
