"""Log in and out: plain HTML, because where reading is guarded nothing else may be loaded before."""

from __future__ import annotations

import asyncio
import html
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from console.access import LOGIN_PATH, SESSION_COOKIE, SESSION_S, Access, TooManyTokensError, session_of

_FAILED_S = 0.5
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Log in · Battery twin</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<style>body{{font:16px/1.5 system-ui,sans-serif;display:grid;place-items:center;min-height:95vh;margin:0 1rem}}
form{{width:min(24rem,100%);display:grid;gap:.75rem}}h1{{font-size:1.25rem;margin:0}}p{{margin:0;opacity:.75}}
label{{display:grid;gap:.25rem;font-size:.875rem}}input,button{{font:inherit;padding:.55rem .7rem;border-radius:6px;
border:1px solid #8888}}button{{background:#0072b2;color:#fff;border:0;cursor:pointer}}
.wrong{{color:#d55e00;opacity:1;font-weight:600}}</style></head><body><form method="post">
<h1>Battery twin console</h1>{message}
<p>The token is TWIN_CONSOLE_TOKEN, or the content of <code>var/console_token</code>.</p>
<label>Your name, kept with what you change<input name="name" required maxlength="60" autocomplete="username"></label>
<label>Token<input name="token" type="password" required autofocus autocomplete="current-password"></label>
<input type="hidden" name="next" value="{next}"><button>Log in</button></form></body></html>"""


@dataclass(frozen=True)
class Login:
    """The three routes."""

    access: Access

    def router(self) -> APIRouter:
        """`/login` and `/logout`; no part of the documented API."""
        router = APIRouter(include_in_schema=False)
        router.add_api_route(LOGIN_PATH, self.ask, methods=["GET"])
        router.add_api_route(LOGIN_PATH, self.log_in, methods=["POST"])
        router.add_api_route("/logout", self.log_out, methods=["POST"])
        return router

    async def ask(self, next: str = "/") -> Response:  # noqa: A002 - the query's name
        """The form."""
        return _form(next)

    async def log_in(
        self,
        request: Request,
        token: Annotated[str, Form()],
        name: Annotated[str, Form()],
        next: Annotated[str, Form()] = "/",  # noqa: A002
    ) -> Response:
        """Begin a session, or ask again."""
        try:
            session = self.access.log_in(token, name, request.client.host if request.client else "")
        except TooManyTokensError as error:
            return _form(next, error.sentence, 429)
        if session is None:
            await asyncio.sleep(_FAILED_S)
            return _form(next, "That is not the token.", 401)
        answer = RedirectResponse(_own(next), 303)
        answer.set_cookie(
            SESSION_COOKIE,
            session,
            max_age=int(SESSION_S),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def log_out(self, request: Request) -> Response:
        """End the session."""
        session = session_of(request.headers)
        if session is not None:
            self.access.log_out(session)
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(SESSION_COOKIE)
        return answer


def _form(after: str, wrong: str = "", status: int = 200) -> Response:
    message = f'<p class="wrong" role="alert">{html.escape(wrong)}</p>' if wrong else ""
    return HTMLResponse(_PAGE.format(message=message, next=html.escape(_own(after))), status)


def _own(path: str) -> str:
    """`path` where it stays on this site, else its front page."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"
