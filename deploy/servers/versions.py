"""`deploy/versions.toml`, read."""

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
    """Read the one place where versions are named."""
    found = tomllib.loads(file.read_text(encoding="utf-8"))
    return Versions(
        kafka=found["kafka"]["version"],
        scala=found["kafka"]["scala"],
        log4j=found["kafka"]["log4j"],
        minio=found["minio"]["server"],
        minio_client=found["minio"]["client"],
        timescaledb=found["timescaledb"]["version"],
        postgresql=found["postgresql"]["version"],
        debian=found["debian"]["release"],
    )
