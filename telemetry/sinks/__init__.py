"""Registry of the sinks of live telemetry (store, MQTT, Kafka); all pass `tests/telemetry/test_sinks.py`."""

from __future__ import annotations

from collections.abc import Callable

from telemetry.settings import Settings
from telemetry.sinks.base import Sink, SinkOffError
from telemetry.sinks.kafka import KafkaSink
from telemetry.sinks.mqtt import MqttSink
from telemetry.sinks.postgres import StoreSink

#: Name -> creates the sink, or raises SinkOffError where the settings configure no such destination.
SINKS: dict[str, Callable[[Settings], Sink]] = {
    "store": StoreSink.from_settings,
    "mqtt": MqttSink.from_settings,
    "kafka": KafkaSink.from_settings,
}


def make_sinks(settings: Settings) -> tuple[dict[str, Sink], dict[str, str]]:
    """The sinks that `settings` configure, and for each other one the reason why it is off.

    Raises:
        TwinError: the settings of a destination are invalid.
    """
    sinks: dict[str, Sink] = {}
    off: dict[str, str] = {}
    for name, make in SINKS.items():
        try:
            sinks[name] = make(settings)
        except SinkOffError as reason:
            off[name] = reason.sentence
    return sinks, off
