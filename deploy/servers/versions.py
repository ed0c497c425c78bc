"""Read the tested server versions from `deploy/versions.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Versions:
    """The tested version of each server."""

    kafka: str
    scala: str
    log4j: str
    minio: str
    minio_client: str
    timescaledb: str
    postgresql: str
    debian: str


def versions(file: Path = DEPLOY / "versions.toml") -> Versions:
    """Read the versions from `file`."""
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    return Versions(
        kafka=tables["kafka"]["version"],
        scala=tables["kafka"]["scala"],
        log4j=tables["kafka"]["log4j"],
        minio=tables["minio"]["server"],
        minio_client=tables["minio"]["client"],
        timescaledb=tables["timescaledb"]["version"],
        postgresql=tables["postgresql"]["version"],
        debian=tables["debian"]["release"],
    )
