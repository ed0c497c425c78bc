"""The REST API as one application; the console's pages are added to it in `console.server`."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from console.api.error_responses import add_error_handlers, refuse_other_paths
from console.api.health import CountRequests, Health, Metrics
from console.api.routes import EXPECTED, Api
from console.connection_pool import Database
from console.history import Histories
from console.queries import Queries
from telemetry.settings import Settings


def create_api(database: Database, settings: Settings, reports: Path, metrics: Metrics) -> FastAPI:
    """The application with every path of the contract, `/openapi.json` and its page `/docs`, all from this machine."""
    queries = Queries(database, settings.max_future_s)
    # FastAPI's own page loads its scripts from the internet.
    app: FastAPI = FastAPIOffline(
        "/docs",
        None,
        title="EV battery twin: console",
        version="1",
        swagger_ui_parameters={"defaultModelsExpandDepth": 0},
    )
    add_error_handlers(app, EXPECTED)
    api, health = Api(queries, Histories(database)).router(), Health(queries, settings, reports, metrics).router()
    app.include_router(api)
    app.include_router(health)
    refuse_other_paths(app, "/api")
    paths = frozenset(str(getattr(route, "path", "")) for route in (*api.routes, *health.routes))
    app.add_middleware(CountRequests, metrics=metrics, paths=paths)
    return app
