"""Routes for liveness, readiness and Prometheus metrics of the console."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from console.api import responses
from console.connection_pool import StoreUnavailableError
from console.queries import Queries
from telemetry.settings import Settings

_REGISTRY_TIMEOUT_S = 2.0
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class ConsoleMetrics:
    """Prometheus metrics of one console process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("console_requests", "HTTP requests", ["path", "status"], registry=self.registry)
        self.duration = Histogram(
            "console_request_duration_seconds",
            "Duration of a request",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.open_pages = Gauge("console_open_pages", "Open browser pages", registry=self.registry)
        self.snapshot_age = Gauge(
            "console_snapshot_age_seconds",
            "Time since the last successful poll of the telemetry store",
            registry=self.registry,
        )
        self.open_alerts = Gauge("console_open_alerts", "Open alerts", ["rule", "severity"], registry=self.registry)

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)


class CountRequests:
    """ASGI middleware that counts and times requests to the API paths; other paths are unbounded in number."""

    def __init__(self, app: ASGIApp, metrics: ConsoleMetrics, paths: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and record status and duration."""
        if scope["type"] != "http" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        path, began, status = scope["path"], time.perf_counter(), 500

        async def record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, record)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.duration.labels(path).observe(time.perf_counter() - began)


@dataclass(frozen=True)
class HealthRoutes:
    """Handlers of `/health`, `/api/health` and `/metrics`."""

    queries: Queries
    settings: Settings
    reports: Path
    metrics: ConsoleMetrics

    def router(self) -> APIRouter:
        """Router with the three paths."""
        router = APIRouter(tags=["health"])
        not_ready: dict[int | str, dict[str, Any]] = {
            503: {"model": responses.Readiness, "description": "A required dependency is down"}
        }
        router.add_api_route("/health", self.live, response_model=responses.Liveness)
        router.add_api_route("/api/health", self.ready, response_model=responses.Readiness, responses=not_ready)
        router.add_api_route("/metrics", self.prometheus, response_class=_PrometheusText)
        return router

    async def live(self) -> dict[str, str]:
        """Liveness: the process responds."""
        return {"status": "alive"}

    def ready(self) -> Response:
        """Readiness: state of each dependency; 503 if a required one is down."""
        dependencies = {
            "telemetry_store": self._store(),
            "model_registry": self._model_registry(),
            "validation_report": self._report(),
        }
        is_ready = all(part.state == "up" for part in dependencies.values() if part.needed)
        readiness = responses.Readiness(status="ready" if is_ready else "not ready", dependencies=dependencies)
        return JSONResponse(readiness.model_dump(mode="json"), 200 if is_ready else 503)

    async def prometheus(self) -> Response:
        """Metrics of the console; those of the batteries are on port 9091."""
        return _PrometheusText(self.metrics.exposition())

    def _store(self) -> responses.DependencyState:
        try:
            self.queries.ping()
        except StoreUnavailableError as error:
            return responses.DependencyState(state="down", needed=True, detail=error.sentence)
        return responses.DependencyState(state="up", needed=True, detail="reachable, schema present")

    def _model_registry(self) -> responses.DependencyState:
        if not self.settings.tracking_uri.startswith("http"):
            found = (self.settings.var / "mlflow.db").exists()
            detail = "local file" if found else "no model has been registered yet"
            return responses.DependencyState(state="up" if found else "absent", needed=False, detail=detail)
        try:
            response = httpx.get(f"{self.settings.tracking_uri}/health", timeout=_REGISTRY_TIMEOUT_S)
            is_up = response.status_code == httpx.codes.OK
        except httpx.HTTPError:
            is_up = False
        return responses.DependencyState(
            state="up" if is_up else "down",
            needed=False,
            detail="MLflow responds" if is_up else "MLflow does not respond",
        )

    def _report(self) -> responses.DependencyState:
        found = (self.reports / "validation.json").exists()
        detail = "present" if found else "the pipeline has not validated any data yet"
        return responses.DependencyState(state="up" if found else "absent", needed=False, detail=detail)


class _PrometheusText(Response):
    media_type = CONTENT_TYPE_LATEST
