"""Liveness, readiness and what the console counts about itself."""

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


class Metrics:
    """Counters of one console, for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("console_requests", "Requests answered", ["path", "status"], registry=self.registry)
        self.duration = Histogram(
            "console_request_duration_seconds",
            "From a request to its answer",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.watchers = Gauge("console_open_pages", "Pages that are open in browsers", registry=self.registry)
        self.snapshot_age = Gauge(
            "console_snapshot_age_seconds", "Time since the store was last looked at", registry=self.registry
        )
        self.open_alerts = Gauge("console_open_alerts", "Alerts not over", ["rule", "severity"], registry=self.registry)

    def exposition(self) -> bytes:
        """Everything counted so far, in Prometheus' text format."""
        return generate_latest(self.registry)


class CountRequests:
    """Middleware: count and time the requests to the paths of the API; others have no bounded set of names."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        path, began, status = scope["path"], time.perf_counter(), 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.duration.labels(path).observe(time.perf_counter() - began)


@dataclass(frozen=True)
class Health:
    """Answers for the console's own state."""

    queries: Queries
    settings: Settings
    reports: Path
    metrics: Metrics

    def router(self) -> APIRouter:
        """`/health`, `/api/health` and `/metrics`."""
        router = APIRouter(tags=["health"])
        not_ready: dict[int | str, dict[str, Any]] = {
            503: {"model": responses.Readiness, "description": "Something that is needed is down"}
        }
        router.add_api_route("/health", self.live, response_model=responses.Liveness)
        router.add_api_route("/api/health", self.ready, response_model=responses.Readiness, responses=not_ready)
        router.add_api_route("/metrics", self.prometheus, response_class=_PrometheusText)
        return router

    async def live(self) -> dict[str, str]:
        """The process responses."""
        return {"status": "alive"}

    def ready(self) -> Response:
        """Each part that the console reads, and whether all that is needed is up."""
        dependencies = {
            "telemetry_store": self._store(),
            "model_registry": self._model_registry(),
            "validation_report": self._report(),
        }
        is_ready = all(part.state == "up" for part in dependencies.values() if part.needed)
        readiness = responses.Readiness(status="ready" if is_ready else "not ready", dependencies=dependencies)
        return JSONResponse(readiness.model_dump(mode="json"), 200 if is_ready else 503)

    async def prometheus(self) -> Response:
        """What the console counts about itself; that of the batteries is at the live twin's port 9091."""
        return _PrometheusText(self.metrics.exposition())

    def _store(self) -> responses.Dependency:
        try:
            self.queries.ping()
        except StoreUnavailableError as error:
            return responses.Dependency(state="down", needed=True, detail=error.sentence)
        return responses.Dependency(state="up", needed=True, detail="answers, and has the schema")

    def _model_registry(self) -> responses.Dependency:
        if not self.settings.tracking_uri.startswith("http"):
            found = (self.settings.var / "mlflow.db").exists()
            detail = "a file" if found else "no model has been registered yet"
            return responses.Dependency(state="up" if found else "absent", needed=False, detail=detail)
        try:
            answer = httpx.get(f"{self.settings.tracking_uri}/health", timeout=_REGISTRY_TIMEOUT_S)
            is_up = answer.status_code == httpx.codes.OK
        except httpx.HTTPError:
            is_up = False
        return responses.Dependency(
            state="up" if is_up else "down",
            needed=False,
            detail="MLflow answers" if is_up else "MLflow does not answer",
        )

    def _report(self) -> responses.Dependency:
        found = (self.reports / "validation.json").exists()
        detail = "is there" if found else "the pipeline has not validated anything yet"
        return responses.Dependency(state="up" if found else "absent", needed=False, detail=detail)


class _PrometheusText(Response):
    media_type = CONTENT_TYPE_LATEST
