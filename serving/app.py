"""ASGI application of the prediction service: `POST /predict`, error responses, metrics and OpenAPI document."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import orjson
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from serving.release_loader import ReleaseLoader
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
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The body is not JSON"},
    409: {"model": ErrorResponse, "description": "Unusable state: send the history without it"},
    413: {"model": ErrorResponse, "description": "Request too large"},
    422: {"model": ErrorResponse, "description": "Contract violation; `field` is the path of the invalid value"},
    503: {"model": ErrorResponse, "description": "No champion release loaded yet"},
}
# BentoML traces every request already.
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False}


class _Predict:
    """Endpoint of `POST /predict`, with the request body as bytes."""

    def __init__(
        self, loader: ReleaseLoader, limits: RequestLimits, metrics: ServiceMetrics, shadow: ShadowRecorder
    ) -> None:
        self._loader = loader
        self._limits = limits
        self._metrics = metrics
        self._shadow = shadow
        # Two large requests at once would only compete for the interpreter lock and the caches.
        self._one_at_a_time = CapacityLimiter(1)

    async def respond(self, request: Request) -> Response:
        started = perf_counter()
        try:
            scorer = self._loader.scorer
            if scorer is None:
                raise RequestError(503, self._loader.problem)
            body = await _read_body(request, self._limits.body_bytes)
            if len(body) <= _INLINE_BYTES:
                content = self._score(body, scorer)
            else:
                content = await to_thread.run_sync(self._score, body, scorer, limiter=self._one_at_a_time)
        except RequestError as error:
            self._metrics.count_refused(error.status)
            raise
        self._metrics.duration.observe(perf_counter() - started)
        return Response(content, media_type="application/json")

    def _score(self, body: bytes, scorer: Scorer) -> bytes:
        # Decoded and encoded here: FastAPI would validate both a second time.
        decoded = decode_request(body, self._limits)
        request = decoded.scoring_request
        entries: list[dict[str, Any]] = []
        entry_of: list[int] = []
        for result in score_request(request, scorer.champion):
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
    loader: ReleaseLoader, limits: RequestLimits, metrics: ServiceMetrics, shadow: ShadowRecorder
) -> FastAPI:
    """Create the ASGI application, which scores each request with the scorer that `loader` then holds."""
    app = FastAPI(title="EV battery twin", version="1", docs_url=None, redoc_url=None, telemetry=_NO_TELEMETRY)
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_failure)
    app.add_route("/predict", _Predict(loader, limits, metrics, shadow).respond, methods=["POST"])

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


async def _read_body(request: Request, limit: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit, int(announced))
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit, len(body))
    return bytes(body)


def _too_large(limit: int, size: int) -> RequestError:
    return RequestError(413, f"a request may have at most {limit} bytes: send it in parts", value=size)


async def _on_request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101 - Starlette passes only the registered class
    return _json(error.status, error_body(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    sentence = f"{request.method} {request.url.path}: {str(error.detail).lower()}"
    return _json(error.status_code, {"error": sentence, "field": None, "value": None}, error.headers)


async def _on_failure(_: Request, error: Exception) -> Response:
    return _json(500, {"error": "internal error; the service log has the details", "field": None, "value": None})


def _json(status: int, content: object, headers: Any = None) -> Response:
    return Response(orjson.dumps(content), status, headers=headers, media_type="application/json")
