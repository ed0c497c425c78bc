"""Start nginx as a proxy of the console under a path prefix, with the configuration of `deploy/nginx/console.conf`."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.servers.config_files import replace_lines
from deploy.servers.install import DEBIAN, require
from deploy.servers.process import HOST, Command, Server, accepts_connections, unused_port
from deploy.servers.versions import DEPLOY

_CONFIGURATION = """
user {user};
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {site};
}}
"""


@dataclass(frozen=True)
class Nginx:
    """An nginx on loopback; `url` is that of the console, with the prefix."""

    url: str
    server: Server


@contextmanager
def nginx(folder: Path, console_port: int) -> Iterator[Nginx]:
    """A running nginx in front of the console on `console_port`, with its files in `folder`, created if missing.

    Raises:
        TwinError: nginx is not installed, or did not start.
    """
    package = DEBIAN["nginx-light"]
    require(package)
    folder.mkdir(parents=True, exist_ok=True)
    port = unused_port()
    site, configuration = folder / "console.conf", folder / "nginx.conf"
    site.write_text(
        replace_lines(
            DEPLOY / "nginx" / "console.conf",
            {
                "    listen 80;": f"    listen {HOST}:{port};",
                "        proxy_pass http://127.0.0.1:5002/;": f"        proxy_pass http://{HOST}:{console_port}/;",
            },
        )
    )
    configuration.write_text(_CONFIGURATION.format(user=getpass.getuser(), folder=folder, site=site))
    server = Server(
        Command(
            "nginx",
            (str(package.program("nginx")), "-c", str(configuration), "-p", str(folder)),
            ready=lambda: accepts_connections(port),
            log=folder / "server.log",
            folder=folder,
        )
    )
    with server:
        yield Nginx(f"http://{HOST}:{port}/twin", server)
