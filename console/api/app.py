"""Factory of the FastAPI application with all REST routes; `console.server` adds the pages to it."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from console.api.change_routes import ChangeRoutes
from console.api.error_responses import add_error_handlers, refuse_other_paths
from console.api.health import ConsoleMetrics, CountRequests, HealthRoutes
from console.api.routes import EXPECTED, ApiRoutes
from console.connection_pool import Database
from console.history import HistoryQueries
from console.queries import Queries
from telemetry.settings import Settings


def create_api(
    database: Database, settings: Settings, reports: Path, metrics: ConsoleMetrics, changes: ChangeRoutes
) -> FastAPI:
    """The application with every REST path, `/openapi.json` and `/docs`; `/docs` loads nothing from other hosts."""
    queries = Queries(database)
    # FastAPI's own /docs page loads its scripts from a CDN.
    app: FastAPI = FastAPIOffline(
        "/docs",
        None,
        title="EV battery twin: console",
        version="1",
        swagger_ui_parameters={"defaultModelsExpandDepth": 0},
    )
    add_error_handlers(app, EXPECTED)
    routers = (
        ApiRoutes(queries, HistoryQueries(database), changes.events).router(),
        changes.router(),
        HealthRoutes(queries, settings, reports, metrics).router(),
    )
    for router in routers:
        app.include_router(router)
    refuse_other_paths(app, "/api")
    paths = frozenset(str(getattr(route, "path", "")) for router in routers for route in router.routes)
    app.add_middleware(CountRequests, metrics=metrics, paths=paths)
    return app
