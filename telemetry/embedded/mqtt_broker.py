"""Runs an MQTT broker (amqtt) in a thread of this process."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amqtt.broker import Broker

from telemetry.embedded.ports import free_port
from telemetry.errors import TwinError
from telemetry.settings import Settings

_START_TIMEOUT_S = 10.0
_LOGGERS = ("amqtt", "transitions")


@contextmanager
def ensure_mqtt_broker(settings: Settings) -> Iterator[Settings]:
    """Settings with the embedded broker, which runs in the `with` block, where they name no MQTT broker."""
    if settings.mqtt_host is not None:
        yield settings
        return
    port = free_port(settings.host, settings.mqtt_port)
    with embedded_mqtt_broker(settings.host, port):
        yield settings.model_copy(update={"mqtt_host": settings.host, "mqtt_port": port})


@contextmanager
def embedded_mqtt_broker(host: str, port: int) -> Iterator[tuple[str, int]]:
    """A running broker; yields its host and port.

    It accepts anonymous clients, so it listens on loopback only.

    Raises:
        TwinError: `host` is not a loopback address, or the port is taken.
    """
    if not _is_loopback(host):
        raise TwinError(
            f"The embedded MQTT broker accepts anonymous clients and so listens on loopback only, not on {host}; "
            "set TWIN_MQTT_HOST to your own broker.",
            field="host",
            value=host,
        )
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=_run, args=(loop,), name="embedded-mqtt-broker", daemon=True)
    thread.start()
    try:
        broker = _start(loop, host, port)
        try:
            yield host, port
        finally:
            asyncio.run_coroutine_threadsafe(broker.shutdown(), loop).result(_START_TIMEOUT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _start(loop: asyncio.AbstractEventLoop, host: str, port: int) -> Broker:
    async def start() -> Broker:
        broker = Broker(_config(host, port))
        await broker.start()
        return broker

    try:
        return asyncio.run_coroutine_threadsafe(start(), loop).result(_START_TIMEOUT_S)
    except Exception as error:
        raise TwinError(
            f"The embedded MQTT broker cannot listen on {host}:{port}: {error}", field="mqtt_port", value=port
        ) from error


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        # A client that was just connecting has no MQTT session yet, so the broker did not close its stream: the
        # finalizer of the stream does, and needs the loop for it.
        tasks.clear()
        gc.collect()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def _config(host: str, port: int) -> dict[str, Any]:
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
