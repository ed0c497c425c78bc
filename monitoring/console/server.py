"""The console put together: its API, its pages and what looks at the store for both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI

from data.errors import TwinError
from data.settings import Settings
from monitoring.console.access import Access, Guard, is_loopback, token_of
from monitoring.console.api.app import create_api
from monitoring.console.api.health import Metrics
from monitoring.console.database import Database


@dataclass(frozen=True)
class Console:
    """A console that is ready to be served."""

    app: FastAPI
    access: Access
    database: Database

    @classmethod
    def open(cls, settings: Settings, *, reports: Path, params: Path) -> Console:
        """Build it; the store need not be there yet.

        Raises:
            TwinError: no store is named, or the token does not do.
        """
        if settings.telemetry_dsn is None:
            raise TwinError("TWIN_TELEMETRY_DSN is not set: name the store to look at.", field="telemetry_dsn")
        access = Access(token_of(settings), guards_reading=not is_loopback(settings.host))
        database = Database(settings.telemetry_dsn.get_secret_value())
        app = create_api(database, settings, reports, Metrics())
        app.add_middleware(Guard, access=access, host=settings.host)
        return cls(app, access, database)
