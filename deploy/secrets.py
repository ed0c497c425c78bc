"""`python -m deploy.secrets`: write random passwords for docker-compose.yml, and the compose profile, to `.env`.

The file is readable by its owner only, never committed and never overwritten, because the databases were created with
its passwords.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from telemetry.errors import TwinError

#: Variables of docker-compose.yml -> what the password is for.
SECRETS: dict[str, str] = {
    "TWIN_DB_ADMIN_PASSWORD": "superuser of the telemetry store, not used in operation",
    "TWIN_DB_PASSWORD": "owner of the database telemetry, used for migrations",
    "TWIN_WRITER_DB_PASSWORD": "login of the services that write readings, predictions and outcomes",
    "TWIN_READER_DB_PASSWORD": "Grafana's read-only login to the telemetry store",
    "TWIN_CONSOLE_DB_PASSWORD": "the console's login to the telemetry store, read-only except for alerts",
    "TWIN_CONSOLE_TOKEN": "access token of the console",
    "TWIN_MLFLOW_DB_PASSWORD": "owner of the database mlflow",
    "TWIN_MINIO_ROOT_PASSWORD": "administrator of MinIO",
    "TWIN_MLFLOW_S3_PASSWORD": "MinIO user of the bucket mlflow",
    "TWIN_DVC_S3_PASSWORD": "MinIO user of the bucket dvc",
    "TWIN_MQTT_PASSWORD": "MQTT user twin",
    "TWIN_GRAFANA_PASSWORD": "Grafana user admin",
}
#: The profile of docker-compose.yml that predicts from the live readings.
_PROFILE = "# which part predicts: service, stream (from Kafka) or database\nCOMPOSE_PROFILES=service\n"
_BYTES = 24
_OWNER_ONLY = 0o600


def write_secrets(path: Path) -> None:
    """Write a new secret for each entry of `SECRETS`, and the profile `service`, to `path`, mode 0600.

    Raises:
        TwinError: `path` exists.
    """
    # Hexadecimal, because some of them become part of a URL.
    lines = [f"# {purpose}\n{name}={secrets.token_hex(_BYTES)}\n" for name, purpose in SECRETS.items()]
    try:
        # Created with its final mode, so that it is never readable by others; O_EXCL does not follow a symbolic link.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    except FileExistsError as error:
        raise TwinError(
            f"{path} already exists and was not changed: the databases were created with its passwords. To start over, "
            "remove their volumes (`docker compose down --volumes`) and the file.",
            field="path",
            value=str(path),
        ) from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines([_PROFILE, *lines])


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file; 0 if it was written, 1 if it already exists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, default=Path(".env"), help="file to write (default .env)")
    path = parser.parse_args(argv).path
    try:
        write_secrets(path)
    except TwinError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {len(SECRETS)} passwords to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
