"""Who may see and who may change.

On loopback everybody may look, and whoever changes something logs in with the token.  Beyond loopback the token is
asked for whatever is done.  Programs send it as `Authorization: Bearer`, people log in and get a session.
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

from telemetry.errors import TwinError, error_body
from telemetry.settings import Settings

SESSION_COOKIE = "twin_session"
SESSION_S = 12 * 3600.0
SHORTEST_TOKEN = 16
LOGIN_PATH = "/login"
#: What answers to anybody everywhere: whether the process is alive, and where to log in.
OPEN_PATHS = frozenset({LOGIN_PATH, "/health"})
#: So many wrong tokens in a minute from one address.
_MOST_FAILURES = 10
_FAILURE_WINDOW_S = 60.0
_OWNER_ONLY = 0o600
_MOST_NAME = 60


def is_loopback(host: str) -> bool:
    """Whether what listens on `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token_of(settings: Settings) -> str:
    """The token of the settings, or the one in `var/console_token`, made there where it is absent (mode 0600).

    Raises:
        TwinError: the token is too short, or none is set although the console would listen beyond this machine.
    """
    if settings.console_token is not None:
        token = settings.console_token.get_secret_value()
        if len(token) < SHORTEST_TOKEN:
            raise TwinError(
                f"TWIN_CONSOLE_TOKEN has {len(token)} characters: it needs at least {SHORTEST_TOKEN}.",
                field="console_token",
            )
        return token
    if not is_loopback(settings.host):
        raise TwinError(
            f"TWIN_HOST is {settings.host}, beyond this machine: set TWIN_CONSOLE_TOKEN, which reading needs there.",
            field="console_token",
        )
    return _token_file(settings.var / "console_token")


def _token_file(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Never readable by others, not even for a moment; a link is not followed.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    except FileExistsError:
        token = path.read_text(encoding="utf-8").strip()
        if len(token) < SHORTEST_TOKEN:
            raise TwinError(
                f"{path} holds no token: remove it, and a new one is made.", field="console_token"
            ) from None
        return token
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(token + "\n")
    return token


def login_path(after: str) -> str:
    """Where to log in and go on to the page `after`."""
    return f"{LOGIN_PATH}?next={quote(after)}"


class TooManyTokensError(TwinError):
    """An address sent too many wrong tokens; the right one has to wait as well."""

    def __init__(self) -> None:
        super().__init__("Too many wrong tokens came from this address: try again in a minute.", field="token")


@dataclass(frozen=True)
class _Session:
    ends_at: float
    name: str


class Access:
    """Checks tokens and keeps sessions, in memory: a restart logs everybody out."""

    def __init__(self, token: str, *, guards_reading: bool) -> None:
        self.guards_reading = guards_reading
        self._token = token
        self._sessions: dict[str, _Session] = {}
        self._failures: dict[str, deque[float]] = {}

    def is_token(self, candidate: str) -> bool:
        """Whether `candidate` is the token; takes as long for a near miss as for a far one."""
        return hmac.compare_digest(candidate.encode(), self._token.encode())

    def log_in(self, candidate: str, name: str, address: str = "") -> str | None:
        """A new session's secret for the right token, None for a wrong one.

        Args:
            name: kept with what the session changes.
            address: where it comes from.

        Raises:
            TooManyTokensError: too many wrong ones came from there.
        """
        if not self._tries(candidate, address):
            return None
        now = time.monotonic()
        self._sessions = {key: other for key, other in self._sessions.items() if other.ends_at > now}
        session = secrets.token_urlsafe(32)
        self._sessions[_digest(session)] = _Session(now + SESSION_S, name.strip()[:_MOST_NAME] or "console")
        return session

    def log_out(self, session: str) -> None:
        """End a session."""
        self._sessions.pop(_digest(session), None)

    def is_session(self, session: str | None) -> bool:
        """Whether `session` is one that has begun and not ended."""
        return self.name_of(session) is not None

    def name_of(self, session: str | None) -> str | None:
        """Who began `session`; None where it is none, or is over."""
        found = None if session is None else self._sessions.get(_digest(session))
        return None if found is None or found.ends_at <= time.monotonic() else found.name

    def knows(self, headers: Mapping[str, str], address: str = "") -> bool:
        """Whether a request comes with a session or with the token.

        Raises:
            TooManyTokensError: it comes with a token, and too many wrong ones came from its address.
        """
        candidate = _bearer(headers)
        return self.is_session(session_of(headers)) if candidate is None else self._tries(candidate, address)

    def bears_token(self, headers: Mapping[str, str]) -> bool:
        """Whether a request that was let in comes with the token itself."""
        candidate = _bearer(headers)
        return candidate is not None and self.is_token(candidate)

    def _tries(self, candidate: str, address: str) -> bool:
        now = time.monotonic()
        self._failures = {
            other: times for other, times in self._failures.items() if now - times[-1] <= _FAILURE_WINDOW_S
        }
        wrong = self._failures.get(address, deque(maxlen=_MOST_FAILURES))
        if len(wrong) == _MOST_FAILURES and now - wrong[0] <= _FAILURE_WINDOW_S:
            raise TooManyTokensError
        if self.is_token(candidate):
            return True
        wrong.append(now)
        self._failures[address] = wrong
        return False


def session_of(headers: Mapping[str, str]) -> str | None:
    """The secret of the session in a request's cookie."""
    # As browsers mean it: the cookie of another program on this machine may hold what the standard library refuses.
    return cookie_parser(headers.get("cookie", "")).get(SESSION_COOKIE)


def _bearer(headers: Mapping[str, str]) -> str | None:
    scheme, _, candidate = headers.get("authorization", "").partition(" ")
    return candidate.strip() if scheme.lower() == "bearer" else None


def _digest(session: str) -> str:
    return hashlib.sha256(session.encode()).hexdigest()


class Guard:
    """Middleware: turns away whom `Access` does not know where that is asked for, and pages of other sites always.

    A page of another site must neither open a connection here (its browser would send the session along) nor pass for
    this machine by a name of its own that it lets point to 127.0.0.1.
    """

    def __init__(self, app: ASGIApp, access: Access, host: str) -> None:
        self._app = app
        self._access = access
        self._names = frozenset({"localhost", "127.0.0.1", "[::1]", "::1", host})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through, or answer with a sentence."""
        refusal = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._access.guards_reading and _name(headers.get("host", "")) not in self._names:
            return _refuse(403, f"the console answers to localhost only, not to {headers.get('host', '')!r}")
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes and origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return _refuse(403, "a page of another site may not use the console")
        if not self._access.guards_reading or scope["path"] in OPEN_PATHS:
            return None
        try:
            if self._access.knows(headers, scope["client"][0] if scope.get("client") else ""):
                return None
        except TooManyTokensError as error:
            return _refuse(429, error.sentence, {"Retry-After": str(int(_FAILURE_WINDOW_S))})
        if scope["type"] == "http" and "text/html" in headers.get("accept", ""):
            return RedirectResponse(login_path(scope["path"]), 303)
        return _refuse(401, "log in, or send the token as 'Authorization: Bearer ...'", {"WWW-Authenticate": "Bearer"})


def _name(host: str) -> str:
    """A Host header without its port."""
    return host.rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdigit() else host


def _refuse(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    body = orjson.dumps(error_body(TwinError(sentence)))
    return Response(body, status, headers=headers, media_type="application/json")
