"""`python -m serving.database`: predict from the new rows of a table, and write back, until it is stopped.

    python -m serving.database                                  # our table ev_telemetry
    python -m serving.database --field-map site.yaml            # a table or query of your own

For sites without Kafka.  Waits for the champion, the store and the site's database, and comes back by itself when one
of them was away.  Any number of these may run on one store: they share the batteries.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import psycopg2

from serving.champion import Champion
from serving.database.batch import Limits, Worker
from serving.database.batch_loop import run
from serving.database.predictor_metrics import DatabaseMetrics, metrics_server
from serving.database.row_source import SiteFeed, StoreFeed
from serving.garbage_collection import quieten
from serving.request_scoring import compile_state_update
from telemetry.embedded.telemetry_store import store_named
from telemetry.errors import TwinError
from telemetry.field_map import load_field_map
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore

logger = logging.getLogger("serving.database")

_RETRY_S = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Predict; 0 when stopped, 2 with a sentence if it could not begin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--field-map", type=Path, help="YAML that says where your readings are and what they mean")
    parser.add_argument(
        "--predict-past", action="store_true", help="at the first start predict from what is there already, too"
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        _serve(Settings(), arguments.field_map, arguments.predict_past, stop)
    except TwinError as error:
        print(error.sentence, file=sys.stderr)
        return 2
    return 0


def _serve(settings: Settings, field_map: Path | None, predict_past: bool, stop: threading.Event) -> None:
    metrics = DatabaseMetrics()
    with ExitStack() as stack:
        settings = stack.enter_context(store_named(settings))
        assert settings.telemetry_dsn is not None  # noqa: S101 - for the type checker
        dsn = settings.telemetry_dsn.get_secret_value()
        feed = _feed(settings, dsn, field_map)
        stack.enter_context(metrics_server(settings.host, settings.database_predictor_metrics_port, metrics))
        if not _until_possible(lambda: _prepare(dsn, feed), stop):
            return
        champion = Champion(settings, metrics.release)
        compile_state_update()
        champion.refresh()
        champion.follow()
        stack.callback(champion.stop)
        worker = Worker(
            stack.enter_context(closing(PostgresStore(dsn))),
            partial(psycopg2.connect, dsn, connect_timeout=5, application_name="battery-twin-replay"),
            feed,
            metrics,
            consumer=settings.database_predictor_name,
            limits=Limits(rows=settings.database_predictor_batch_rows),
            predict_past=predict_past,
        )
        quieten()
        run(worker, champion, metrics, settings.database_predictor_poll_s, stop)


def _feed(settings: Settings, dsn: str, field_map: Path | None) -> StoreFeed | SiteFeed:
    path = field_map or settings.database_predictor_field_map
    if path is None:
        return StoreFeed(settings.max_future_s)
    source = settings.database_predictor_source_dsn
    site_dsn = dsn if source is None else source.get_secret_value()
    return SiteFeed(site_dsn, load_field_map(path), settings.max_future_s)


def _prepare(dsn: str, feed: StoreFeed | SiteFeed) -> None:
    """See that our tables are there, and theirs."""
    migrate(dsn)
    if isinstance(feed, SiteFeed):
        feed.check()


def _until_possible(prepare: Callable[[], None], stop: threading.Event) -> bool:
    """Try until no database is away; False where `stop` was set first."""
    while not stop.is_set():
        try:
            prepare()
        except psycopg2.OperationalError as error:
            logger.error("%s", str(error).strip().splitlines()[0])
            stop.wait(_RETRY_S)
        else:
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
