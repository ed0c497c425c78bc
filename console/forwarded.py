"""Path prefix and host of a reverse proxy, from the headers X-Forwarded-Prefix and X-Forwarded-Host."""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX_HEADER = "x-forwarded-prefix"
HOST_HEADER = "x-forwarded-host"
#: It becomes a part of the HTML: nothing that has a meaning there.
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
#: Paths whose handlers take the prefix from the scope.
_DOCUMENTATION = frozenset({"/docs", "/openapi.json"})


def path_prefix(headers: Mapping[str, str]) -> str:
    """Prefix of the console's paths as the browser sees them, such as `/twin`; empty without a proxy."""
    prefix = headers.get(PREFIX_HEADER, "").rstrip("/")
    return prefix if _PREFIX.fullmatch(prefix) else ""


def browser_hosts(headers: Mapping[str, str]) -> frozenset[str]:
    """Host and port in the address bar of the browser: the Host header, or the one that the first proxy received.

    A page of another site cannot set X-Forwarded-Host: without a permission that the console never gives, browsers send
    no such header to another origin.
    """
    forwarded = headers.get(HOST_HEADER, "").split(",")[0].strip()
    return frozenset(filter(None, (headers.get("host", ""), forwarded)))


class ForwardedPrefix:
    """ASGI middleware that leaves only a valid X-Forwarded-Prefix, without a slash at its end, for NiceGUI."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            if PREFIX_HEADER in headers:
                prefix = path_prefix(headers)
                scope = {**scope, "headers": list(scope["headers"])}
                changed = MutableHeaders(scope=scope)
                del changed[PREFIX_HEADER]
                if prefix:
                    changed[PREFIX_HEADER] = prefix
                if scope["path"] in _DOCUMENTATION:
                    scope["root_path"] = prefix
        await self._app(scope, receive, send)
