"""The console behind Debian's nginx, under a path prefix and with nginx's default Host header."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from console.forwarded import path_prefix
from deploy.servers.install import DEBIAN
from deploy.servers.nginx import Nginx, nginx
from telemetry.stores.migrate import migrate
from tests.console.console_process import TOKEN, console
from tests.needs import need

#: Attributes and properties of a page that hold an address.
ADDRESS = re.compile(r"""(?:href|src|action)=\\?"(/[^"\\]*)|import(?: url\()? ?\\?"(/[^"\\]*)|"(/_nicegui[^"\\]*)""")


@pytest.fixture(scope="module")
def site(
    postgres_server: str, new_database: Any, empty_registry: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """URL of a console on loopback with an empty store and registry."""
    dsn, folder = new_database(postgres_server), tmp_path_factory.mktemp("console")
    migrate(dsn)
    (folder / "var").mkdir()
    shutil.copy(empty_registry, folder / "var" / "mlflow.db")
    with console(dsn, folder, "/api/health") as url:
        yield url


@pytest.fixture(scope="module")
def proxy(site: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    need(DEBIAN["nginx-light"])
    port = urlsplit(site).port
    assert port is not None
    with nginx(tmp_path_factory.mktemp("nginx"), port) as running:
        yield running


@pytest.fixture
def client(proxy: Nginx) -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=30) as opened:
        yield opened


def open_websocket(url: str, origin: str) -> tuple[int, bytes]:
    """Status of the handshake with the websocket of the pages, and the beginning of its first message."""
    address = urlsplit(url)
    headers = {
        "Origin": origin,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
    }
    with closing(HTTPConnection(str(address.hostname), address.port, timeout=10)) as connection:
        connection.request("GET", f"{address.path}/_nicegui_ws/socket.io/?EIO=4&transport=websocket", headers=headers)
        sock = connection.sock
        received = b""
        while b"\r\n\r\n" not in received or (b" 101 " in received[:20] and b"sid" not in received):
            part = sock.recv(4096)
            if not part:
                break
            received += part
    head, _, message = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), message


@pytest.mark.parametrize("path", ["/", "/alerts", "/models", "/data", "/docs", "/login"])
def test_every_link_and_file_of_a_page_has_the_prefix(client: httpx.Client, proxy: Nginx, path: str) -> None:
    page = client.get(f"{proxy.url}{path}", headers={"accept": "text/html"})
    assert page.status_code == 200
    addresses = {next(filter(None, found)) for found in ADDRESS.findall(page.text)}
    assert all(address.startswith("/twin/") for address in addresses), addresses
    if path != "/login":
        assert len(addresses) >= 3
    origin = proxy.url.removesuffix("/twin")
    files = [address for address in addresses if re.search(r"\.(css|js)$|openapi\.json$", address)]
    for address in files:
        assert client.get(origin + address).status_code == 200, address
    if path == "/docs":
        assert client.get(f"{proxy.url}/openapi.json").json()["servers"] == [{"url": "/twin"}]
        assert "/twin/openapi.json" in page.text


def test_api_and_errors_pass(client: httpx.Client, proxy: Nginx) -> None:
    assert client.get(f"{proxy.url}/api/batteries/list").json() == {"batteries": [], "count": 0}
    assert client.get(f"{proxy.url}/api/battery/status").status_code == 404


def test_login_and_logout_stay_under_the_prefix(client: httpx.Client, proxy: Nginx) -> None:
    origin = {"origin": proxy.url.removesuffix("/twin")}
    form = {"token": TOKEN, "name": "ada", "next": "/alerts"}
    response = client.post(f"{proxy.url}/login", data=form, headers=origin)
    assert (response.status_code, response.headers["location"]) == (303, "/twin/alerts")
    assert "path=/twin/" in response.headers["set-cookie"].lower()
    assert "Log out ada" in client.get(f"{proxy.url}/alerts").text
    response = client.post(f"{proxy.url}/logout", headers=origin)
    assert (response.status_code, response.headers["location"]) == (303, "/twin/")
    assert "Log out ada" not in client.get(f"{proxy.url}/alerts").text
    refused = client.post(f"{proxy.url}/login", data=form, headers={"origin": "http://evil.example"})
    assert refused.status_code == 403


def test_websocket_of_the_pages_passes_and_one_of_another_site_does_not(proxy: Nginx) -> None:
    status, message = open_websocket(proxy.url, proxy.url.removesuffix("/twin"))
    assert status == 101
    assert b'0{"sid"' in message
    assert open_websocket(proxy.url, "http://evil.example")[0] == 403


def test_without_the_forwarded_host_the_refusal_names_the_remedy(site: str) -> None:
    """As behind a proxy that sends its default Host and nothing else; a browser that says `same-origin` is believed."""
    shown = {"origin": "http://twin.example"}
    refused = httpx.post(f"{site}/logout", headers=shown, trust_env=False)
    assert refused.status_code == 403
    assert "X-Forwarded-Host" in refused.json()["error"]
    believed = httpx.post(f"{site}/logout", headers=shown | {"sec-fetch-site": "same-origin"}, trust_env=False)
    assert believed.status_code == 303
    foreign = httpx.post(f"{site}/logout", headers=shown | {"sec-fetch-site": "cross-site"}, trust_env=False)
    assert foreign.status_code == 403
    # The Host header itself is still checked: the header of a proxy does not help against DNS rebinding.
    rebound = {"host": "evil.example", "x-forwarded-host": "localhost", "sec-fetch-site": "same-origin"}
    assert httpx.get(f"{site}/api/batteries/list", headers=rebound, trust_env=False).status_code == 403


@pytest.mark.parametrize(
    ("header", "prefix"),
    [("/twin", "/twin"), ("/twin/", "/twin"), ("/a/b-c", "/a/b-c"), ("", ""), ("twin", ""), ("//evil.example", ""),
     ('/"><script>', ""), ("/a b", ""), ("/twin'", ""), ("/..\\", "")],
)  # fmt: skip
def test_only_a_valid_prefix_is_used(header: str, prefix: str, site: str) -> None:
    assert path_prefix({"x-forwarded-prefix": header}) == prefix
    page = httpx.get(f"{site}/", headers={"x-forwarded-prefix": header}, trust_env=False).text
    assert f'href="{prefix}/console-static/console.css"' in page
    assert "<script>alert" not in page
    assert "evil.example" not in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Debian's chromium is absent: apt-get install chromium")
def test_browser_gets_live_pages_and_follows_links(proxy: Nginx) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is absent")
    problems: list[str] = []
    with (
        playwright.sync_playwright() as started,
        closing(
            started.chromium.launch(executable_path=shutil.which("chromium"), args=["--headless", "--no-sandbox"])
        ) as browser,
    ):
        page = browser.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("response", lambda answer: problems.append(answer.url) if answer.status >= 400 else None)
        page.goto(f"{proxy.url}/")
        page.wait_for_function("window.path_prefix === '/twin'")
        page.wait_for_selector(".connection:has-text('Live')")
        for name, path in (("Alerts", "/alerts"), ("Models", "/models"), ("Battery twin", "/")):
            page.click(f"a:has-text('{name}')")
            page.wait_for_url(f"{proxy.url}{path}")
            page.wait_for_selector(".connection:has-text('Live')")
        page.click("a:has-text('Log in')")
        page.wait_for_url(f"{proxy.url}/login**")
        page.fill("input[name=name]", "ada")
        page.fill("input[name=token]", TOKEN)
        page.click("button")
        page.wait_for_url(f"{proxy.url}/")
        page.wait_for_selector("text=Log out ada")
    assert problems == []
