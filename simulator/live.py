"""Live simulator: produces readings of batteries in real time, and has them predicted, stored and published.

    python -m simulator.live --batteries 10 --for 60 --speed 1 --interval 0.5

Every reading is appended to the spool on disk before it counts as produced.  From there it is delivered independently
to the telemetry store, MQTT, Kafka (where configured) and the prediction service.  Starts an embedded PostgreSQL and
MQTT broker unless the settings name others.  Ends with a summary; the exit code is 0 only if nothing was lost and
nothing waits in the spool.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import psycopg2
from rich.console import Console

from simulator.history_backfill import CONSUMER, backfill_histories
from simulator.injections import INJECTION_KINDS, SCENARIOS, Injection, parse_scenario, with_injections
from simulator.live_battery import LiveBattery
from simulator.live_fleet import default_injections, start_batteries
from simulator.live_loop import NEWEST_TIME, PRODUCER, LiveLoop, state_key
from simulator.live_twin import LiveTwin
from simulator.prediction_consumer import READINGS_PER_REQUEST, PredictionWorker
from simulator.run_statistics import RunStatistics, Summary
from simulator.service_client import PredictionClient, PredictionError
from simulator.simulator_metrics import LiveCollector
from simulator.terminal import View, print_summary, view_for
from telemetry.command import stop_on_signals
from telemetry.embedded.mqtt_broker import ensure_mqtt_broker
from telemetry.embedded.ports import free_port
from telemetry.embedded.postgres import ensure_telemetry_store
from telemetry.errors import TwinError
from telemetry.metrics_server import metrics_server
from telemetry.settings import Settings
from telemetry.sinks import make_sinks
from telemetry.sinks.base import Sink, SinkError, SinkUnavailableError
from telemetry.spool.delivery import Delivery, SinkWorker
from telemetry.spool.spool import Spool
from telemetry.stores.postgres import PostgresStore

READY_TIMEOUT_S = 120.0
FINISH_TIMEOUT_S = 30.0
#: Longer than the timeout of any sink.
_STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class LiveOptions:
    """Options of a live run.

    Attributes:
        interval_s: wall-clock time between two readings of a battery.
        speed: event time per wall-clock time.
        for_s: wall-clock duration of the run; None: until it is stopped.
        predicts: request predictions from the service; False where the stream scorer or database predictor makes them.
        stores_history: store the batteries' histories, with predictions, on the first start.
    """

    interval_s: float = 0.5
    speed: float = 1.0
    for_s: float | None = None
    predicts: bool = True
    stores_history: bool = True

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

    Readings left in the spool by an earlier run are delivered and predicted first, and its batteries continue from
    their saved states.  An unavailable sink is reported, and its rows wait in the spool.

    Args:
        settings: with `telemetry_dsn` set (see `ensure_telemetry_store`).

    Raises:
        TwinError: a setting is wrong, or another process uses the spool.
        SinkError: the newest event time of these batteries is neither in the spool nor available from the store.
        PredictionError: the service is not ready, or refuses a history.
    """
    sinks, off = make_sinks(settings)
    for name, reason in off.items():
        view.notify(f"{name} is off: {reason}")
    statistics = RunStatistics(predicts=options.predicts)
    consumers = {name: sink.kinds for name, sink in sinks.items()}
    if options.predicts:
        consumers[CONSUMER] = ("reading",)
    with ExitStack() as stack:
        spool = Spool(settings.spool_path, consumers, max_bytes=settings.spool_max_bytes)
        stack.callback(spool.close)
        for name, rows in spool.removed_consumers.items():
            if rows:
                view.notify(f"{name} is no longer in the settings: {rows} rows that waited for it were dropped.")
        _restore_batteries(batteries, spool, view)
        twins = [LiveTwin.of(battery) for battery in batteries]
        client = stack.enter_context(PredictionClient(settings.service_url))
        _set_up_sinks(sinks, view)
        deliveries = [Delivery(spool, name, SinkWorker(sink)) for name, sink in sinks.items()]
        stack.callback(_stop_deliveries, deliveries)
        for delivery in deliveries:
            delivery.start()
        if options.predicts:
            known = spool.states(CONSUMER)
            if unknown := [twin for twin in twins if twin.battery.battery_id not in known]:
                client.wait_until_ready(READY_TIMEOUT_S, stop)
                dsn = _dsn(settings) if options.stores_history else None
                if error := backfill_histories(unknown, client, spool, dsn, view.history, stop):
                    view.notify(f"The histories before the run are not all in the telemetry store: {error}")
            by_id = {twin.battery.battery_id: twin for twin in twins}
            worker = PredictionWorker(client, spool, by_id, statistics)
            deliveries.append(Delivery(spool, CONSUMER, worker, batch_rows=READINGS_PER_REQUEST))
            deliveries[-1].start()
        if stop.is_set():
            return None
        start = _advance_to_start(settings, spool, batteries, options)
        loop = LiveLoop(twins, spool, deliveries, start, options.interval_s, options.speed, statistics)
        loop.on_tick = lambda: view.tick(twins, statistics)
        collector = LiveCollector(statistics, spool, deliveries)
        stack.enter_context(metrics_server(settings.host, settings.simulator_metrics_port, collector))
        loop.run(stop, options.for_s)
        loop.finish(FINISH_TIMEOUT_S)
        return _summary(settings, loop, sinks)


def _restore_batteries(batteries: Sequence[LiveBattery], spool: Spool, view: View) -> None:
    """Restore the batteries' states that an earlier run saved in the spool."""
    states = spool.states(PRODUCER)
    for battery in batteries:
        saved = states.get(state_key(battery.battery_id))
        if saved is not None and not battery.restore_state(saved):
            view.notify(f"{battery.battery_id} does not continue: its saved state is of a fleet with other parameters.")


def _set_up_sinks(sinks: Mapping[str, Sink], view: View) -> None:
    """Set up every sink once, so that a wrong setting ends the run at once and an unavailable sink is reported."""
    for name, sink in sinks.items():
        try:
            sink.setup()
        except SinkUnavailableError as error:
            view.notify(f"{name} is unavailable, its rows wait in the spool: {error}")


def _stop_deliveries(deliveries: Sequence[Delivery]) -> None:
    for delivery in deliveries:
        delivery.stop_soon()
    for delivery in deliveries:
        delivery.stop(_STOP_TIMEOUT_S)


def _advance_to_start(
    settings: Settings, spool: Spool, batteries: Sequence[LiveBattery], options: LiveOptions
) -> datetime:
    """Simulate all batteries up to just before the first tick, and return the event time of that tick.

    It is now, or later where these batteries have later readings, in the spool or in the store: event time never goes
    backwards.  Simulating the days in between would take too long within the first tick.
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
                f"The newest reading cannot be queried from the telemetry store: {reason}"
            ) from error
        stored = None
    finally:
        store.close()
    start = max([datetime.now(UTC), newest + step, *([] if stored is None else [stored + step])])
    for battery in batteries:
        battery.read(start - step)
    return start


def _summary(settings: Settings, loop: LiveLoop, sinks: Mapping[str, Sink]) -> Summary:
    statistics = loop.statistics
    stored: int | None = 0
    if statistics.first_time is not None and statistics.last_time is not None:
        store = _store(settings)
        try:
            ids = [twin.battery.battery_id for twin in loop.twins]
            stored = store.count_readings(ids, statistics.first_time, statistics.last_time)
        except psycopg2.Error:
            stored = None
        finally:
            store.close()
    waiting = {delivery.consumer: loop.spool.depth(delivery.consumer).readings for delivery in loop.deliveries}
    quarantined_readings = {delivery.consumer: delivery.refused_readings for delivery in loop.deliveries}
    return Summary(
        statistics=statistics,
        stored=stored,
        waiting=waiting,
        quarantined={delivery.consumer: delivery.refused for delivery in loop.deliveries},
        unstored=waiting.get("store", 0) + quarantined_readings.get("store", 0),
        acknowledged={name: sink.acknowledged for name, sink in sinks.items()},
    )


def _store(settings: Settings) -> PostgresStore:
    return PostgresStore(_dsn(settings))


def _dsn(settings: Settings) -> str:
    if settings.telemetry_dsn is None:
        raise TwinError("No telemetry store is configured.", field="telemetry_dsn")
    return settings.telemetry_dsn.get_secret_value()


def _main(
    arguments: argparse.Namespace, options: LiveOptions, injections: Sequence[Injection], console: Console
) -> int:
    stop = stop_on_signals()
    # The sink reports the errors of its Kafka client.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    with ensure_telemetry_store(Settings()) as stored, ensure_mqtt_broker(stored) as settings:
        port = free_port(settings.host, settings.simulator_metrics_port)
        settings = settings.model_copy(update={"simulator_metrics_port": port})
        console.print(
            f"MQTT {settings.mqtt_host}:{settings.mqtt_port} · metrics http://{settings.host}:{port}/metrics",
            highlight=False,
        )
        console.print(f"simulating the history of {arguments.batteries} batteries …", highlight=False)
        count, is_mixed = arguments.batteries, not arguments.healthy
        packs = start_batteries(count, arguments.params, datetime.now(UTC), is_mixed=is_mixed)
        injections = [*default_injections(count, is_mixed=is_mixed), *injections]
        batteries = with_injections(packs, injections, speed=arguments.speed)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the live simulator; 0 if nothing was lost and nothing waits, 1 otherwise, 2 if it could not start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batteries", type=int, default=10, help="number of batteries (default 10)")
    parser.add_argument(
        "--for", dest="for_s", type=float, metavar="SECONDS", help="duration of the run (default: endless)"
    )
    parser.add_argument("--speed", type=float, default=1.0, help="event time per wall-clock time")
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between two readings of a battery")
    parser.add_argument(
        "--inject",
        action="append",
        default=[],
        metavar="KIND=BATTERY@START+DURATION",
        help=f"{', '.join(INJECTION_KINDS)}; e.g. overheating=#1@20s+15s (the first battery, 20 s after the start)",
    )
    parser.add_argument(
        "--scenario",
        action="append",
        default=[],
        metavar="KIND@START+DURATION",
        help=f"{', '.join(name.replace('_', '-') for name in SCENARIOS)}, for all batteries; e.g. hot-summer@60s",
    )
    parser.add_argument(
        "--healthy",
        action="store_true",
        help="without the lost cooling of battery 2 and the silence of battery 4, which a fleet of five or more has",
    )
    parser.add_argument(
        "--predictions",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="request predictions from the service; off where the stream scorer or database predictor makes them",
    )
    parser.add_argument(
        "--history",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="store the batteries' histories, with predictions, on the first start",
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="file with the fleet's parameters")
    parser.add_argument("--check", action="store_true", help="validate the arguments and exit")
    arguments = parser.parse_args(argv)
    if arguments.batteries < 1:
        parser.error("--batteries must be at least 1")
    console = Console()
    try:
        options = LiveOptions(
            arguments.interval,
            arguments.speed,
            arguments.for_s,
            predicts=arguments.predictions,
            stores_history=arguments.history,
        )
        injections = [*map(Injection.parse, arguments.inject), *map(parse_scenario, arguments.scenario)]
        return 0 if arguments.check else _main(arguments, options, injections, console)
    except (TwinError, SinkError, PredictionError) as error:
        console.print(f"[red]{error}[/red]", highlight=False, soft_wrap=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
