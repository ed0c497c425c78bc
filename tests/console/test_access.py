"""Authentication: loopback, token, login sessions, lockout and cross-origin requests."""

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
    LOGIN_SESSION_S,
    SESSION_COOKIE,
    Access,
    AccessMiddleware,
    TooManyWrongTokensError,
    is_loopback,
    load_token,
)
from console.pages.context import Visitor
from console.pages.login import LoginRoutes
from telemetry.errors import TwinError
from telemetry.settings import Settings
from tests.console.conftest import served

TOKEN = "a token of the tests"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("10.0.0.5", False), ("twin.example", False)],
)  # fmt: skip
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_token_file_is_created_once_with_mode_0600(tmp_path: Path) -> None:
    settings = Settings(var=tmp_path / "var", console_token=None)
    token = load_token(settings)
    assert len(token) >= 40
    assert load_token(settings) == token
    assert stat.S_IMODE((tmp_path / "var" / "console_token").stat().st_mode) == 0o600
    assert load_token(Settings(var=tmp_path / "other", console_token=None)) != token


def test_symbolic_link_at_the_token_path_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("")
    (tmp_path / "console_token").symlink_to(elsewhere)
    with pytest.raises(TwinError, match="holds no valid token"):
        load_token(Settings(var=tmp_path, console_token=None))
    assert elsewhere.read_text() == ""


def test_short_token_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(TwinError, match="5 characters") as caught:
        load_token(Settings(var=tmp_path, console_token=SecretStr("short")))
    assert "short" not in caught.value.sentence


def test_non_loopback_host_requires_a_configured_token(tmp_path: Path) -> None:
    with pytest.raises(TwinError, match="TWIN_CONSOLE_TOKEN"):
        load_token(Settings(var=tmp_path, host="0.0.0.0", console_token=None))
    assert load_token(Settings(var=tmp_path, host="0.0.0.0", console_token=SecretStr(TOKEN))) == TOKEN


def test_login_session_starts_with_the_token_and_ends_at_logout_or_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access(TOKEN, read_requires_login=True)
    assert access.log_in("wrong", "eve") is None
    session = access.log_in(TOKEN, "ada")
    assert session is not None
    assert access.session_name(session) == "ada"
    assert not access.is_valid_session(session + "x")
    assert access.is_authorized({"cookie": f"a=b; {SESSION_COOKIE}={session}"})
    assert not access.is_authorized({"cookie": f"{SESSION_COOKIE}={TOKEN}"})
    access.log_out(session)
    assert not access.is_valid_session(session)
    old = access.log_in(TOKEN, "ada")
    later = time.monotonic() + LOGIN_SESSION_S + 1
    monkeypatch.setattr("console.access.time.monotonic", lambda: later)
    assert not access.is_valid_session(old)


def test_address_is_locked_out_after_ten_wrong_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access(TOKEN, read_requires_login=True)
    for _ in range(5):
        assert access.log_in("wrong", "eve", "10.0.0.66") is None
        assert not access.is_authorized({"authorization": "Bearer wrong"}, "10.0.0.66")
    with pytest.raises(TooManyWrongTokensError, match="try again in a minute"):
        access.log_in(TOKEN, "ada", "10.0.0.66")
    with pytest.raises(TooManyWrongTokensError):
        access.is_authorized({"authorization": f"Bearer {TOKEN}"}, "10.0.0.66")
    session = access.log_in(TOKEN, "ada", "10.0.0.5")
    assert session is not None
    assert access.is_authorized({"cookie": f"{SESSION_COOKIE}={session}"}, "10.0.0.66")  # login still valid
    later = time.monotonic() + 61
    monkeypatch.setattr("console.access.time.monotonic", lambda: later)
    assert access.log_in(TOKEN, "ada", "10.0.0.66") is not None


@pytest.mark.parametrize("other", ['prefs={"a":1, "b":2}', "a[b]=c", "x", "=", 'broken="'])
def test_malformed_cookies_of_other_programs_are_ignored(other: str) -> None:
    access = Access(TOKEN, read_requires_login=True)
    session = access.log_in(TOKEN, "ada")
    assert access.is_authorized({"cookie": f"{other}; {SESSION_COOKIE}={session}"})
    assert access.is_authorized({"cookie": f"{SESSION_COOKIE}={session}; {other}"})


def test_visitor_may_read_until_the_login_session_ends() -> None:
    access = Access(TOKEN, read_requires_login=True)
    session = access.log_in(TOKEN, "ada")
    assert session is not None
    visitor = Visitor.of(access, {"cookie": f"{SESSION_COOKIE}={session}"})
    assert visitor.may_read
    access.log_out(session)
    assert not visitor.may_read
    assert Visitor.of(access, {"authorization": f"Bearer {TOKEN}"}).may_read
    assert Visitor.of(Access(TOKEN, read_requires_login=False), {}).may_read


@pytest.fixture
def client_of() -> Iterator[Callable[[bool], httpx.Client]]:
    """Factory of a client of an application with the middleware, by whether reading requires a login."""
    with ExitStack() as stack:

        def make(protected: bool) -> httpx.Client:
            app = FastAPI()
            app.add_api_route("/health", lambda: "alive")
            app.add_api_route("/api/alerts", lambda: "read")
            app.add_api_route("/change", lambda: "changed", methods=["POST"])
            app.add_middleware(AccessMiddleware, access=Access(TOKEN, read_requires_login=protected), host="127.0.0.1")
            return stack.enter_context(served(app))

        yield make


def test_loopback_allows_reading_without_a_token(client_of: Callable[[bool], httpx.Client]) -> None:
    assert client_of(False).get("/api/alerts").json() == "read"


def test_unknown_host_header_is_rejected_on_loopback(client_of: Callable[[bool], httpx.Client]) -> None:
    client = client_of(False)
    response = client.get("/api/alerts", headers={"host": "evil.example:5002"})
    assert response.status_code == 403
    assert "localhost only" in response.json()["error"]
    assert client.get("/api/alerts", headers={"host": "localhost:5002"}).status_code == 200


def test_cross_origin_post_is_rejected(client_of: Callable[[bool], httpx.Client]) -> None:
    client = client_of(False)
    assert client.post("/change", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("/change", headers={"origin": "null"}).status_code == 403
    own = str(client.base_url).rstrip("/")
    assert client.post("/change", headers={"origin": own}).json() == "changed"


def test_non_loopback_requires_the_token_for_reading(client_of: Callable[[bool], httpx.Client]) -> None:
    client = client_of(True)
    response = client.get("/api/alerts")
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert client.get("/api/alerts", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/api/alerts", headers={"authorization": f"Bearer {TOKEN}"}).json() == "read"
    assert client.get("/health").json() == "alive"
    for _ in range(9):
        assert client.get("/api/alerts", headers={"authorization": "Bearer guess"}).status_code == 401
    response = client.get("/api/alerts", headers={"authorization": f"Bearer {TOKEN}"})
    assert (response.status_code, response.headers["retry-after"]) == (429, "60")
    assert "too many wrong tokens" in response.json()["error"].lower()
    page = client.get("/battery/EV-1", headers={"accept": "text/html"})
    assert page.status_code == 303
    assert page.headers["location"] == "/login?next=/battery/EV-1"


def test_login_sets_a_strict_cookie_and_redirects_to_this_site_only() -> None:
    app, access = FastAPI(), Access(TOKEN, read_requires_login=False)
    app.include_router(LoginRoutes(access).router())
    with served(app, forwarded_allow_ips="127.0.0.1") as client:
        form, https = {"token": TOKEN, "name": "ada"}, {"x-forwarded-proto": "https", "x-forwarded-for": "10.0.0.9"}
        assert "; secure" not in client.post("/login", data=form).headers["set-cookie"].lower()
        # A trusted proxy forwards the scheme and the address of the client.
        assert "; secure" in client.post("/login", data=form, headers=https).headers["set-cookie"].lower()
        for _ in range(10):
            access.log_in("wrong", "eve", "10.0.0.9")
        assert "try again in a minute" in client.post("/login", data=form, headers=https).text
        refused = client.post("/login", data={"token": "wrong", "name": 'eve "<b>'}).text
        assert "Wrong token" in refused
        assert 'value="eve &quot;&lt;b&gt;"' in refused  # only the token has to be entered again
        for after, where in (("/alerts", "/alerts"), ("//evil.example", "/"), ("https://evil.example", "/")):
            response = client.post("/login", data={"token": TOKEN, "name": "ada", "next": after})
            assert (response.status_code, response.headers["location"]) == (303, where)
            cookie = response.headers.get_list("set-cookie")[0].lower()
            assert "httponly" in cookie
            assert "samesite=strict" in cookie
            assert access.is_authorized({"cookie": response.headers["set-cookie"].split(";")[0]})
        assert 'value="ada"' in client.get("/login").text  # remembered by the browser
        assert "<script>" not in client.get("/login", params={"next": '/"><script>'}).text
        assert client.post("/logout").status_code == 303
    assert not access.is_authorized({"cookie": response.headers["set-cookie"].split(";")[0]})
