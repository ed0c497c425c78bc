"""Real parts for the tests: an embedded PostgreSQL and MQTT broker, started once, and the shared data if present."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from data.embedded.mqtt_broker import embedded_mqtt_broker
from data.embedded.ports import free_port
from data.embedded.postgres import embedded_postgres

ROOT = Path(__file__).resolve().parents[1]
_number = itertools.count()


@pytest.fixture(scope="session")
def server_folders() -> Iterator[Path]:
    """Where servers keep their data.

    Not in pytest's own temporary folder: each pytest that starts shuts that to everybody but its user, and the
    database of root runs as another one.
    """
    with tempfile.TemporaryDirectory(prefix="twin-tests-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_server(server_folders: Path) -> Iterator[str]:
    """DSN of an embedded PostgreSQL, in a folder whose path is long and has spaces."""
    with embedded_postgres(server_folders / ("a rather long path " * 6).strip() / "postgres", durable=False) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def new_database() -> Callable[[str], str]:
    """Makes an empty database on the server of a DSN and gives the DSN of it."""

    def create(server_dsn: str) -> str:
        name = f"test_{next(_number)}"
        connection = psycopg2.connect(server_dsn)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        connection.close()
        return server_dsn.replace("/postgres?", f"/{name}?")

    return create


@pytest.fixture
def postgres_dsn(postgres_server: str) -> str:
    """DSN that sees an empty schema of its own: as good as a database, without its thousand files."""
    name = f"test_{next(_number)}"
    connection = psycopg2.connect(postgres_server)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {name}")
    connection.close()
    return f"{postgres_server}&options=-c%20search_path%3D{name}"


@pytest.fixture(scope="session")
def mqtt_broker() -> Iterator[tuple[str, int]]:
    """Host and port of a running broker."""
    with embedded_mqtt_broker("127.0.0.1", free_port("127.0.0.1", 18830)) as address:
        yield address


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real battery data beside the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("…/shared/data is absent")
    return folder
