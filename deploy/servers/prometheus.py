"""Start Prometheus or Alertmanager with a given configuration file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.servers.install import DEBIAN, require
from deploy.servers.process import HOST, Command, Server, responds, unused_port


@dataclass(frozen=True)
class MonitoringServer:
    """A Prometheus or an Alertmanager on loopback."""

    url: str
    server: Server


@contextmanager
def prometheus(folder: Path, configuration: Path) -> Iterator[MonitoringServer]:
    """A running Prometheus with its data in `folder`; paths in `configuration` are relative to that file.

    Raises:
        TwinError: it is not installed, or did not start.
    """
    data = f"--storage.tsdb.path={folder / 'data'}"
    with _running("Prometheus", "prometheus", folder, configuration, data) as server:
        yield server


@contextmanager
def alertmanager(folder: Path, configuration: Path) -> Iterator[MonitoringServer]:
    """A running Alertmanager without clustering, with its data in `folder`.

    Raises:
        TwinError: it is not installed, or did not start.
    """
    options = (f"--storage.path={folder / 'data'}", "--cluster.listen-address=")
    with _running("Alertmanager", "prometheus-alertmanager", folder, configuration, *options) as server:
        yield server


@contextmanager
def _running(name: str, package: str, folder: Path, configuration: Path, *options: str) -> Iterator[MonitoringServer]:
    require(DEBIAN[package])
    folder.mkdir(parents=True, exist_ok=True)
    address = f"{HOST}:{unused_port()}"
    url = f"http://{address}"
    program = str(DEBIAN[package].program(package))
    settings = (f"--config.file={configuration.resolve()}", f"--web.listen-address={address}")
    server = Server(
        Command(
            name,
            (program, *settings, *options),
            ready=lambda: responds(f"{url}/-/ready"),
            log=folder / "server.log",
            folder=folder,
        )
    )
    with server:
        yield MonitoringServer(url, server)
