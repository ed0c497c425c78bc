"""Fill the gaps of the settings with embedded servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from telemetry.embedded.mqtt_broker import embedded_mqtt_broker
from telemetry.embedded.ports import free_port
from telemetry.embedded.telemetry_store import store_named
from telemetry.settings import Settings


@contextmanager
def embedded_parts(settings: Settings) -> Iterator[Settings]:
    """Settings in which a telemetry store and an MQTT broker are named; those that were not run meanwhile."""
    with ExitStack() as stack:
        settings = stack.enter_context(store_named(settings))
        if settings.mqtt_host is None:
            port = free_port(settings.host, settings.mqtt_port)
            host, port = stack.enter_context(embedded_mqtt_broker(settings.host, port))
            settings = settings.model_copy(update={"mqtt_host": host, "mqtt_port": port})
        yield settings
