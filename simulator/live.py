"""The live simulator: batteries in the middle of their lives, read, predicted, stored and published in real time.

    python -m simulator.live --batteries 10 --for 60 --speed 1 --interval 0.5

Needs the prediction service; brings a PostgreSQL and an MQTT broker of its own unless the settings name others.
Ends with a summary; the exit code is 0 only if nothing was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import yaml
from rich.console import Console

from data.embedded.parts import embedded_parts
from data.embedded.ports import free_port
from data.errors import TwinError
from data.settings import Settings
from data.sinks import make_sinks
from data.sinks.base import SinkError
from data.stores.postgres import PostgresStore
from simulator.client import PredictionClient, PredictionError
from simulator.exporter import LiveCollector, metrics_server
from simulator.fleet import SimulateParams
from simulator.injections import KINDS, Injection, injected
from simulator.live_battery import LiveBattery
from simulator.live_loop import LiveLoop, LiveTwin, fold_histories
from simulator.live_pack import LivePack
from simulator.outbox import Outbox
from simulator.tally import Summary
from simulator.terminal import View, print_summary, view_for

READY_TIMEOUT_S = 120.0
FINISH_TIMEOUT_S = 30.0
#: Shares of their lives at which the first and the last battery start.
LIFE_SHARES = (0.3, 0.85)


@dataclass(frozen=True)
class LiveOptions:
    """How a live run goes.

    Attributes:
        interval_s: time between two readings of a battery, on the wall clock.
        speed: how much faster event time passes than the wall clock.
        for_s: end after so many seconds; None: when told to.
    """

    interval_s: float = 0.5
    speed: float = 1.0
    for_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("interval_s", self.interval_s), ("speed", self.speed), ("for_s", self.for_s)):
            if value is not None and not value > 0:
                raise TwinError(f"{name} is {value!r}: it must be greater than 0.", field=name, value=value)


async def run_live(
    batteries: Sequence[LiveBattery],
    settings: Settings,
    options: LiveOptions,
    view: View,
    stop: asyncio.Event,
) -> Summary | None:
    """Run until `options.for_s` has passed or `stop` is set; None where it was set before the first tick.

    Args:
        settings: with a telemetry store and an MQTT broker named (`embedded_parts` sees to it).

    Raises:
        SinkError: a sink cannot be reached at the start.
        PredictionError: the service is not ready or refuses a history.
    """
    twins = [LiveTwin.of(battery) for battery in batteries]
    sinks, _ = make_sinks(settings)
    outboxes = {name: Outbox(name, sink) for name, sink in sinks.items()}
    async with AsyncExitStack() as stack:
        for outbox in outboxes.values():
            stack.callback(outbox.sink.close)
            await asyncio.to_thread(outbox.sink.setup)
        client = await stack.enter_async_context(PredictionClient(settings.service_url, connections=len(twins)))
        if not await _unless(stop, _prepare(twins, client, view)):
            return None
        start = await asyncio.to_thread(_bring_to_present, settings, batteries, options)
        loop = LiveLoop(twins, client, outboxes, start, options.interval_s, options.speed)
        loop.on_tick = lambda: view.tick(twins, loop.tally)
        stack.enter_context(
            metrics_server(settings.host, settings.simulator_metrics_port, LiveCollector(loop.tally, outboxes))
        )
        deliveries = [asyncio.create_task(outbox.run()) for outbox in outboxes.values()]
        stack.push_async_callback(_cancel, deliveries)
        await loop.run(stop, options.for_s)
        await loop.finish(FINISH_TIMEOUT_S)
        return await asyncio.to_thread(_summary, settings, loop)


async def _prepare(twins: Sequence[LiveTwin], client: PredictionClient, view: View) -> None:
    await client.wait_until_ready(READY_TIMEOUT_S)
    await fold_histories(twins, client, view.history)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do `work` unless `stop` is set before it is done; True if it was done."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        await _cancel([task])
        return False
    task.result()
    return True


async def _cancel(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def _bring_to_present(settings: Settings, batteries: Sequence[LiveBattery], options: LiveOptions) -> datetime:
    """Live from the end of the histories to just before the first tick, and give the time of that tick.

    It is now, but after everything that these batteries have lived or stored: readings never go back in time.
    The days between take a moment to live through, which the first tick does not have.
    """
    step = timedelta(seconds=options.interval_s * options.speed)
    store = _store(settings)
    try:
        stored = store.newest_time([battery.battery_id for battery in batteries])
    finally:
        store.close()
    lived = max(battery.last_time for battery in batteries)
    start = max([datetime.now(UTC), lived + 2 * step, *([] if stored is None else [stored + step])])
    for battery in batteries:
        battery.read(start - step)
    return start


def _summary(settings: Settings, loop: LiveLoop) -> Summary:
    tally = loop.tally
    stored: int | None = 0
    if tally.first_time is not None and tally.last_time is not None:
        store = _store(settings)
        try:
            ids = [twin.battery.battery_id for twin in loop.twins]
            stored = store.count_readings(ids, tally.first_time, tally.last_time)
        except psycopg2.Error:
            stored = None
        finally:
            store.close()
    return Summary(
        tally=tally,
        stored=stored,
        unpredicted=sum(len(twin.pending) for twin in loop.twins),
        acknowledged={name: outbox.sink.acknowledged for name, outbox in loop.outboxes.items()},
        undelivered={name: outbox.waiting_readings + outbox.refused_readings for name, outbox in loop.outboxes.items()},
    )


def _store(settings: Settings) -> PostgresStore:
    if settings.telemetry_dsn is None:
        raise TwinError("No telemetry store is named.", field="telemetry_dsn")
    return PostgresStore(settings.telemetry_dsn.get_secret_value())


def living_batteries(count: int, params_file: Path, at: datetime) -> list[LivePack]:
    """`count` batteries of the fleet of `params_file`, none of them in its training files, spread over their lives."""
    params = yaml.safe_load(params_file.read_text(encoding="utf-8"))
    simulate = SimulateParams.from_mapping(params["simulate"])
    youngest, oldest = LIFE_SHARES
    return [
        LivePack.start(
            simulate,
            params["seed"],
            simulate.batteries + number,
            at=at,
            life_share=youngest + (oldest - youngest) * (number + 0.5) / count,
        )
        for number in range(count)
    ]


async def _main(arguments: argparse.Namespace, console: Console) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    options = LiveOptions(arguments.interval, arguments.speed, arguments.for_s)
    with embedded_parts(Settings()) as settings:
        port = free_port(settings.host, settings.simulator_metrics_port)
        settings = settings.model_copy(update={"simulator_metrics_port": port})
        console.print(
            f"MQTT {settings.mqtt_host}:{settings.mqtt_port} · metrics http://{settings.host}:{port}/metrics",
            highlight=False,
        )
        console.print(f"living the past of {arguments.batteries} batteries …", highlight=False)
        packs = await asyncio.to_thread(living_batteries, arguments.batteries, arguments.params, datetime.now(UTC))
        batteries = injected(packs, [Injection.parse(text) for text in arguments.inject], speed=arguments.speed)
        view = view_for(console)
        try:
            summary = await run_live(batteries, settings, options, view, stop)
        finally:
            view.close()
    if summary is None:
        console.print("stopped before the first reading")
        return 1
    print_summary(console, summary)
    return 1 if summary.lost else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the live simulator; 0 if nothing was lost, 1 if something was, 2 if it could not begin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batteries", type=int, default=10, help="how many (default 10)")
    parser.add_argument("--for", dest="for_s", type=float, metavar="SECONDS", help="stop by itself after so long")
    parser.add_argument("--speed", type=float, default=1.0, help="event time passes so much faster than the clock")
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between two readings of a battery")
    parser.add_argument(
        "--inject",
        action="append",
        default=[],
        metavar="KIND=BATTERY@START+DURATION",
        help=f"{', '.join(KINDS)}; e.g. overheating=#1@20s+15s (the first battery, from the 20th second on)",
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="where the fleet is described")
    arguments = parser.parse_args(argv)
    if arguments.batteries < 1:
        parser.error("--batteries must be at least 1")
    console = Console()
    try:
        return asyncio.run(_main(arguments, console))
    except (TwinError, SinkError, PredictionError) as error:
        console.print(f"[red]{error}[/red]", highlight=False, soft_wrap=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
