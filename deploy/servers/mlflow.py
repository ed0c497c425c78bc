"""Start an MLflow server as in compose: tracking and registry on PostgreSQL, artifacts on S3 through its proxy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.servers.minio import REGION, Minio
from deploy.servers.process import HOST, Command, Server, responds, unused_port
from telemetry.settings import USAGE_STATISTICS_OFF


@dataclass(frozen=True)
class Mlflow:
    """An MLflow tracking server and model registry on loopback."""

    url: str
    server: Server


@contextmanager
def mlflow(folder: Path, database_dsn: str, store: Minio) -> Iterator[Mlflow]:
    """A running server; `folder` holds only its log.

    Raises:
        TwinError: it did not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = unused_port()
    url = f"http://{HOST}:{port}"
    bucket = store.buckets["mlflow"]
    server = Server(
        Command(
            "MLflow",
            (sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
            ready=lambda: responds(f"{url}/health"),
            log=folder / "server.log",
            folder=folder,
            environment={
                **USAGE_STATISTICS_OFF,
                "MLFLOW_BACKEND_STORE_URI": database_dsn.replace("postgresql://", "postgresql+psycopg2://"),
                "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{bucket.name}",
                "MLFLOW_S3_ENDPOINT_URL": store.endpoint,
                "AWS_ACCESS_KEY_ID": bucket.access_key,
                "AWS_SECRET_ACCESS_KEY": bucket.secret_key,
                "AWS_DEFAULT_REGION": REGION,
                # Jobs evaluate language models; without them the server starts faster and runs one process less.
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
            start_timeout_s=180.0,
        )
    )
    with server:
        yield Mlflow(url, server)
