"""`python -m monitoring`: runs model evaluation, drift detection and the Prometheus exporter (9091) in one process.

Reads and writes the telemetry store only, so it works with the service, the stream scorer and the database predictor
alike.  The model registry is read for training references, label definitions and counts of trainings; aliases that were
moved in MLflow's web page are recorded, and the release is updated.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg2

from features.labels import LabelParams
from monitoring.drift.drift_monitor import DriftMonitor, registered_references
from monitoring.drift.drift_params import DriftParams
from monitoring.evaluation.definitions import ModelDefinitions
from monitoring.evaluation.evaluator import Evaluator
from monitoring.exporter import TwinCollector
from monitoring.fleet_queries import FleetReader
from monitoring.registry_poll import RegistryPoller
from monitoring.unreadable import UnreadableRows
from telemetry.command import exit_code, stop_on_signals
from telemetry.embedded.ports import free_port
from telemetry.embedded.postgres import ensure_telemetry_store
from telemetry.errors import TwinError
from telemetry.metrics_server import metrics_server
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from training.gate import project_gate

logger = logging.getLogger(__name__)


@contextmanager
def run_monitoring(settings: Settings, params_file: Path, stop: threading.Event) -> Iterator[str]:
    """Run evaluator, drift monitor and exporter; yields the URL of the metrics.

    Args:
        settings: with `telemetry_dsn` set and a free `metrics_port`.
        stop: set by the caller to end; set here as well when the block is left.
    """
    if settings.telemetry_dsn is None:
        raise TwinError("No telemetry store is configured.", field="telemetry_dsn")
    dsn = settings.telemetry_dsn.get_secret_value()
    definitions = LabelParams.read(params_file)
    ahead, unreadable = settings.max_future_s, UnreadableRows()
    evaluator = Evaluator(
        dsn, ModelDefinitions(settings, definitions), definitions.temperature_every_s, ahead, unreadable
    )
    drift = DriftMonitor(dsn, registered_references(settings), DriftParams.read(params_file), ahead, unreadable)
    registry = RegistryPoller(settings, project_gate(params_file))
    reader = FleetReader(dsn, ahead, unreadable)
    with ExitStack() as stack:
        stack.callback(reader.close)
        stack.enter_context(metrics_server(settings.host, settings.metrics_port, TwinCollector(reader, registry)))
        tasks = (
            lambda: evaluator.run(stop, settings.evaluation_interval_s),
            lambda: drift.run(stop, settings.evaluation_interval_s),
            lambda: registry.run(stop),
        )
        with _threads(stop, tasks):
            yield f"http://{settings.host}:{settings.metrics_port}/metrics"


@contextmanager
def _threads(stop: threading.Event, tasks: Sequence[Callable[[], None]]) -> Iterator[None]:
    """Run each task in a thread; when one ends, all are stopped, and its error is raised."""
    with ThreadPoolExecutor(len(tasks)) as pool:
        futures = [pool.submit(task) for task in tasks]
        for future in futures:
            future.add_done_callback(lambda _: stop.set())
        try:
            yield
        finally:
            stop.set()
        for future in futures:
            future.result()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; exit code 2 if it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m monitoring", description=__doc__)
    parser.add_argument(
        "--params",
        type=Path,
        default=Path("params.yaml"),
        help="label definitions for models without their own, and section `drift`",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    return exit_code(lambda: _run(options.params, stop_on_signals()), psycopg2.Error)


def _run(params_file: Path, stop: threading.Event) -> None:
    with ExitStack() as stack:
        settings = stack.enter_context(ensure_telemetry_store(Settings()))
        assert settings.telemetry_dsn is not None  # noqa: S101 - for the type checker
        migrate(settings.telemetry_dsn.get_secret_value())
        settings = settings.model_copy(update={"metrics_port": free_port(settings.host, settings.metrics_port)})
        address = stack.enter_context(run_monitoring(settings, params_file, stop))
        print(f"metrics {address}", flush=True)
        stop.wait()


if __name__ == "__main__":
    sys.exit(main())
