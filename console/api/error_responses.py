"""What the API answers when it cannot answer: a sentence, never a traceback, SQL or a password."""

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
from telemetry.errors import TwinError, error_body

_log = logging.getLogger(__name__)
_MOST_SHOWN = 60


class ApiError(TwinError):
    """A request that cannot be answered, and the HTTP status that says so."""

    def __init__(self, status: int, sentence: str, *, field: str | None = None, value: object = None) -> None:
        super().__init__(sentence, field=field, value=value)
        self.status = status


class ErrorAnswer(BaseModel):
    """What is wrong, and where."""

    error: str
    field: str | None = None
    value: Any = None


def add_error_handlers(app: FastAPI, expected: Mapping[str, str]) -> None:
    """Answer every error of `app` in the contract's form.

    Args:
        expected: by parameter, what it may be and what to do; for the sentence about a value that it may not be.
    """

    async def _on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - Starlette hands over what it was registered for
        return error_response(422, _invalid(error, expected))

    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(StoreUnavailableError, _on_store_away)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_failure)


def refuse_other_paths(app: FastAPI, prefix: str) -> None:
    """Answer what else is asked for under `prefix` in the contract's form; to be called after all of its paths.

    Without it the pages, which are mounted at the root, would answer with a page of theirs.
    """

    async def refuse(request: Request) -> None:
        sentence = f"GET {request.url.path}: not found; /docs has every path"
        raise ApiError(404, sentence, field="path", value=request.url.path)

    # GET alone: another method on a path that there is stays 405.
    app.add_api_route(prefix + "/{rest:path}", refuse, methods=["GET"], include_in_schema=False)


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - Starlette hands over what it was registered for
    return error_response(error.status, error)


async def _on_store_away(_: Request, error: Exception) -> Response:
    assert isinstance(error, StoreUnavailableError)  # noqa: S101
    return error_response(503, error)


def _invalid(error: RequestValidationError, expected: Mapping[str, str]) -> TwinError:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body")) or None
    value = first.get("input")
    if field is not None and field in expected:
        shown = repr(value)
        shown = shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}…"
        return TwinError(f"{field}: {shown} will not do: {expected[field]}", field=field, value=value)
    reason = str(first["msg"])
    return TwinError(f"{field or 'the request'}: {reason[:1].lower()}{reason[1:]}", field=field, value=value)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    sentence = f"{request.method} {request.url.path}: {str(error.detail).lower()}"
    return error_response(error.status_code, TwinError(sentence), dict(error.headers or {}))


async def _on_failure(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(500, TwinError("the console failed; its log says why"))


def error_response(status: int, error: TwinError, headers: dict[str, str] | None = None) -> Response:
    """`error` in the contract's form."""
    return Response(orjson.dumps(error_body(error)), status, headers=headers, media_type="application/json")
