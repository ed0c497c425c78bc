"""Fixtures shared by all tests: embedded and real servers, each started once on first use, and the shared data.

The embedded servers are always available; tests that need a real server which is not installed are skipped.
"""

from __future__ import annotations

import gc
import itertools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

# Before NumPy is imported, and for the programs that tests start: the small matrices of the tests need no second
# thread, and threads of several test processes that wait for each other multiply the time on few cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import psycopg2
import pytest

from deploy.servers.install import DEBIAN, KAFKA, MINIO
from deploy.servers.kafka import Kafka, kafka
from deploy.servers.minio import Minio
from deploy.servers.minio import minio as running_minio
from deploy.servers.mlflow import mlflow as running_mlflow
from deploy.servers.mosquitto import Mosquitto
from deploy.servers.mosquitto import mosquitto as running_mosquitto
from deploy.servers.postgres import Postgres, create_databases, missing_timescaledb, postgres
from deploy.servers.process import unused_port
from telemetry.embedded.mqtt_broker import embedded_mqtt_broker
from telemetry.embedded.postgres import embedded_postgres
from telemetry.settings import Settings
from tests.needs import need
from training.mlflow_client import connect

ROOT = Path(__file__).resolve().parents[1]
_number = itertools.count()
#: Files that take minutes.  They are run first, or one process ends long after the others.
LONGEST = (
    "test_dvc_clone.py",
    "test_registry.py",
    "test_release_swap.py",
    "test_live_loop.py",
    "test_stream.py",
    "test_fleet_files.py",
    "test_browser.py",
    "test_fleet.py",
    "test_sources.py",
    "test_validation.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the longest files first."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def server_folders() -> Iterator[Path]:
    """Folder for the data of the servers.

    Not in pytest's temporary folder, which only its user can enter: started by root, PostgreSQL runs as another user.
    """
    with tempfile.TemporaryDirectory(prefix="twin-tests-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_server(server_folders: Path) -> Iterator[str]:
    """DSN of an embedded PostgreSQL, whose folder has a long path with spaces."""
    with embedded_postgres(server_folders / ("a rather long path " * 6).strip() / "postgres", durable=False) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def new_database() -> Callable[[str], str]:
    """Function that creates an empty database on the server of a DSN and returns its DSN."""

    def create(server_dsn: str) -> str:
        name = f"test_{next(_number)}"
        connection = psycopg2.connect(server_dsn)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        connection.close()
        return urlsplit(server_dsn)._replace(path=f"/{name}").geturl()

    return create


@pytest.fixture
def postgres_dsn(postgres_server: str) -> str:
    """DSN whose search path is a new empty schema: isolated like a database, but without its thousand files."""
    name = f"test_{next(_number)}"
    connection = psycopg2.connect(postgres_server)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {name}")
    connection.close()
    return f"{postgres_server}&options=-c%20search_path%3D{name}"


@pytest.fixture(scope="session")
def mqtt_broker() -> Iterator[tuple[str, int]]:
    """Host and port of a running broker."""
    with embedded_mqtt_broker("127.0.0.1", unused_port()) as address:
        yield address


@pytest.fixture(scope="session")
def kafka_server(server_folders: Path) -> Iterator[Kafka]:
    """A running Kafka broker."""
    need(KAFKA)
    with kafka(server_folders / "kafka") as running:
        yield running


@pytest.fixture(scope="session")
def kafka_bootstrap(kafka_server: Kafka) -> str:
    """host:port of a Kafka broker that all tests share; use unique names for topics and groups."""
    return kafka_server.bootstrap


@pytest.fixture(autouse=True)
def collected_kafka_sockets(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collects the sockets that kafka-python leaves open in the test that opened them.

    A client that is closed while it connects or has data to send leaves the socket to a task of its event loop, which
    the same `close` ends (kafka-python 3.0).  Without this fixture the warning fails any later test during which the
    garbage collector finds the socket.
    """
    if "kafka_server" not in request.fixturenames:
        yield
        return
    request.node.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def mosquitto(server_folders: Path) -> Iterator[Mosquitto]:
    """A Mosquitto broker with a plain and a TLS listener, both with password authentication."""
    need(DEBIAN["mosquitto"], DEBIAN["openssl"])
    with running_mosquitto(server_folders / "mosquitto") as running:
        yield running


@pytest.fixture(scope="session")
def postgres15(server_folders: Path) -> Iterator[Postgres]:
    """Debian's PostgreSQL, without TimescaleDB."""
    need(DEBIAN["postgresql-15"])
    with postgres(server_folders / "postgresql-15", durable=False) as running:
        yield running


@pytest.fixture(scope="session")
def postgres15_dsn(postgres15: Postgres) -> str:
    """DSN of the database postgres of `postgres15`, as superuser."""
    return postgres15.dsn


@pytest.fixture(scope="session")
def timescaledb_dsn(server_folders: Path) -> Iterator[str]:
    """DSN of a server with TimescaleDB: TELEMETRY_DSN if set, else Debian's PostgreSQL with the extension loaded."""
    if dsn := os.environ.get("TELEMETRY_DSN"):
        yield dsn
        return
    need(DEBIAN["postgresql-15"])
    if reason := missing_timescaledb():
        pytest.skip(reason)
    with postgres(server_folders / "timescaledb", durable=False, timescaledb="timescale") as running:
        yield running.dsn


@pytest.fixture(scope="session")
def minio(server_folders: Path) -> Iterator[Minio]:
    """A MinIO server with the buckets and users of compose."""
    need(MINIO)
    with running_minio(server_folders / "minio") as running:
        yield running


@pytest.fixture(scope="session")
def mlflow_server(server_folders: Path, postgres15: Postgres, minio: Minio) -> Iterator[str]:
    """URL of an empty MLflow server with its metadata on PostgreSQL and its artifacts on MinIO."""
    with running_mlflow(server_folders / "mlflow", create_databases(postgres15).mlflow_dsn, minio) as running:
        yield running.url


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new MLflow database to copy to `var/mlflow.db`; created once, because its migrations take seconds."""
    var = tmp_path_factory.mktemp("registry")
    connect(Settings(var=var)).search_experiments(max_results=1)
    return var / "mlflow.db"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real battery data next to the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data does not exist")
    return folder
