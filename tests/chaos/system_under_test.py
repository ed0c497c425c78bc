"""System under test of the chaos run: the twin on real servers, with three paths from readings to stored predictions.

- kafka: simulator -> spool -> store and Kafka; Kafka -> stream scorer -> store
- service: simulator -> spool -> store; prediction client -> prediction service -> spool -> store
- database: store of the path `service`, as a customer table -> database predictor -> second store
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psycopg2
import yaml

from deploy.servers.kafka import Kafka, kafka
from deploy.servers.minio import minio
from deploy.servers.mlflow import mlflow
from deploy.servers.mosquitto import Mosquitto, mosquitto
from deploy.servers.postgres import Postgres, create_databases, postgres
from deploy.servers.process import HOST, Command, Server, responds, unused_port
from features import state_update
from features.state import STATE_VERSION, FloatArray, decode, new_states
from features.targets import TARGET_NAMES
from serving.predictor import Predictor
from serving.state_restore import set_battery_from_row
from simulator.fleet import SimulateParams, new_battery
from telemetry.batch import Batch, Row, rows_of
from telemetry.contract import READING_FIELDS, names
from telemetry.errors import TwinError
from telemetry.settings import USAGE_STATISTICS_OFF, Settings
from telemetry.spool.spool import read_quarantined
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.chaos.counting import Count, count
from tests.chaos.ledger import LedgerSummary, read_ledger
from tests.chaos.supervisor import Supervisor
from tests.features.conftest_features import laboratory
from tests.training.small_models import GATE, ModelFiles
from training.registry.promotion import promote
from training.registry.registration import Provenance, register_all
from training.registry.registry_store import RegistryStore
from training.release import LoadedRelease, fetch_model, model_cache, read_release, release_version, twin_name

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
BATTERIES = 3
#: Laboratory cycles in the history of every battery, so that all four targets are predicted from its first reading on.
LABORATORY_CYCLES = 20
SPEED, INTERVAL_S = 60.0, 0.25
_DRAIN_S = 90.0
#: MLflow client settings with which a promotion fails quickly while the registry is down.
_MLFLOW_CLIENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
#: A store is complete if it has not changed for this time.
_STABLE_S = 2.0


@dataclass(frozen=True)
class PredictionPath:
    """One path from readings to stored predictions.

    Attributes:
        dsn: of the store that is compared.
        ledger: of the readings that must be in it.
        predictor: the process that predicts from the store or the broker; None if the simulator's client does.
    """

    name: str
    dsn: str
    ledger: Path
    predictor: str | None = None


@dataclass
class Twin:
    """All running processes, and the operations of a chaos run on them.

    Attributes:
        registry: settings with the address of the model registry.
        spools: path of the spool, by simulator.
    """

    supervisor: Supervisor
    paths: Sequence[PredictionPath]
    registry: Settings
    spools: Mapping[str, Path]

    def promote(self, rng: random.Random) -> str:
        """Promote the other version of a random model; returns a description of the new release.

        Raises:
            Exception: any error of the registry client while a server of the registry is unavailable.
        """
        store = RegistryStore.open(self.registry, self.registry.domain)
        target = rng.choice(TARGET_NAMES)
        version = 3 - store.aliases().champions[target]
        promote(store, GATE, {target: version}, reason="chaos", by="chaos", force=True)
        return f"{target}/{version} in release {store.aliases().release}"

    def drain(self) -> None:
        """Stop the simulators after their spools have drained, and wait until all readings are predicted.

        Raises:
            TwinError: a spool does not drain.
        """
        self.supervisor.wait_until_all_run(240.0)
        for name, spool in self.spools.items():
            self._stop_simulator(name, spool)
        for path in self.paths:
            if not _all_predicted(path) and path.predictor is not None:
                server = self.supervisor.servers[path.predictor]
                logger.error("%s: its stack traces are at the end of %s", path.predictor, server.command.log)
                if server.pid is not None:
                    os.kill(server.pid, signal.SIGABRT)

    def count(self) -> dict[str, Count]:
        """Compare the store of each path with its ledger."""
        releases = all_releases(self.registry)
        counts = {}
        for path in self.paths:
            ledger = read_ledger(path.ledger)
            counts[path.name] = count(path.dsn, ledger, self._initial_states(path, ledger), releases)
        return counts

    def quarantined(self) -> int:
        """Number of rows that a sink rejected, over all spools."""
        return sum(len(read_quarantined(path)) for path in self.spools.values())

    def _initial_states(self, path: PredictionPath, ledger: LedgerSummary) -> dict[str, FloatArray]:
        if path.name == "service":
            return {battery_id: decode(state, battery_id) for battery_id, state in ledger.states.items()}
        return {str(row["battery_id"]): _initial_state(row) for row in simulated_batteries()}

    def _stop_simulator(self, name: str, spool: Path) -> None:
        server = self.supervisor.servers[name]
        for _ in range(3):
            pid = server.pid
            if pid is None:
                server.start()
                continue
            # Not `Server.stop`, whose timeout is shorter.
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + _DRAIN_S
            while server.pid is not None and time.monotonic() < deadline:
                time.sleep(0.1)
            if server.pid is not None:
                raise TwinError(f"{name} does not exit, see {server.command.log}", field=name)
            if not (waiting := _waiting_rows(spool)):
                return
            logger.warning("%s has exited with undelivered rows: %s", name, waiting)
            server.start()
        raise TwinError(f"the spool of {name} does not drain, see {server.command.log}", field=name)


def simulated_batteries() -> list[Row]:
    """The batteries of the simulators, as rows of the table `batteries`."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    simulate = SimulateParams.of(params)
    now = datetime.now(UTC)
    return [
        new_battery(simulate, params["seed"], simulate.batteries + number, now).identity.row()
        for number in range(BATTERIES)
    ]


def all_releases(settings: Settings) -> list[Predictor]:
    """A predictor for each release in the registry."""
    client = RegistryStore.open(settings, settings.domain).client
    name = twin_name(settings.domain)
    predictors = []
    for version in sorted(int(found.version) for found in client.search_model_versions(f"name = '{name}'")):
        release = read_release(client, settings.domain, version)
        models = {
            target: fetch_model(client, target, pinned, model_cache(settings))
            for target, pinned in release.models.items()
        }
        predictors.append(Predictor(LoadedRelease(name, version, release, models)))
    return predictors


@contextmanager
def running_twin(folder: Path, simulator_folder: Path) -> Iterator[Twin]:
    """Start servers, registry, stores and the processes of the three paths, with their data in `folder`.

    Args:
        simulator_folder: folder of the spool of the simulator on the path `service`.

    Raises:
        TwinError: a server is not installed, or a process did not start.
    """
    for name, value in _MLFLOW_CLIENT.items():
        os.environ.setdefault(name, value)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(16, thread_name_prefix="supervisor"))
        logger.info("starting the servers")
        database = stack.enter_context(postgres(folder / "postgres"))
        objects = stack.enter_context(minio(folder / "minio"))
        tracking = stack.enter_context(mlflow(folder / "mlflow", create_databases(database).mlflow_dsn, objects))
        broker = stack.enter_context(kafka(folder / "kafka"))
        mqtt = stack.enter_context(mosquitto(folder / "mosquitto"))
        logger.info("creating the registry and the stores")
        registry = Settings(var=folder / "registry", mlflow_tracking_uri=tracking.url)
        _register(registry, folder / "trained")
        stores = {name: _create_store(database, name) for name in ("kafka", "service", "database")}
        factory = _ProcessFactory(folder, simulator_folder, stores, tracking.url, broker, mqtt)
        servers = {
            "PostgreSQL": database.server,
            "MinIO": objects.server,
            "MLflow": tracking.server,
            "Kafka": broker.server,
            "Mosquitto": mqtt.server,
        }
        processes = factory.processes()
        logger.info("starting the predictors and simulators")
        for server in processes.values():
            stack.callback(server.kill)
        for start in [pool.submit(server.start) for server in processes.values()]:
            start.result()
        kafka_ledger, service_ledger = (folder / f"simulator ({name}).ledger" for name in ("kafka", "service"))
        yield Twin(
            Supervisor({**servers, **processes}, pool),
            [
                PredictionPath("kafka", stores["kafka"], kafka_ledger, "scorer"),
                PredictionPath("service", stores["service"], service_ledger),
                PredictionPath("database", stores["database"], service_ledger, "database predictor"),
            ],
            registry,
            {
                "simulator (kafka)": folder / "simulator (kafka)" / "spool.db",
                "simulator (service)": simulator_folder / "spool.db",
            },
        )


@dataclass(frozen=True)
class _ProcessFactory:
    """Creates the processes, with the addresses of all servers in their environment."""

    folder: Path
    simulator_folder: Path
    stores: Mapping[str, str]
    tracking_uri: str
    broker: Kafka
    mqtt: Mosquitto

    def processes(self) -> dict[str, Server]:
        """The processes of the three paths, not yet started."""
        service_port = unused_port()
        mqtt = {
            "TWIN_MQTT_HOST": self.mqtt.host,
            "TWIN_MQTT_PORT": str(self.mqtt.port),
            "TWIN_MQTT_USERNAME": self.mqtt.username,
            "TWIN_MQTT_PASSWORD": self.mqtt.password,
        }
        brokers = {"TWIN_KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap, "TWIN_KAFKA_PARTITIONS": "3"}
        return {
            "service": self._server(
                "service", ["serving"], {"TWIN_SERVICE_PORT": str(service_port)}, service_port, "readyz"
            ),
            "scorer": self._with_metrics(
                "scorer",
                ["serving.stream"],
                "TWIN_SCORER_METRICS_PORT",
                {**brokers, "TWIN_TELEMETRY_DSN": self.stores["kafka"], "TWIN_SCORER_SESSION_S": "6"},
            ),
            "database predictor": self._with_metrics(
                "database predictor",
                ["serving.database", "--predict-past", "--field-map", str(self._field_map())],
                "TWIN_DATABASE_PREDICTOR_METRICS_PORT",
                {
                    "TWIN_TELEMETRY_DSN": self.stores["database"],
                    "TWIN_DATABASE_PREDICTOR_SOURCE_DSN": self.stores["service"],
                },
            ),
            "simulator (kafka)": self._simulator(
                "simulator (kafka)",
                ["--no-predictions"],
                {**mqtt, **brokers, "TWIN_TELEMETRY_DSN": self.stores["kafka"]},
            ),
            "simulator (service)": self._simulator(
                "simulator (service)",
                [],
                {
                    **mqtt,
                    "TWIN_TELEMETRY_DSN": self.stores["service"],
                    "TWIN_SERVICE_PORT": str(service_port),
                    "TWIN_VAR": str(self.simulator_folder),
                },
            ),
        }

    def _simulator(self, name: str, options: Sequence[str], environment: Mapping[str, str]) -> Server:
        live = ["--batteries", str(BATTERIES), "--speed", str(SPEED), "--interval", str(INTERVAL_S)]
        ledger = str(self.folder / f"{name}.ledger")
        return self._with_metrics(
            name, ["tests.chaos.producer", ledger, *live, *options], "TWIN_SIMULATOR_METRICS_PORT", environment
        )

    def _with_metrics(
        self, name: str, arguments: Sequence[str], port_name: str, environment: Mapping[str, str]
    ) -> Server:
        port = unused_port()
        return self._server(name, arguments, {**environment, port_name: str(port)}, port, "metrics")

    def _server(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], port: int, path: str
    ) -> Server:
        folder = self.folder / name
        folder.mkdir()
        common = {
            **USAGE_STATISTICS_OFF,
            "TWIN_VAR": str(folder),
            "TWIN_MLFLOW_TRACKING_URI": self.tracking_uri,
            "TWIN_MAX_FUTURE_S": "inf",  # the simulators run ahead of the clock
        }
        return Server(
            Command(
                name,
                (sys.executable, "-X", "faulthandler", "-m", *arguments),
                ready=lambda: responds(f"http://{HOST}:{port}/{path}"),
                log=self.folder / f"{name}.log",
                folder=ROOT,
                environment={**common, **environment},
                start_timeout_s=300.0,
            )
        )

    def _field_map(self) -> Path:
        columns = names(READING_FIELDS)
        query = f"SELECT {', '.join(columns)} FROM ev_telemetry WHERE voltage IS NOT NULL"
        path = self.folder / "site.yaml"
        path.write_text(yaml.safe_dump({"query": query, "columns": {name: name for name in columns}}))
        return path


def _register(settings: Settings, folder: Path) -> None:
    """Register two versions of each of four small forests; the first is champion."""
    store = RegistryStore.open(settings, settings.domain)
    models = ModelFiles(folder)
    provenance = Provenance(source="made_up", data_sha256=dict.fromkeys(TARGET_NAMES, "ab" * 32))
    for noise in (0.1, 0.3):
        for target in TARGET_NAMES:
            models.train(target, state_version=STATE_VERSION, noise=noise)
        register_all(store, models.folder, models.metrics, GATE, provenance, by="chaos")
    assert release_version(store.client, settings.domain) is not None


def _create_store(server: Postgres, name: str) -> str:
    """Create a store with the batteries and their laboratory cycles; returns its DSN."""
    with closing(psycopg2.connect(server.dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
    dsn = server.tcp_dsn.removesuffix("/postgres") + f"/{name}"
    migrate(dsn)
    batteries = simulated_batteries()
    cycles = [row for battery in batteries for row in _laboratory_cycles(str(battery["battery_id"]))]
    with closing(PostgresStore(dsn)) as store:
        store.write(Batch(batteries=batteries, cycles=cycles))
    return dsn


def _laboratory_cycles(battery_id: str) -> list[Row]:
    return rows_of(laboratory(battery_id, LABORATORY_CYCLES, 0.001, 0).dropna(axis=1, how="all"))


def _initial_state(battery: Row) -> FloatArray:
    """State of a battery that has only its laboratory cycles in the store."""
    states = new_states(1)
    set_battery_from_row(states[0], battery)
    cycles = state_update.cycles_matrix(laboratory(str(battery["battery_id"]), LABORATORY_CYCLES, 0.001, 0))
    state_update.update_from_cycles(states, np.zeros(len(cycles), dtype=np.int64), cycles)
    state: FloatArray = states[0]
    return state


def _waiting_rows(path: Path) -> dict[str, int]:
    """By consumer, the number of rows not yet delivered from the spool `path`, whose process has exited."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return dict(
            connection.execute(
                "SELECT c.name, count(*) FROM entries e JOIN consumers c "
                "ON c.kind = e.kind AND e.position > c.position GROUP BY c.name"
            )
        )


def _all_predicted(path: PredictionPath) -> bool:
    """Wait until every reading has its predictions; False if there is no progress for a while before that."""
    acknowledged = len(read_ledger(path.ledger).acknowledged)
    previous: tuple[int, int] | None = None
    since = time.monotonic()
    while time.monotonic() - since < _DRAIN_S:
        with closing(psycopg2.connect(path.dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FILTER (WHERE prediction_timestamp IS NULL OR voltage IS NULL), "
                "count(prediction_timestamp) FROM ev_telemetry"
            )
            ((missing, predicted),) = cursor.fetchall()
        if (missing, predicted) != previous:
            previous, since = (missing, predicted), time.monotonic()
        elif not missing and predicted >= acknowledged and time.monotonic() - since > _STABLE_S:
            return True
        time.sleep(0.2)
    logger.warning(
        "path %s: %s readings without a prediction, %s with, %s acknowledged", path.name, *previous, acknowledged
    )
    return False
