"""Assembly of the console application: REST API, pages, login, static files and the poll loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response
from nicegui import app as nicegui_app
from nicegui import ui

from console.access import Access, AccessMiddleware, is_loopback, load_token
from console.alerts.alert_store import AlertStore
from console.api.app import create_api
from console.api.change_routes import ChangeRoutes
from console.api.error_responses import ApiError
from console.api.health import ConsoleMetrics
from console.connection_pool import Database
from console.events import BatteryEvents
from console.forwarded import ForwardedPrefix
from console.history import HistoryQueries
from console.live_updates import LiveUpdates, polling
from console.model_registry import RegistryProcess
from console.pages.alerts import alerts_page
from console.pages.battery import battery_page
from console.pages.context import PageContext, Visitor
from console.pages.data import REPORT_PATH, data_page
from console.pages.fleet import fleet_page
from console.pages.frame import error_page
from console.pages.login import LoginRoutes
from console.pages.models import models_page
from console.queries import Queries
from console.reasons import ReasonSource
from console.reports import PipelineReports
from telemetry.errors import TwinError
from telemetry.settings import Settings

STATIC = Path(__file__).resolve().parent / "static"
#: Messages that are sent again to a page after a reconnect; live pages get newer ones within a second.
_MESSAGE_HISTORY = 100


@dataclass(frozen=True)
class Console:
    """The console application and the objects behind its pages."""

    app: FastAPI
    context: PageContext

    @classmethod
    def open(cls, settings: Settings, *, reports: Path, params: Path, quarantine: Path) -> Console:
        """Build the application, also while the store is unavailable.  Once per process: NiceGUI's routes are global.

        Raises:
            TwinError: no store is configured, or the token is missing or too short.
        """
        if settings.telemetry_dsn is None:
            raise TwinError(
                "TWIN_TELEMETRY_DSN is not set: give the DSN of the telemetry store.", field="telemetry_dsn"
            )
        dsn = settings.telemetry_dsn.get_secret_value()
        access = Access(load_token(settings), read_requires_login=not is_loopback(settings.host))
        read_pool = Database(dsn, max_future_s=settings.max_future_s)
        write_pool = Database(dsn, connections=2, read_only=False)
        metrics, queries, alerts = ConsoleMetrics(), Queries(read_pool), AlertStore(write_pool)
        context = PageContext(
            access=access,
            live=LiveUpdates(queries, alerts, metrics),
            queries=queries,
            histories=HistoryQueries(read_pool),
            alerts=alerts,
            events=BatteryEvents(read_pool, write_pool),
            models=RegistryProcess(settings, params),
            reports=PipelineReports(reports, quarantine),
            reasons=ReasonSource(read_pool, settings.prediction_url or settings.service_url),
            is_shadow_on=settings.shadow,
        )
        changes = ChangeRoutes(access, alerts, context.events, context.models)
        app = create_api(read_pool, settings, reports, metrics, changes)
        app.include_router(LoginRoutes(access).router())
        app.router.lifespan_context = _lifespan(context, (read_pool, write_pool))
        app.add_middleware(AccessMiddleware, access=access, host=settings.host)
        app.add_middleware(ForwardedPrefix)
        _add_pages(app, context)
        return cls(app, context)


def _lifespan(context: PageContext, databases: tuple[Database, ...]):  # type: ignore[no-untyped-def]
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with polling(context.live):
            yield
        context.models.close()
        for database in databases:
            database.close()

    return lifespan


def _add_pages(app: FastAPI, context: PageContext) -> None:
    async def report() -> Response:
        if not context.reports.page.exists():
            raise ApiError(404, "no data has been validated yet")
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
    nicegui_app.on_page_exception(error_page)
    nicegui_app.add_static_files("/console-static", STATIC)
    # Without Tailwind's compiler: the console has its own stylesheet.
    ui.run_with(
        app, title="Battery twin", dark=None, tailwind=False, message_history_length=_MESSAGE_HISTORY,
        show_welcome_message=False,
    )  # fmt: skip
