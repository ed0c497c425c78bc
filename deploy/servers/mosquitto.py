"""Start a Mosquitto MQTT broker with a plain and a TLS listener, both with password authentication."""

from __future__ import annotations

import getpass
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.servers.config_files import replace_lines
from deploy.servers.install import DEBIAN, require
from deploy.servers.process import HOST, Command, Server, accepts_connections, run, unused_port
from deploy.servers.versions import DEPLOY

_OWNER_ONLY = 0o600


@dataclass(frozen=True)
class Mosquitto:
    """An MQTT broker on loopback.

    Attributes:
        ca_file: self-signed certificate of the TLS listener; clients use it as their only CA.
    """

    host: str
    port: int
    tls_port: int
    username: str
    password: str
    ca_file: Path
    server: Server


@contextmanager
def mosquitto(folder: Path) -> Iterator[Mosquitto]:
    """A running broker with its data in `folder`, which is created if missing.

    Raises:
        TwinError: Mosquitto or OpenSSL is not installed, or Mosquitto did not start.
    """
    programs = DEBIAN["mosquitto"]
    require(programs, DEBIAN["openssl"])
    folder.mkdir(parents=True, exist_ok=True)
    port, tls_port = unused_port(), unused_port()
    certificate, key = folder / "server.crt", folder / "server.key"
    if not certificate.exists():
        self_signed_certificate(certificate, key)
    password = secrets.token_hex(16)
    passwords = folder / "passwords"
    passwords.touch(mode=_OWNER_ONLY)
    passwords.write_text(f"twin:{password}\n")
    run([str(programs.program("mosquitto_passwd")), "-U", str(passwords)])
    acl = folder / "acl"
    acl.touch(mode=_OWNER_ONLY)
    acl.write_text((DEPLOY / "mosquitto" / "acl").read_text())
    configuration = folder / "mosquitto.conf"
    configuration.write_text(
        replace_lines(
            DEPLOY / "mosquitto" / "mosquitto.conf",
            {
                "password_file /tmp/passwords": f"password_file {passwords}",
                "acl_file /mosquitto/config/acl": f"acl_file {acl}",
                "persistence_location /mosquitto/data/": f"persistence_location {folder}/",
                "listener 1883": f"listener {port} {HOST}",
                "listener 8883": f"listener {tls_port} {HOST}",
                "certfile /certificate/server.crt": f"certfile {certificate}",
                "keyfile /certificate/server.key": f"keyfile {key}",
            },
        )
        # Started as root it would switch to a user without access to this folder.
        + f"user {getpass.getuser()}\n"
    )
    server = Server(
        Command(
            "Mosquitto",
            (str(programs.program("mosquitto")), "-c", str(configuration)),
            ready=lambda: accepts_connections(port) and accepts_connections(tls_port),
            log=folder / "server.log",
            folder=folder,
        )
    )
    with server:
        yield Mosquitto(HOST, port, tls_port, "twin", password, certificate, server)


def self_signed_certificate(certificate: Path, key: Path) -> None:
    """Create a certificate for loopback and its key, as the service `certificate` in docker-compose.yml does."""
    run(
        ["openssl", "req", "-x509", "-newkey", "rsa:3072", "-nodes", "-days", "3650", "-subj", "/CN=mosquitto",
         "-addext", f"subjectAltName=DNS:localhost,IP:{HOST}", "-keyout", str(key), "-out", str(certificate)]
    )  # fmt: skip
