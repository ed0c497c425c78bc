"""The live simulator: batteries in the middle of their lives, read, predicted, stored and published in real time.

    python -m simulator.live --batteries 10 --for 60 --speed 1 --interval 0.5

Every reading is in the spool, on the disk, before it counts; from there it goes to the store, MQTT and Kafka (where the
settings name one) and to the prediction service, each at its own pace.  Brings a PostgreSQL and an MQTT broker of its
own unless the settings name others.  Ends with a summary; the exit code is 0 only if nothing was lost or waits.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import psycopg2
import yaml
from rich.console import Console

from simulator.fleet import SimulateParams
from simulator.injections import KINDS, REGIMES, Injection, injected, parse_scenario
from simulator.live_battery import LiveBattery
from simulator.live_loop import NEWEST_TIME, PRODUCER, LiveLoop, memory_of
from simulator.live_pack import LivePack
from simulator.live_twin import LiveTwin
from simulator.prediction_consumer import CONSUMER, READINGS_A_CALL, PredictionWorker, fold_pasts
from simulator.run_statistics import RunStatistics, Summary
from simulator.service_client import PredictionClient, PredictionError
from simulator.simulator_metrics import LiveCollector, metrics_server
from simulator.terminal import View, print_summary, view_for
from telemetry.embedded.defaults import embedded_parts
from telemetry.embedded.ports import free_port
from telemetry.errors import TwinError
from telemetry.settings import Settings
from telemetry.sinks import make_sinks
from telemetry.sinks.base import Sink, SinkError, SinkUnavailableError
from telemetry.spool.delivery import Delivery, SinkWorker
from telemetry.spool.spool import Spool
from telemetry.stores.postgres import PostgresStore

READY_TIMEOUT_S = 120.0
FINISH_TIMEOUT_S = 30.0
#: Longer than any sink waits for its destination.
_STOP_TIMEOUT_S = 60.0
#: Shares of their lives at which the first and the last battery start.
LIFE_SHARES = (0.3, 0.85)


@dataclass(frozen=True)
class LiveOptions:
    """How a live run goes.

    Attributes:
        interval_s: time between two readings of a battery, on the wall clock.
        speed: how much faster event time passes than the wall clock.
        for_s: end after so many seconds; None: when told to.
        predicts: ask the prediction service; False where a stream scorer or a database predictor does it.
    """

    interval_s: float = 0.5
    speed: float = 1.0
    for_s: float | None = None
    predicts: bool = True

    def __post_init__(self) -> None:
        for name, value in (("interval_s", self.interval_s), ("speed", self.speed), ("for_s", self.for_s)):
            if value is not None and not value > 0:
                raise TwinError(f"{name} is {value!r}: it must be greater than 0.", field=name, value=value)


def run_live(
    batteries: Sequence[LiveBattery],
    settings: Settings,
    options: LiveOptions,
    view: View,
    stop: Event,
) -> Summary | None:
    """Run until `options.for_s` has passed or `stop` is set; None where it was set before the first tick.

    What waited in the spool from an earlier run is delivered and predicted first, and batteries that lived in it go on
    where they were.  A sink that cannot be reached is said, and its rows wait in the spool.

    Args:
        settings: with a telemetry store named (`embedded_parts` sees to it).

    Raises:
        TwinError: a setting is wrong, or another process has the spool.
        SinkError: the store cannot say how far these batteries have come, and neither can the spool.
        PredictionError: the service is not ready, or refuses a history.
    """
    sinks, off = make_sinks(settings)
    for name, reason in off.items():
        view.say(f"{name} is off: {reason}")
    tally = RunStatistics(predicts=options.predicts)
    consumers = {name: sink.kinds for name, sink in sinks.items()}
    if options.predicts:
        consumers[CONSUMER] = ("reading",)
    with ExitStack() as stack:
        spool = Spool(settings.spool_path, consumers, max_bytes=settings.spool_max_bytes)
        stack.callback(spool.close)
        for name, rows in spool.forgotten.items():
            if rows:
                view.say(f"{name} is not in the settings any more: {rows} rows that waited for it are let go.")
        _resume(batteries, spool, view)
        twins = [LiveTwin.of(battery) for battery in batteries]
        client = stack.enter_context(PredictionClient(settings.service_url))
        _set_up(sinks, view)
        deliveries = [Delivery(spool, name, SinkWorker(sink)) for name, sink in sinks.items()]
        stack.callback(_stop, deliveries)
        for delivery in deliveries:
            delivery.start()
        if options.predicts:
            known = spool.states(CONSUMER)
            if unknown := [twin for twin in twins if twin.battery.battery_id not in known]:
                client.wait_until_ready(READY_TIMEOUT_S, stop)
                fold_pasts(unknown, client, spool, view.history, stop)
            by_id = {twin.battery.battery_id: twin for twin in twins}
            worker = PredictionWorker(client, spool, by_id, tally)
            deliveries.append(Delivery(spool, CONSUMER, worker, batch_rows=READINGS_A_CALL))
            deliveries[-1].start()
        if stop.is_set():
            return None
        start = _bring_to_present(settings, spool, batteries, options)
        loop = LiveLoop(twins, spool, deliveries, start, options.interval_s, options.speed, tally)
        loop.on_tick = lambda: view.tick(twins, tally)
        collector = LiveCollector(tally, spool, deliveries)
        stack.enter_context(metrics_server(settings.host, settings.simulator_metrics_port, collector))
        loop.run(stop, options.for_s)
        loop.finish(FINISH_TIMEOUT_S)
        return _summary(settings, loop, sinks)


def _resume(batteries: Sequence[LiveBattery], spool: Spool, view: View) -> None:
    """Let batteries that lived here before go on where they were."""
    kept = spool.states(PRODUCER)
    for battery in batteries:
        memory = kept.get(memory_of(battery.battery_id))
        if memory is not None and not battery.resume(memory):
            view.say(f"{battery.battery_id} begins another life: its fleet is described otherwise now.")


def _set_up(sinks: Mapping[str, Sink], view: View) -> None:
    """Make the sinks ready once, so that a wrong setting ends the run before it begins and an absence is said."""
    for name, sink in sinks.items():
        try:
            sink.setup()
        except SinkUnavailableError as error:
            view.say(f"{name} is away, what is for it waits in the spool: {error}")


def _stop(deliveries: Sequence[Delivery]) -> None:
    for delivery in deliveries:
        delivery.stop_soon()
    for delivery in deliveries:
        delivery.stop(_STOP_TIMEOUT_S)


def _bring_to_present(
    settings: Settings, spool: Spool, batteries: Sequence[LiveBattery], options: LiveOptions
) -> datetime:
    """Live from the end of the histories to just before the first tick, and give the time of that tick.

    It is now, but after everything that these batteries have lived, spooled or stored: readings never go back in time.
    The days between take a moment to live through, which the first tick does not have.
    """
    step = timedelta(seconds=options.interval_s * options.speed)
    newest = max(battery.last_time for battery in batteries) + step
    spooled = spool.states(PRODUCER).get(NEWEST_TIME)
    if spooled is not None:
        newest = max(newest, datetime.fromisoformat(spooled.decode()))
    store = _store(settings)
    try:
        stored = store.newest_time([battery.battery_id for battery in batteries])
    except psycopg2.Error as error:
        if spooled is None:
            reason = str(error).strip().partition("\n")[0]
            raise SinkUnavailableError(
                f"The telemetry store cannot be asked for its newest reading: {reason}"
            ) from error
        stored = None
    finally:
        store.close()
    start = max([datetime.now(UTC), newest + step, *([] if stored is None else [stored + step])])
    for battery in batteries:
        battery.read(start - step)
    return start


def _summary(settings: Settings, loop: LiveLoop, sinks: Mapping[str, Sink]) -> Summary:
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
    waiting = {delivery.consumer: loop.spool.depth(delivery.consumer).readings for delivery in loop.deliveries}
    set_aside = {delivery.consumer: delivery.refused_readings for delivery in loop.deliveries}
    return Summary(
        tally=tally,
        stored=stored,
        waiting=waiting,
        set_aside={delivery.consumer: delivery.refused for delivery in loop.deliveries},
        unstored=waiting.get("store", 0) + set_aside.get("store", 0),
        acknowledged={name: sink.acknowledged for name, sink in sinks.items()},
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


def _main(arguments: argparse.Namespace, options: LiveOptions, timetable: Sequence[Injection], console: Console) -> int:
    stop = Event()
    _stop_on_signals(stop)
    # What troubles them comes to us as a sentence of the sink.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    with embedded_parts(Settings()) as settings:
        port = free_port(settings.host, settings.simulator_metrics_port)
        settings = settings.model_copy(update={"simulator_metrics_port": port})
        console.print(
            f"MQTT {settings.mqtt_host}:{settings.mqtt_port} · metrics http://{settings.host}:{port}/metrics",
            highlight=False,
        )
        console.print(f"living the past of {arguments.batteries} batteries …", highlight=False)
        packs = living_batteries(arguments.batteries, arguments.params, datetime.now(UTC))
        batteries = injected(packs, timetable, speed=arguments.speed)
        view = view_for(console)
        try:
            summary = run_live(batteries, settings, options, view, stop)
        finally:
            view.close()
    if summary is None:
        console.print("stopped before the first reading")
        return 1
    print_summary(console, summary)
    return 1 if summary.lost or summary.unfinished else 0


def _stop_on_signals(stop: Event) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the live simulator; 0 if nothing was lost and nothing waits, 1 otherwise, 2 if it could not begin."""
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
    parser.add_argument(
        "--regime",
        action="append",
        default=[],
        metavar="KIND@START+DURATION",
        help=f"{', '.join(name.replace('_', '-') for name in REGIMES)}, for all; e.g. hot-summer@60s",
    )
    parser.add_argument(
        "--predictions",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ask the prediction service; not where a stream scorer or a database predictor does it",
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="where the fleet is described")
    parser.add_argument("--check", action="store_true", help="say whether these arguments can be run, and end")
    arguments = parser.parse_args(argv)
    if arguments.batteries < 1:
        parser.error("--batteries must be at least 1")
    console = Console()
    try:
        options = LiveOptions(arguments.interval, arguments.speed, arguments.for_s, predicts=arguments.predictions)
        timetable = [*map(Injection.parse, arguments.inject), *map(parse_scenario, arguments.regime)]
        return 0 if arguments.check else _main(arguments, options, timetable, console)
    except (TwinError, SinkError, PredictionError) as error:
        console.print(f"[red]{error}[/red]", highlight=False, soft_wrap=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
