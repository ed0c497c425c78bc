"""Destinations of live telemetry, one entry each; all pass `tests/data/test_sinks.py`."""

from __future__ import annotations

from collections.abc import Callable

from data.settings import Settings
from data.sinks.base import Sink
from data.sinks.mqtt import MqttSink
from data.sinks.store import StoreSink

SINKS: dict[str, Callable[[Settings], Sink]] = {
    "store": StoreSink.from_settings,
    "mqtt": MqttSink.from_settings,
}
