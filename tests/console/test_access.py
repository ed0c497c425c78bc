"""Who may look and who may change: loopback, the token, sessions, pages of other sites."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from console.access import (
    SESSION_COOKIE,
    SESSION_S,
    Access,
    Guard,
    TooManyTokensError,
    is_loopback,
    token_of,
)
from console.pages.context import Visitor
from console.pages.login import Login
from telemetry.errors import TwinError
from telemetry.settings import Settings
from tests.console.conftest import served

TOKEN = "a token of the tests"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("10.0.0.5", False), ("twin.example", False)],
)  # fmt: skip
def test_what_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_token_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    settings = Settings(var=tmp_path / "var", console_token=None)
    token = token_of(settings)
    assert len(token) >= 40
    assert token_of(settings) == token
    assert stat.S_IMODE((tmp_path / "var" / "console_token").stat().st_mode) == 0o600
    assert token_of(Settings(var=tmp_path / "other", console_token=None)) != token


def test_a_link_in_the_place_of_the_token_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("")
    (tmp_path / "console_token").symlink_to(elsewhere)
    with pytest.raises(TwinError, match="holds no token"):
        token_of(Settings(var=tmp_path, console_token=None))
    assert elsewhere.read_text() == ""


def test_a_short_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TwinError, match="5 characters") as caught:
        token_of(Settings(var=tmp_path, console_token=SecretStr("short")))
    assert "short" not in caught.value.sentence


def test_beyond_loopback_a_token_has_to_be_set(tmp_path: Path) -> None:
    with pytest.raises(TwinError, match="TWIN_CONSOLE_TOKEN"):
        token_of(Settings(var=tmp_path, host="0.0.0.0", console_token=None))
    assert token_of(Settings(var=tmp_path, host="0.0.0.0", console_token=SecretStr(TOKEN))) == TOKEN


def test_sessions_begin_with_the_token_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access(TOKEN, guards_reading=True)
    assert access.log_in("wrong", "eve") is None
    session = access.log_in(TOKEN, "ada")
    assert session is not None
    assert access.name_of(session) == "ada"
    assert not access.is_session(session + "x")
    assert access.knows({"cookie": f"a=b; {SESSION_COOKIE}={session}"})
    assert not access.knows({"cookie": f"{SESSION_COOKIE}={TOKEN}"})
    access.log_out(session)
    assert not access.is_session(session)
    old = access.log_in(TOKEN, "ada")
    later = time.monotonic() + SESSION_S + 1
    monkeypatch.setattr("console.access.time.monotonic", lambda: later)
    assert not access.is_session(old)


def test_guessing_is_slowed_down_for_who_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access(TOKEN, guards_reading=True)
    for _ in range(5):
        assert access.log_in("wrong", "eve", "10.0.0.66") is None
        assert not access.knows({"authorization": "Bearer wrong"}, "10.0.0.66")
    with pytest.raises(TooManyTokensError, match="try again in a minute"):
        access.log_in(TOKEN, "ada", "10.0.0.66")
    with pytest.raises(TooManyTokensError):
        access.knows({"authorization": f"Bearer {TOKEN}"}, "10.0.0.66")
    session = access.log_in(TOKEN, "ada", "10.0.0.5")
    assert session is not None
    assert access.knows({"cookie": f"{SESSION_COOKIE}={session}"}, "10.0.0.66")  # a session is no guess
    later = time.monotonic() + 61
    monkeypatch.setattr("console.access.time.monotonic", lambda: later)
    assert access.log_in(TOKEN, "ada", "10.0.0.66") is not None


@pytest.mark.parametrize("other", ['prefs={"a":1, "b":2}', "a[b]=c", "x", "=", 'broken="'])
def test_cookies_of_other_programs_on_this_machine_do_no_harm(other: str) -> None:
    access = Access(TOKEN, guards_reading=True)
    session = access.log_in(TOKEN, "ada")
    assert access.knows({"cookie": f"{other}; {SESSION_COOKIE}={session}"})
    assert access.knows({"cookie": f"{SESSION_COOKIE}={session}; {other}"})


def test_a_page_may_be_looked_at_as_long_as_its_session_lasts() -> None:
    access = Access(TOKEN, guards_reading=True)
    session = access.log_in(TOKEN, "ada")
    assert session is not None
    visitor = Visitor.of(access, {"cookie": f"{SESSION_COOKIE}={session}"})
    assert visitor.may_look
    access.log_out(session)
    assert not visitor.may_look
    assert Visitor.of(access, {"authorization": f"Bearer {TOKEN}"}).may_look
    assert Visitor.of(Access(TOKEN, guards_reading=False), {}).may_look


@pytest.fixture
def guarded() -> Iterator[Callable[[bool], httpx.Client]]:
    """Makes a client of an application behind a guard, which guards reading or not."""
    with ExitStack() as stack:

        def make(guards_reading: bool) -> httpx.Client:
            app = FastAPI()
            app.add_api_route("/health", lambda: "alive")
            app.add_api_route("/api/alerts", lambda: "read")
            app.add_api_route("/change", lambda: "changed", methods=["POST"])
            app.add_middleware(Guard, access=Access(TOKEN, guards_reading=guards_reading), host="127.0.0.1")
            return stack.enter_context(served(app))

        yield make


def test_on_loopback_everybody_may_look(guarded: Callable[[bool], httpx.Client]) -> None:
    assert guarded(False).get("/api/alerts").json() == "read"


def test_a_name_that_somebody_lets_point_here_is_refused(guarded: Callable[[bool], httpx.Client]) -> None:
    client = guarded(False)
    answer = client.get("/api/alerts", headers={"host": "evil.example:5002"})
    assert answer.status_code == 403
    assert "localhost only" in answer.json()["error"]
    assert client.get("/api/alerts", headers={"host": "localhost:5002"}).status_code == 200


def test_a_page_of_another_site_may_not_change_anything(guarded: Callable[[bool], httpx.Client]) -> None:
    client = guarded(False)
    assert client.post("/change", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("/change", headers={"origin": "null"}).status_code == 403
    own = str(client.base_url).rstrip("/")
    assert client.post("/change", headers={"origin": own}).json() == "changed"


def test_beyond_loopback_nothing_is_shown_without_the_token(guarded: Callable[[bool], httpx.Client]) -> None:
    client = guarded(True)
    answer = client.get("/api/alerts")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/api/alerts", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/api/alerts", headers={"authorization": f"Bearer {TOKEN}"}).json() == "read"
    assert client.get("/health").json() == "alive"
    for _ in range(9):
        assert client.get("/api/alerts", headers={"authorization": "Bearer guess"}).status_code == 401
    answer = client.get("/api/alerts", headers={"authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    assert "too many wrong tokens" in answer.json()["error"].lower()
    page = client.get("/battery/EV-1", headers={"accept": "text/html"})
    assert page.status_code == 303
    assert page.headers["location"] == "/login?next=/battery/EV-1"


def test_logging_in_stays_on_this_site() -> None:
    app, access = FastAPI(), Access(TOKEN, guards_reading=False)
    app.include_router(Login(access).router())
    with served(app, forwarded_allow_ips="127.0.0.1") as client:
        form, https = {"token": TOKEN, "name": "ada"}, {"x-forwarded-proto": "https", "x-forwarded-for": "10.0.0.9"}
        assert "; secure" not in client.post("/login", data=form).headers["set-cookie"].lower()
        # A proxy in front of it that is trusted says that the visitor came by https, and from where.
        assert "; secure" in client.post("/login", data=form, headers=https).headers["set-cookie"].lower()
        for _ in range(10):
            access.log_in("wrong", "eve", "10.0.0.9")
        assert "try again in a minute" in client.post("/login", data=form, headers=https).text
        assert "not the token" in client.post("/login", data={"token": "wrong", "name": "eve"}).text
        for after, where in (("/alerts", "/alerts"), ("//evil.example", "/"), ("https://evil.example", "/")):
            answer = client.post("/login", data={"token": TOKEN, "name": "ada", "next": after})
            assert (answer.status_code, answer.headers["location"]) == (303, where)
            cookie = answer.headers["set-cookie"].lower()
            assert "httponly" in cookie
            assert "samesite=strict" in cookie
            assert access.knows({"cookie": answer.headers["set-cookie"].split(";")[0]})
        assert "<script>" not in client.get("/login", params={"next": '/"><script>'}).text
        assert client.post("/logout").status_code == 303
    assert not access.knows({"cookie": answer.headers["set-cookie"].split(";")[0]})
