"""JSON error responses of the REST API, without tracebacks, SQL or passwords."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from console.connection_pool import StoreUnavailableError
from telemetry.errors import TwinError, error_body, text_of

_log = logging.getLogger(__name__)


class ApiError(TwinError):
    """A request error with its HTTP status."""

    def __init__(self, status: int, sentence: str, *, field: str | None = None, value: object = None) -> None:
        super().__init__(sentence, field=field, value=value)
        self.status = status


class ErrorResponse(BaseModel):
    """Error response: message, and the invalid field with its value."""

    error: str
    field: str | None = None
    value: Any = None


def add_error_handlers(app: FastAPI, expected: Mapping[str, str]) -> None:
    """Register handlers that turn every error of `app` into an `ErrorResponse`.

    Args:
        expected: by parameter, a description of its valid values; used in the message for an invalid value.
    """

    async def _on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type
        return error_response(422, _invalid(error, expected))

    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(StoreUnavailableError, _on_store_unavailable)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_failure)


def refuse_other_paths(app: FastAPI, prefix: str) -> None:
    """Answer unknown paths under `prefix` with an `ErrorResponse`; call it after all other routes have been added.

    Otherwise the pages, which are mounted at the root, would answer with HTML.
    """

    async def refuse(request: Request) -> None:
        sentence = f"GET {request.url.path}: not found; /docs has every path"
        raise ApiError(404, sentence, field="path", value=request.url.path)

    # GET only, so that another method on an existing path stays 405.
    app.add_api_route(prefix + "/{rest:path}", refuse, methods=["GET"], include_in_schema=False)


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for this type
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    return error_response(error.status, error, headers)


async def _on_store_unavailable(_: Request, error: Exception) -> Response:
    assert isinstance(error, StoreUnavailableError)  # noqa: S101
    return error_response(503, error)


def _invalid(error: RequestValidationError, expected: Mapping[str, str]) -> TwinError:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body")) or None
    value = first.get("input")
    if field is not None and field in expected:
        return TwinError(f"{field}: {text_of(value)} is invalid: {expected[field]}", field=field, value=value)
    reason = str(first["msg"]).removeprefix("Value error, ")
    return TwinError(f"{field or 'the request'}: {reason[:1].lower()}{reason[1:]}", field=field, value=value)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    sentence = f"{request.method} {request.url.path}: {str(error.detail).lower()}"
    return error_response(error.status_code, TwinError(sentence), dict(error.headers or {}))


async def _on_failure(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(500, TwinError("internal error of the console; see its log"))


def error_response(status: int, error: TwinError, headers: dict[str, str] | None = None) -> Response:
    """HTTP response with `error` as an `ErrorResponse`."""
    return Response(orjson.dumps(error_body(error)), status, headers=headers, media_type="application/json")
