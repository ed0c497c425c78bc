"""`python -m deploy.secrets`: the passwords that docker-compose.yml asks for, at random, in `.env`, and its profile.

The file can be read by its owner only, is never committed and never overwritten: the databases were
made with the passwords in it.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from telemetry.errors import TwinError

#: Names as docker-compose.yml uses them -> whose password it is.
SECRETS: dict[str, str] = {
    "TWIN_DB_ADMIN_PASSWORD": "superuser of the telemetry store, used by nobody while it runs",
    "TWIN_DB_PASSWORD": "owner of the database telemetry, who migrates it",
    "TWIN_WRITER_DB_PASSWORD": "login of what writes readings, predictions and outcomes",
    "TWIN_READER_DB_PASSWORD": "Grafana's login to the telemetry store, which may only read",
    "TWIN_CONSOLE_DB_PASSWORD": "the console's login to the telemetry store, which may only read, and remember alerts",
    "TWIN_CONSOLE_TOKEN": "who opens the console, or changes something in it",
    "TWIN_MLFLOW_DB_PASSWORD": "owner of the database mlflow",
    "TWIN_MINIO_ROOT_PASSWORD": "administrator of MinIO",
    "TWIN_MLFLOW_S3_PASSWORD": "MinIO user of the bucket mlflow",
    "TWIN_DVC_S3_PASSWORD": "MinIO user of the bucket dvc",
    "TWIN_MQTT_PASSWORD": "MQTT user twin",
    "TWIN_GRAFANA_PASSWORD": "Grafana user admin",
}
#: Who predicts from the live readings: a profile of docker-compose.yml.
_PROFILE = "# who predicts: service, stream (from Kafka) or database\nCOMPOSE_PROFILES=service\n"
_BYTES = 24
_OWNER_ONLY = 0o600


def write_secrets(path: Path) -> None:
    """Write a new secret for each entry of `SECRETS`, and the profile `service`, to `path`, mode 0600.

    Raises:
        TwinError: `path` exists.
    """
    # Hexadecimal, because some of them become part of a URL.
    lines = [f"# {whose}\n{name}={secrets.token_hex(_BYTES)}\n" for name, whose in SECRETS.items()]
    try:
        # Never readable by others, not even for a moment; a link is not followed.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    except FileExistsError as error:
        raise TwinError(
            f"{path} exists and is left as it is: the databases were made with its passwords. To start anew, remove "
            "their volumes (`docker compose down --volumes`) and the file.",
            field="path",
            value=str(path),
        ) from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines([_PROFILE, *lines])


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file; 0 if it was written, 1 if there is one already."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, default=Path(".env"), help="where to (default .env)")
    path = parser.parse_args(argv).path
    try:
        write_secrets(path)
    except TwinError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(SECRETS)} passwords are in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
