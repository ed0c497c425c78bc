"""Command `python -m serving.database`: predicts from the new rows of a table and stores the predictions.

    python -m serving.database                                  # the telemetry store's table ev_telemetry
    python -m serving.database --field-map site.yaml            # a table or query of the site

For sites without Kafka.  Waits for the champion, the store and the site's database, and retries while one of them is
unavailable.  Several instances can run on one store: they share the batteries.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg2

from serving.database.batch import BatchLimits, BatchWorker
from serving.database.batch_loop import run_worker
from serving.database.predictor_metrics import DatabaseMetrics
from serving.database.row_source import SiteRowSource, StoreRowSource
from serving.release_loader import ReleaseLoader
from serving.request_scoring import compile_state_update
from serving.state_restore import StateRestorer
from telemetry.embedded.postgres import ensure_telemetry_store
from telemetry.errors import TwinError
from telemetry.field_map import load_field_map
from telemetry.metrics_server import metrics_server
from telemetry.settings import Settings
from telemetry.stores.connection import StoreConnection
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore

logger = logging.getLogger("serving.database")

_RETRY_S = 2.0  # while a database is unavailable at the start


def main(argv: Sequence[str] | None = None) -> int:
    """Predict until stopped; returns 0, or 2 with an error message if it cannot start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--field-map", type=Path, help="YAML file with the table and columns of your readings")
    parser.add_argument(
        "--predict-past", action="store_true", help="at the first start predict from the existing rows, too"
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
        settings = stack.enter_context(ensure_telemetry_store(settings))
        assert settings.telemetry_dsn is not None  # noqa: S101 - for the type checker
        dsn = settings.telemetry_dsn.get_secret_value()
        row_source = _row_source(settings, dsn, field_map)
        stack.enter_context(metrics_server(settings.host, settings.database_predictor_metrics_port, metrics.registry))
        if not _retry_until_available(lambda: _prepare(dsn, row_source), stop):
            return
        loader = ReleaseLoader(settings, metrics.release)
        compile_state_update()
        loader.refresh()
        store = StoreConnection(dsn, "battery-twin-replay", statement_timeout_s=None)
        worker = BatchWorker(
            stack.enter_context(closing(PostgresStore(dsn))),
            stack.enter_context(closing(StateRestorer(store))),
            row_source,
            metrics,
            consumer=settings.database_predictor_name,
            limits=BatchLimits(rows=settings.database_predictor_batch_rows),
            predict_past=predict_past,
        )
        loader.follow()
        stack.callback(loader.stop)
        run_worker(worker, loader, metrics, settings.database_predictor_poll_s, stop)


def _row_source(settings: Settings, dsn: str, field_map: Path | None) -> StoreRowSource | SiteRowSource:
    path = field_map or settings.database_predictor_field_map
    if path is None:
        return StoreRowSource(settings.max_future_s)
    source = settings.database_predictor_source_dsn
    site_dsn = dsn if source is None else source.get_secret_value()
    return SiteRowSource(site_dsn, load_field_map(path), settings.max_future_s)


def _prepare(dsn: str, row_source: StoreRowSource | SiteRowSource) -> None:
    """Migrate the store and check that the site's table can be read."""
    migrate(dsn)
    if isinstance(row_source, SiteRowSource):
        row_source.check()


def _retry_until_available(prepare: Callable[[], None], stop: threading.Event) -> bool:
    """Retry until all databases are available; False if `stop` was set before."""
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
