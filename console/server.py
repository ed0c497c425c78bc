"""The console put together: its API, its pages and what looks at the store for both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response
from nicegui import app as nicegui_app
from nicegui import ui

from console.access import Access, Guard, is_loopback, token_of
from console.alerts.alert_store import AlertStore
from console.api.app import create_api
from console.api.error_responses import ApiError
from console.api.health import Metrics
from console.connection_pool import Database
from console.history import Histories
from console.live_updates import Live, looking
from console.model_registry import RegistryProcess
from console.pages.alerts import alerts_page
from console.pages.battery import battery_page
from console.pages.context import Context, Visitor
from console.pages.data import REPORT_PATH, data_page
from console.pages.error_page import failed_page
from console.pages.fleet import fleet_page
from console.pages.login import Login
from console.pages.models import models_page
from console.queries import Queries
from console.reports import Reports
from telemetry.errors import TwinError
from telemetry.settings import Settings

STATIC = Path(__file__).resolve().parent / "static"
#: Messages that a page that lost its connection is sent again; a live page soon has newer ones.
_MESSAGES_KEPT = 100


@dataclass(frozen=True)
class Console:
    """A console that is ready to be served."""

    app: FastAPI
    context: Context

    @classmethod
    def open(cls, settings: Settings, *, reports: Path, params: Path, quarantine: Path) -> Console:
        """Build it; the store need not be there yet.  Once a process: NiceGUI keeps its pages globally.

        Raises:
            TwinError: no store is named, or the token does not do.
        """
        if settings.telemetry_dsn is None:
            raise TwinError("TWIN_TELEMETRY_DSN is not set: name the store to look at.", field="telemetry_dsn")
        dsn = settings.telemetry_dsn.get_secret_value()
        access = Access(token_of(settings), guards_reading=not is_loopback(settings.host))
        reading, writing = Database(dsn), Database(dsn, connections=2, read_only=False)
        metrics, queries, alerts = Metrics(), Queries(reading, settings.max_future_s), AlertStore(writing)
        context = Context(
            access=access,
            live=Live(queries, alerts, metrics),
            queries=queries,
            histories=Histories(reading),
            alerts=alerts,
            models=RegistryProcess(settings, params),
            reports=Reports(reports, quarantine),
        )
        app = create_api(reading, settings, reports, metrics)
        app.include_router(Login(access).router())
        app.router.lifespan_context = _lifespan(context, (reading, writing))
        app.add_middleware(Guard, access=access, host=settings.host)
        _add_pages(app, context)
        return cls(app, context)


def _lifespan(context: Context, databases: tuple[Database, ...]):  # type: ignore[no-untyped-def]
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with looking(context.live):
            yield
        context.models.close()
        for database in databases:
            database.close()

    return lifespan


def _add_pages(app: FastAPI, context: Context) -> None:
    async def report() -> Response:
        if not context.reports.page.exists():
            raise ApiError(404, "nothing has been validated yet")
        return FileResponse(context.reports.page)

    app.add_api_route(REPORT_PATH, report, include_in_schema=False)

    def visitor(request: Request) -> Visitor:
        return Visitor.of(context.access, request.headers)

    def fleet(request: Request) -> None:
        fleet_page(context, visitor(request))

    def battery(request: Request, battery_id: str) -> None:
        battery_page(context, visitor(request), battery_id)

    def alerts(request: Request) -> None:
        alerts_page(context, visitor(request))

    def models(request: Request) -> None:
        models_page(context, visitor(request))

    def data(request: Request) -> None:
        data_page(context, visitor(request))

    pages: dict[str, Callable[..., None]] = {
        "/": fleet,
        "/battery/{battery_id}": battery,
        "/alerts": alerts,
        "/models": models,
        "/data": data,
    }
    for path, page in pages.items():
        ui.page(path)(page)
    nicegui_app.on_page_exception(failed_page)
    nicegui_app.add_static_files("/console-static", STATIC)
    # Tailwind's compiler is left out: the console has its own few styles.
    ui.run_with(
        app, title="Battery twin", dark=None, tailwind=False, message_history_length=_MESSAGES_KEPT,
        show_welcome_message=False,
    )  # fmt: skip
