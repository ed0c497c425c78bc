"""ASGI application of the prediction service: `POST /predict`, error responses, metrics and OpenAPI document."""

from __future__ import annotations

import threading
from time import perf_counter
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serving.large_requests import LargeRequests, StoppedError
from serving.release_loader import ReleaseLoader
from serving.request_body import RefusedError, gunzip, read_body, too_large
from serving.request_decoding import RequestError, RequestLimits, decode_request
from serving.request_scoring import score_request
from serving.response import ErrorResponse, PredictResponse, response_entries, to_json, with_errors
from serving.scorer import Scorer
from serving.service_metrics import ServiceMetrics
from serving.shadow import ShadowRecorder
from telemetry.errors import error_body
from telemetry.schemas.request import PredictRequest

#: A larger request is processed in a thread, so that small ones need not wait for it.
_INLINE_BYTES = 64 * 1024
#: Retry-After while there is no release: loading takes seconds.
_RELEASE_RETRY_S = "5"
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The body is not JSON, or not gzip as announced"},
    408: {"model": ErrorResponse, "description": "The body did not arrive in time"},
    409: {"model": ErrorResponse, "description": "Unusable state: send the history without it"},
    413: {"model": ErrorResponse, "description": "Request too large, uncompressed"},
    415: {"model": ErrorResponse, "description": "Content-Encoding other than gzip"},
    422: {"model": ErrorResponse, "description": "Contract violation; `field` is the path of the invalid value"},
    500: {"model": ErrorResponse, "description": "Internal error"},
    503: {
        "model": ErrorResponse,
        "description": "No champion release loaded yet, or no response in time because of other large requests",
        "headers": {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}},
    },
}
# BentoML traces every request already.
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False}


class _Predict:
    """Endpoint of `POST /predict`, with the request body as bytes."""

    def __init__(
        self,
        loader: ReleaseLoader,
        limits: RequestLimits,
        metrics: ServiceMetrics,
        shadow: ShadowRecorder,
        timeout_s: float,
    ) -> None:
        self._loader = loader
        self._limits = limits
        self._metrics = metrics
        self._shadow = shadow
        self._timeout_s = timeout_s
        self._large = LargeRequests()

    async def respond(self, request: Request) -> Response:
        started = perf_counter()
        scorer = self._loader.scorer
        if scorer is None:
            raise RefusedError(503, self._loader.problem, {"Retry-After": _RELEASE_RETRY_S})
        body, encoding = await read_body(request, self._limits.body_bytes, self._timeout_s)
        is_small = len(body) <= _INLINE_BYTES
        plain = body if encoding is None else gunzip(body, _INLINE_BYTES) if is_small else None
        if is_small and plain is not None:
            content = self._score(plain, scorer)
        else:

            def work(stop: threading.Event) -> bytes:
                return self._score(body if encoding is None else self._gunzip(body), scorer, stop)

            left_s = self._timeout_s - (perf_counter() - started)
            content = await self._large.run(work, request, left_s)
        self._metrics.duration.observe(perf_counter() - started)
        return Response(content, media_type="application/json")

    def _gunzip(self, body: bytes) -> bytes:
        plain = gunzip(body, self._limits.body_bytes)
        if plain is None:
            raise too_large(self._limits.body_bytes, None)
        return plain

    def _score(self, body: bytes, scorer: Scorer, stop: threading.Event | None = None) -> bytes:
        # Decoded and encoded here: FastAPI would validate both a second time.
        decoded = decode_request(body, self._limits)
        request = decoded.scoring_request
        entries: list[dict[str, Any]] = []
        entry_of: list[int] = []
        for result in score_request(request, scorer.champion):
            if stop is not None and stop.is_set():
                raise StoppedError
            self._metrics.count_predictions(result)
            entries += response_entries(request, result, scorer.champion, decoded.notes)
            entry_of += [decoded.entry_of[row] for row in result.battery_row]
            if scorer.challenger is not None:
                ids = [request.battery_ids[row] for row in result.battery_row]
                self._shadow.submit(ids, result.snapshots, scorer.challenger)
        self._metrics.count_ignored(decoded)
        if decoded.errors:
            entries = with_errors(entries, entry_of, decoded.errors)
        return to_json({"predictions": entries})


def create_app(
    loader: ReleaseLoader, limits: RequestLimits, metrics: ServiceMetrics, shadow: ShadowRecorder, timeout_s: float
) -> FastAPI:
    """Create the ASGI application, which scores each request with the scorer that `loader` then holds.

    Args:
        timeout_s: longest time until the response to a prediction request.
    """
    app = FastAPI(title="EV battery twin", version="1", docs_url=None, redoc_url=None, telemetry=_NO_TELEMETRY)
    _add_error_handlers(app, metrics)
    app.add_route("/predict", _Predict(loader, limits, metrics, shadow, timeout_s).respond, methods=["POST"])

    # Documentation only: the route above comes first.  FastAPI's own parsing and validation cost 6 % of the requests/s.
    @app.post("/predict", response_class=Response, responses={200: {"model": PredictResponse}, **_ERRORS})
    async def predict(body: PredictRequest) -> None:
        """Update the given battery states with new readings and cycles, and predict all targets of every battery."""

    @app.get("/metrics", include_in_schema=False)
    def prometheus() -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def index() -> RedirectResponse:
        return RedirectResponse("docs")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        # BentoML serves a copy of these files, so the page needs no internet access.
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url="static_content/swagger-ui-bundle.js",
            swagger_css_url="static_content/swagger-ui.css",
            swagger_favicon_url="static_content/favicon-light-32x32.png",
        )

    return app


def _add_error_handlers(app: FastAPI, metrics: ServiceMetrics) -> None:
    """Error responses in the contract's form, each of them counted."""

    def respond(status: int, content: object, headers: Any = None) -> Response:
        metrics.count_refused(status)
        return Response(orjson.dumps(content), status, headers=headers, media_type="application/json")

    async def on_request_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)  # noqa: S101 - Starlette passes only the registered class
        headers = error.headers if isinstance(error, RefusedError) else None
        return respond(error.status, error_body(error), headers)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        sentence = f"{request.method} {request.url.path}: {str(error.detail).lower()}"
        return respond(error.status_code, {"error": sentence, "field": None, "value": None}, error.headers)

    async def on_failure(_: Request, error: Exception) -> Response:
        sentence = "internal error; the service log has the details"
        return respond(500, {"error": sentence, "field": None, "value": None})

    async def on_disconnect(_: Request, error: Exception) -> Response:
        metrics.abandoned.inc()
        return Response(status_code=499)  # not received; the status that nginx logs

    app.add_exception_handler(RequestError, on_request_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    app.add_exception_handler(Exception, on_failure)
