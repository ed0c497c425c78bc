"""Destinations of live telemetry, one entry each; all pass `tests/telemetry/test_sinks.py`."""

from __future__ import annotations

from collections.abc import Callable

from telemetry.settings import Settings
from telemetry.sinks.base import Sink, SinkOffError
from telemetry.sinks.kafka import KafkaSink
from telemetry.sinks.mqtt import MqttSink
from telemetry.sinks.postgres import StoreSink

#: Name -> makes the sink, or raises SinkOffError where the settings name no such destination.
SINKS: dict[str, Callable[[Settings], Sink]] = {
    "store": StoreSink.from_settings,
    "mqtt": MqttSink.from_settings,
    "kafka": KafkaSink.from_settings,
}


def make_sinks(settings: Settings) -> tuple[dict[str, Sink], dict[str, str]]:
    """The sinks that `settings` name, and for each other one why it is off.

    Raises:
        TwinError: a destination is named in a way that cannot be used.
    """
    sinks: dict[str, Sink] = {}
    off: dict[str, str] = {}
    for name, make in SINKS.items():
        try:
            sinks[name] = make(settings)
        except SinkOffError as reason:
            off[name] = reason.sentence
    return sinks, off
