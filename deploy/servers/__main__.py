"""`python -m deploy.servers`: start the servers that are installed, print their addresses as settings, until Ctrl-C.

    make servers        # in one terminal; paste what it prints into another, then `make run` or `make repro` there

Their data is in a temporary folder and gone afterwards.
"""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import FrameType
from typing import TypeVar

from deploy.servers.kafka import kafka
from deploy.servers.minio import REGION, minio
from deploy.servers.mlflow import mlflow
from deploy.servers.mosquitto import mosquitto
from deploy.servers.postgres import License, databases, missing_timescaledb, postgres
from telemetry.errors import TwinError

Started = TypeVar("Started")


class Stack:
    """The servers of compose on this machine; what is not installed is left out.

    Attributes:
        settings: environment variables that lead to what was started.
        left_out: a sentence for each server that was not.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.settings: dict[str, str] = {}
        self.left_out: list[str] = []
        self._folder = folder
        self._stack = stack

    def start(self) -> None:
        """Start one after the other."""
        self._mqtt()
        self._kafka()
        self._stores()

    def _mqtt(self) -> None:
        if broker := self._entered("Mosquitto", mosquitto(self._folder / "mosquitto")):
            self.settings |= {
                "TWIN_MQTT_HOST": "localhost",
                "TWIN_MQTT_PORT": str(broker.tls_port),
                "TWIN_MQTT_TLS": "true",
                "TWIN_MQTT_CA_FILE": str(broker.ca_file),
                "TWIN_MQTT_USERNAME": broker.username,
                "TWIN_MQTT_PASSWORD": broker.password,
            }

    def _kafka(self) -> None:
        if broker := self._entered("Kafka", kafka(self._folder / "kafka")):
            self.settings["TWIN_KAFKA_BOOTSTRAP_SERVERS"] = broker.bootstrap

    def _stores(self) -> None:
        without = missing_timescaledb()
        if without is not None:
            self.left_out.append(f"TimescaleDB: {without}")
        loaded: License | None = None if without is not None else "timescale"
        database = self._entered("PostgreSQL", postgres(self._folder / "postgres", timescaledb=loaded))
        objects = self._entered("MinIO", minio(self._folder / "minio"))
        if objects is not None:
            self.settings |= {
                "AWS_ENDPOINT_URL": objects.endpoint,
                "AWS_DEFAULT_REGION": REGION,
                "AWS_ACCESS_KEY_ID": objects.buckets["dvc"].access_key,
                "AWS_SECRET_ACCESS_KEY": objects.buckets["dvc"].secret_key,
            }
        if database is None:
            return
        owners = databases(database)
        self.settings["TWIN_TELEMETRY_DSN"] = owners.owner_dsn
        if objects is not None:
            tracking = self._entered("MLflow", mlflow(self._folder / "mlflow", owners.mlflow_dsn, objects))
            if tracking is not None:
                self.settings["TWIN_MLFLOW_TRACKING_URI"] = tracking.url

    def _entered(self, name: str, server: AbstractContextManager[Started]) -> Started | None:
        try:
            return self._stack.enter_context(server)
        except TwinError as error:
            self.left_out.append(f"{name}: {error}")
            return None


def main() -> int:
    """Run until a signal comes."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        with tempfile.TemporaryDirectory(prefix="twin-servers-") as folder, ExitStack() as stack:
            servers = Stack(Path(folder), stack)
            servers.start()
            for sentence in servers.left_out:
                print(f"# left out: {sentence}".replace("\n", "\n# "))
            for name, value in servers.settings.items():
                print(f"export {name}={shlex.quote(value)}")
            print(f"# logs and data: {folder}; Ctrl-C stops all", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        return 130
    return 0


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
