"""Login and logout routes with a plain HTML form, because without a login no other resource may be loaded."""

from __future__ import annotations

import asyncio
import html
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote, unquote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.requests import cookie_parser

from console.access import LOGIN_PATH, LOGIN_SESSION_S, SESSION_COOKIE, Access, TooManyWrongTokensError, session_cookie
from console.forwarded import path_prefix

_FAILURE_DELAY_S = 0.5
#: The name is remembered per browser, so that only the token has to be entered again.
_NAME_COOKIE = "twin_name"
_NAME_KEPT_S = 365 * 86400
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Log in · Battery twin</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<style>body{{font:16px/1.5 system-ui,sans-serif;display:grid;place-items:center;min-height:95vh;margin:0 1rem}}
form{{width:min(24rem,100%);display:grid;gap:.75rem}}h1{{font-size:1.25rem;margin:0}}p{{margin:0;opacity:.75}}
label{{display:grid;gap:.25rem;font-size:.875rem}}input,button{{font:inherit;padding:.55rem .7rem;border-radius:6px;
border:1px solid #8888}}button{{background:#0072b2;color:#fff;border:0;cursor:pointer}}
.wrong{{color:#d55e00;opacity:1;font-weight:600}}</style></head><body><form method="post">
<h1>Battery twin console</h1>{message}
<p>The token is TWIN_CONSOLE_TOKEN, or the content of <code>var/console_token</code>.</p>
<label>Your name, recorded with your changes<input name="name" required maxlength="60"
autocomplete="username" value="{name}"{name_focus}></label>
<label>Token<input name="token" type="password" required
autocomplete="current-password"{token_focus}></label>
<input type="hidden" name="next" value="{next}"><button>Log in</button></form></body></html>"""


@dataclass(frozen=True)
class LoginRoutes:
    """Handlers of `/login` and `/logout`."""

    access: Access

    def router(self) -> APIRouter:
        """Router with the two paths, not part of the OpenAPI document."""
        router = APIRouter(include_in_schema=False)
        router.add_api_route(LOGIN_PATH, self.show_form, methods=["GET"])
        router.add_api_route(LOGIN_PATH, self.log_in, methods=["POST"])
        router.add_api_route("/logout", self.log_out, methods=["POST"])
        return router

    async def show_form(self, request: Request, next: str = "/") -> Response:  # noqa: A002 - the query's name
        """The login form, with the name of the last login in this browser."""
        return _form(next, unquote(cookie_parser(request.headers.get("cookie", "")).get(_NAME_COOKIE, "")))

    async def log_in(
        self,
        request: Request,
        token: Annotated[str, Form()],
        name: Annotated[str, Form()],
        next: Annotated[str, Form()] = "/",  # noqa: A002
    ) -> Response:
        """Create a login session, or show the form with an error."""
        try:
            session = self.access.log_in(token, name, request.client.host if request.client else "")
        except TooManyWrongTokensError as error:
            return _form(next, name, error.sentence, 429)
        if session is None:
            await asyncio.sleep(_FAILURE_DELAY_S)
            return _form(next, name, "Wrong token.", 401)
        prefix = path_prefix(request.headers)
        response = RedirectResponse(prefix + _local_path(next), 303)
        response.set_cookie(
            SESSION_COOKIE,
            session,
            max_age=int(LOGIN_SESSION_S),
            path=f"{prefix}/",  # other programs behind the same proxy do not get it
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        response.set_cookie(
            _NAME_COOKIE, quote(name), max_age=_NAME_KEPT_S, path=f"{prefix}/", httponly=True, samesite="strict"
        )
        return response

    async def log_out(self, request: Request) -> Response:
        """Delete the login session."""
        session = session_cookie(request.headers)
        if session is not None:
            self.access.log_out(session)
        home = f"{path_prefix(request.headers)}/"
        response = RedirectResponse(home, 303)
        response.delete_cookie(SESSION_COOKIE, path=home)
        return response


def _form(after: str, name: str = "", wrong: str = "", status: int = 200) -> Response:
    message = f'<p class="wrong" role="alert">{html.escape(wrong)}</p>' if wrong else ""
    focus = {"name_focus": "" if name else " autofocus", "token_focus": " autofocus" if name else ""}
    page = _PAGE.format(message=message, next=html.escape(_local_path(after)), name=html.escape(name), **focus)
    return HTMLResponse(page, status)


def _local_path(path: str) -> str:
    """`path` if it is on this site, else `/` (no open redirect)."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"
