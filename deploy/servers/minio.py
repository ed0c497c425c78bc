"""Start a MinIO server (S3) with the buckets and users that it has in compose."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.servers.install import MINIO, require
from deploy.servers.process import HOST, Command, Server, responds, run, unused_port
from deploy.servers.versions import DEPLOY

REGION = "us-east-1"


@dataclass(frozen=True)
class Bucket:
    """A bucket and its user, who has the same name and access to this bucket only."""

    name: str
    access_key: str
    secret_key: str


@dataclass(frozen=True)
class Minio:
    """An S3 endpoint on loopback.

    Attributes:
        access_key: of the administrator.
        buckets: `mlflow` and `dvc`, as created by deploy/buckets.sh.
    """

    endpoint: str
    access_key: str
    secret_key: str
    buckets: dict[str, Bucket]
    server: Server


@contextmanager
def minio(folder: Path) -> Iterator[Minio]:
    """A running server with its data in `folder`, which is created if missing.

    Raises:
        TwinError: MinIO is not installed, or did not start.
    """
    require(MINIO)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    address = f"{HOST}:{unused_port()}"
    endpoint = f"http://{address}"
    access_key, secret_key = "minio-admin", secrets.token_hex(16)
    passwords = {name: secrets.token_hex(16) for name in ("mlflow", "dvc")}
    server = Server(
        Command(
            "MinIO",
            (str(MINIO.folder / "minio"), "server", str(folder / "data"), "--address", address,
             "--certs-dir", str(folder / "certificates")),
            ready=lambda: responds(f"{endpoint}/minio/health/ready"),
            log=folder / "server.log",
            folder=folder,
            environment={
                "MINIO_ROOT_USER": access_key,
                "MINIO_ROOT_PASSWORD": secret_key,
                "MINIO_UPDATE": "off",
                "MINIO_BROWSER": "off",
            },
        )
    )  # fmt: skip
    with server:
        run(
            ["sh", str(DEPLOY / "buckets.sh")],
            environment={
                "PATH": f"{MINIO.folder}:/usr/bin:/bin",
                "MC_CONFIG_DIR": str(folder / "mc"),
                "MC_HOST_store": f"http://{access_key}:{secret_key}@{address}",
                "TWIN_MLFLOW_S3_PASSWORD": passwords["mlflow"],
                "TWIN_DVC_S3_PASSWORD": passwords["dvc"],
            },
        )
        buckets = {name: Bucket(name, name, password) for name, password in passwords.items()}
        yield Minio(endpoint, access_key, secret_key, buckets, server)
