"""`python -m deploy.servers`: start the installed servers and print their addresses as settings; Ctrl-C stops them.

    make servers        # in one terminal; paste its output into another, then `make run` or `make repro` there

Their data is in a temporary folder that is deleted at exit.
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
from deploy.servers.postgres import License, create_databases, missing_timescaledb, postgres
from telemetry.errors import TwinError

Started = TypeVar("Started")


class ServerStack:
    """The servers of compose, on this machine; servers that are not installed are skipped.

    Attributes:
        settings: environment variables with the addresses of the started servers.
        skipped: one sentence for each server that was not started.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.settings: dict[str, str] = {}
        self.skipped: list[str] = []
        self._folder = folder
        self._stack = stack

    def start(self) -> None:
        """Start the servers one after the other."""
        self._start_mqtt()
        self._start_kafka()
        self._start_stores()

    def _start_mqtt(self) -> None:
        if broker := self._start_or_skip("Mosquitto", mosquitto(self._folder / "mosquitto")):
            self.settings |= {
                "TWIN_MQTT_HOST": "localhost",
                "TWIN_MQTT_PORT": str(broker.tls_port),
                "TWIN_MQTT_TLS": "true",
                "TWIN_MQTT_CA_FILE": str(broker.ca_file),
                "TWIN_MQTT_USERNAME": broker.username,
                "TWIN_MQTT_PASSWORD": broker.password,
            }

    def _start_kafka(self) -> None:
        if broker := self._start_or_skip("Kafka", kafka(self._folder / "kafka")):
            self.settings["TWIN_KAFKA_BOOTSTRAP_SERVERS"] = broker.bootstrap

    def _start_stores(self) -> None:
        missing = missing_timescaledb()
        if missing is not None:
            self.skipped.append(f"TimescaleDB: {missing}")
        timescaledb: License | None = None if missing is not None else "timescale"
        database = self._start_or_skip("PostgreSQL", postgres(self._folder / "postgres", timescaledb=timescaledb))
        objects = self._start_or_skip("MinIO", minio(self._folder / "minio"))
        if objects is not None:
            self.settings |= {
                "AWS_ENDPOINT_URL": objects.endpoint,
                "AWS_DEFAULT_REGION": REGION,
                "AWS_ACCESS_KEY_ID": objects.buckets["dvc"].access_key,
                "AWS_SECRET_ACCESS_KEY": objects.buckets["dvc"].secret_key,
            }
        if database is None:
            return
        created = create_databases(database)
        self.settings["TWIN_TELEMETRY_DSN"] = created.owner_dsn
        if objects is not None:
            tracking = self._start_or_skip("MLflow", mlflow(self._folder / "mlflow", created.mlflow_dsn, objects))
            if tracking is not None:
                self.settings["TWIN_MLFLOW_TRACKING_URI"] = tracking.url

    def _start_or_skip(self, name: str, server: AbstractContextManager[Started]) -> Started | None:
        try:
            return self._stack.enter_context(server)
        except TwinError as error:
            self.skipped.append(f"{name}: {error}")
            return None


def main() -> int:
    """Run the servers until SIGINT, SIGTERM or SIGHUP."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_on_signal)
    try:
        with tempfile.TemporaryDirectory(prefix="twin-servers-") as folder, ExitStack() as stack:
            servers = ServerStack(Path(folder), stack)
            servers.start()
            for sentence in servers.skipped:
                print(f"# skipped: {sentence}".replace("\n", "\n# "))
            for name, value in servers.settings.items():
                print(f"export {name}={shlex.quote(value)}")
            print(f"# logs and data: {folder}; Ctrl-C stops all servers", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        return 130
    return 0


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
