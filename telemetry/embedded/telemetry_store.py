"""The embedded telemetry store, where the settings name none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import SecretStr

from telemetry.embedded.postgres import embedded_postgres
from telemetry.settings import Settings


@contextmanager
def store_named(settings: Settings) -> Iterator[Settings]:
    """Settings in which a store is named; the embedded one, shared by all who use its folder, runs meanwhile."""
    if settings.telemetry_dsn is not None:
        yield settings
        return
    with embedded_postgres(settings.var / "postgres") as dsn:
        yield settings.model_copy(update={"telemetry_dsn": SecretStr(dsn)})
