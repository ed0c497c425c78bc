"""Fill the gaps of the settings with embedded servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pydantic import SecretStr

from data.embedded.mqtt_broker import embedded_mqtt_broker
from data.embedded.ports import free_port
from data.embedded.postgres import embedded_postgres
from data.settings import Settings


@contextmanager
def embedded_parts(settings: Settings) -> Iterator[Settings]:
    """Settings in which a telemetry store and an MQTT broker are named; those that were not run meanwhile."""
    with ExitStack() as stack:
        parts: dict[str, object] = {}
        if settings.telemetry_dsn is None:
            dsn = stack.enter_context(embedded_postgres(settings.var / "postgres"))
            parts["telemetry_dsn"] = SecretStr(dsn)
        if settings.mqtt_host is None:
            port = free_port(settings.host, settings.mqtt_port)
            host, port = stack.enter_context(embedded_mqtt_broker(settings.host, port))
            parts |= {"mqtt_host": host, "mqtt_port": port}
        yield settings.model_copy(update=parts)
