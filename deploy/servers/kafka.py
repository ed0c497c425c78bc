"""Start one Kafka broker in KRaft mode from the jars of Maven Central, without ZooKeeper and without a container."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from deploy.servers.config_files import append_properties
from deploy.servers.install import KAFKA, require
from deploy.servers.process import HOST, Command, Server, accepts_connections, run, unused_port
from deploy.servers.versions import DEPLOY

_HEAP = "-Xmx512m"


@dataclass(frozen=True)
class Kafka:
    """A Kafka broker without authentication on loopback."""

    bootstrap: str
    server: Server


@contextmanager
def kafka(folder: Path) -> Iterator[Kafka]:
    """A running broker with its data in `folder`, which is created if missing.

    Raises:
        TwinError: Kafka is not installed, or did not start.
    """
    require(KAFKA)
    folder.mkdir(parents=True, exist_ok=True)
    port, controller_port = unused_port(), unused_port()
    bootstrap = f"{HOST}:{port}"
    properties = folder / "server.properties"
    properties.write_text(
        append_properties(
            DEPLOY / "kafka" / "server.properties",
            {
                "listeners": f"INTERNAL://{bootstrap},CONTROLLER://{HOST}:{controller_port}",
                "advertised.listeners": f"INTERNAL://{bootstrap}",
                "controller.quorum.voters": f"1@{HOST}:{controller_port}",
                "log.dirs": str(folder / "data"),
            },
        )
    )
    java = ("java", _HEAP, "-Dlog4j2.level=INFO", "-cp", str(KAFKA.folder / "*"))
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # One argument with its option, because the id may begin with a dash.
    format_options = (f"--cluster-id={cluster_id}", "--config", str(properties), "--ignore-formatted")
    run([*java, "kafka.tools.StorageTool", "format", *format_options])
    server = Server(
        Command(
            "Kafka",
            (*java, "kafka.Kafka", str(properties)),
            ready=lambda: accepts_connections(port) and _lists_topics(bootstrap),
            log=folder / "server.log",
            folder=folder,
        )
    )
    with server:
        yield Kafka(bootstrap, server)


def _lists_topics(bootstrap: str) -> bool:
    try:
        client = KafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=2_000, bootstrap_timeout_ms=2_000)
    except KafkaError:
        return False
    try:
        client.list_topics()
    except KafkaError:
        return False
    finally:
        client.close()
    return True
