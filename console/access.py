"""Authentication of the console: login sessions, bearer tokens and the middleware that enforces them.

On loopback, reading is open and changes need a login with the token.  On any other address every request needs the
token.  Programs send it as `Authorization: Bearer`; people log in and get a session cookie.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import orjson
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from console.forwarded import browser_hosts, path_prefix
from telemetry.errors import TwinError, error_body
from telemetry.settings import Settings

SESSION_COOKIE = "twin_session"
LOGIN_SESSION_S = 12 * 3600.0
MIN_TOKEN_LENGTH = 16
LOGIN_PATH = "/login"
#: Paths that never need a token: login and liveness.
OPEN_PATHS = frozenset({LOGIN_PATH, "/health"})
#: Wrong tokens per address and minute before the address is locked out.
_MAX_FAILURES = 10
_FAILURE_WINDOW_S = 60.0
_OWNER_ONLY = 0o600
_MAX_NAME_LENGTH = 60


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_token(settings: Settings) -> str:
    """The token of the settings, else that of `var/console_token`, which is created if missing (mode 0600).

    Raises:
        TwinError: the token is too short, or none is set although the console listens on a non-loopback address.
    """
    if settings.console_token is not None:
        token = settings.console_token.get_secret_value()
        if len(token) < MIN_TOKEN_LENGTH:
            raise TwinError(
                f"TWIN_CONSOLE_TOKEN has {len(token)} characters: it needs at least {MIN_TOKEN_LENGTH}.",
                field="console_token",
            )
        return token
    if not is_loopback(settings.host):
        raise TwinError(
            f"TWIN_HOST is {settings.host}, which is not loopback: set TWIN_CONSOLE_TOKEN.",
            field="console_token",
        )
    return _token_file(settings.var / "console_token")


def _token_file(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Created with its final mode, so that it is never readable by others; O_EXCL follows no symbolic link.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    except FileExistsError:
        token = path.read_text(encoding="utf-8").strip()
        if len(token) < MIN_TOKEN_LENGTH:
            raise TwinError(
                f"{path} holds no valid token: delete it, and a new one is created.", field="console_token"
            ) from None
        return token
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(token + "\n")
    return token


def login_path(after: str, prefix: str = "") -> str:
    """URL of the login page that redirects to `after`; `prefix` is that of a proxy."""
    return f"{prefix}{LOGIN_PATH}?next={quote(after)}"


class TooManyWrongTokensError(TwinError):
    """An address is locked out after too many wrong tokens; the correct token is rejected as well."""

    def __init__(self) -> None:
        super().__init__("Too many wrong tokens from this address: try again in a minute.", field="token")


@dataclass(frozen=True)
class _LoginSession:
    ends_at: float
    name: str


class Access:
    """Token check and login sessions.  Sessions are in memory: a restart ends them."""

    def __init__(self, token: str, *, read_requires_login: bool) -> None:
        self.read_requires_login = read_requires_login
        self._token = token
        self._sessions: dict[str, _LoginSession] = {}
        self._failures: dict[str, deque[float]] = {}

    def is_token(self, candidate: str) -> bool:
        """Whether `candidate` is the token; constant-time comparison."""
        return hmac.compare_digest(candidate.encode(), self._token.encode())

    def log_in(self, candidate: str, name: str, address: str = "") -> str | None:
        """Create a login session and return its id; None if the token is wrong.

        Args:
            name: recorded with each change that is made in the session.
            address: IP address of the client.

        Raises:
            TooManyWrongTokensError: the address is locked out.
        """
        if not self._check_token(candidate, address):
            return None
        now = time.monotonic()
        self._sessions = {key: other for key, other in self._sessions.items() if other.ends_at > now}
        session = secrets.token_urlsafe(32)
        self._sessions[_digest(session)] = _LoginSession(
            now + LOGIN_SESSION_S, name.strip()[:_MAX_NAME_LENGTH] or "console"
        )
        return session

    def log_out(self, session: str) -> None:
        """Delete a login session."""
        self._sessions.pop(_digest(session), None)

    def is_valid_session(self, session: str | None) -> bool:
        """Whether `session` is the id of a login session that has not expired."""
        return self.session_name(session) is not None

    def session_name(self, session: str | None) -> str | None:
        """Name entered at the login of `session`; None if it is unknown or has expired."""
        found = None if session is None else self._sessions.get(_digest(session))
        return None if found is None or found.ends_at <= time.monotonic() else found.name

    def is_authorized(self, headers: Mapping[str, str], address: str = "") -> bool:
        """Whether a request carries a valid login session or bearer token.

        Raises:
            TooManyWrongTokensError: the request carries a bearer token and its address is locked out.
        """
        candidate = _bearer(headers)
        return (
            self.is_valid_session(session_cookie(headers))
            if candidate is None
            else self._check_token(candidate, address)
        )

    def has_valid_token(self, headers: Mapping[str, str]) -> bool:
        """Whether an authorized request carries the bearer token."""
        candidate = _bearer(headers)
        return candidate is not None and self.is_token(candidate)

    def _check_token(self, candidate: str, address: str) -> bool:
        now = time.monotonic()
        self._failures = {
            other: times for other, times in self._failures.items() if now - times[-1] <= _FAILURE_WINDOW_S
        }
        wrong = self._failures.get(address, deque(maxlen=_MAX_FAILURES))
        if len(wrong) == _MAX_FAILURES and now - wrong[0] <= _FAILURE_WINDOW_S:
            raise TooManyWrongTokensError
        if self.is_token(candidate):
            return True
        wrong.append(now)
        self._failures[address] = wrong
        return False


def session_cookie(headers: Mapping[str, str]) -> str | None:
    """Id of the login session in the cookies of a request."""
    # Lenient parser: a cookie of another program on the same host may be one that http.cookies rejects.
    return cookie_parser(headers.get("cookie", "")).get(SESSION_COOKIE)


def _bearer(headers: Mapping[str, str]) -> str | None:
    scheme, _, candidate = headers.get("authorization", "").partition(" ")
    return candidate.strip() if scheme.lower() == "bearer" else None


def _digest(session: str) -> str:
    return hashlib.sha256(session.encode()).hexdigest()


class AccessMiddleware:
    """ASGI middleware that rejects unauthorized requests, cross-origin requests and, on loopback, unknown Host headers.

    The origin check stops pages of other sites from using the login session of a browser (CSRF, WebSocket hijacking);
    the Host check stops DNS rebinding to 127.0.0.1.
    """

    def __init__(self, app: ASGIApp, access: Access, host: str) -> None:
        self._app = app
        self._access = access
        self._names = frozenset({"localhost", "127.0.0.1", "[::1]", "::1", host})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or reject it."""
        refusal = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._access.read_requires_login and _name(headers.get("host", "")) not in self._names:
            return _refuse(403, f"the console accepts requests for localhost only, not for {headers.get('host', '')!r}")
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes and _is_cross_origin(headers):
            return _refuse(
                403,
                f"cross-origin requests are not allowed: the origin is {headers['origin']}, the host "
                f"{headers.get('host', '')}; a proxy has to send the host of the browser in X-Forwarded-Host",
            )
        if not self._access.read_requires_login or scope["path"] in OPEN_PATHS:
            return None
        try:
            if self._access.is_authorized(headers, scope["client"][0] if scope.get("client") else ""):
                return None
        except TooManyWrongTokensError as error:
            return _refuse(429, error.sentence, {"Retry-After": str(int(_FAILURE_WINDOW_S))})
        if scope["type"] == "http" and "text/html" in headers.get("accept", ""):
            return RedirectResponse(login_path(scope["path"], path_prefix(headers)), 303)
        return _refuse(401, "log in, or send the token as 'Authorization: Bearer ...'", {"WWW-Authenticate": "Bearer"})


def _is_cross_origin(headers: Headers) -> bool:
    """Whether a page of another site made the request; a browser's own word, which no page can set, comes first."""
    origin = headers.get("origin")
    if origin is None or headers.get("sec-fetch-site") == "same-origin":
        return False
    return urlsplit(origin).netloc not in browser_hosts(headers)


def _name(host: str) -> str:
    """A Host header without its port."""
    return host.rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdigit() else host


def _refuse(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    body = orjson.dumps(error_body(TwinError(sentence)))
    return Response(body, status, headers=headers, media_type="application/json")
