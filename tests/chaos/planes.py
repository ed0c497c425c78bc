"""The twin on real servers, three ways from a spool to predictions in a store, each a process that can be killed.

- kafka: simulator -> spool -> store and Kafka; stream scorer -> store
- service: simulator -> spool -> store; its prediction client asks the service, and what that says goes by the spool
- database: the store of the plane `service`, as a site's own table -> database predictor -> a store of its own
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
from deploy.servers.postgres import Postgres, databases, postgres
from deploy.servers.process import HOST, Command, Server, answers, unused_port
from features import state_update
from features.state import STATE_VERSION, FloatArray, decode, new_states
from features.targets import TARGET_NAMES
from serving.predictor import Predictor
from serving.replay import tell
from simulator.fleet import SimulateParams, new_battery
from telemetry.batch import Batch, Row, rows_of
from telemetry.contract import READING_FIELDS, names
from telemetry.errors import TwinError
from telemetry.settings import NO_TELEMETRY, Settings
from telemetry.spool.spool import quarantined_in
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.chaos.counting import Count, count
from tests.chaos.ledger import Account, read_ledger
from tests.chaos.parts import Supervisor
from tests.features.conftest_features import laboratory
from tests.training.small_models import GATE, ModelFiles
from training.registry.promotion import promote
from training.registry.registration import Provenance, register_all
from training.registry.registry_store import RegistryStore
from training.release import LoadedRelease, fetch_model, model_cache, read_release, release_version, twin_name

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
BATTERIES = 3
#: Sessions that every battery has behind it, so that all four targets are predicted from its first reading on.
PUBLISHED_CYCLES = 20
SPEED, INTERVAL_S = 60.0, 0.25
_DRAIN_S = 90.0
#: A registry that was killed fails a promotion instead of holding it up for minutes.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
#: So long nothing may change any more.
_SETTLED_S = 2.0


@dataclass(frozen=True)
class Plane:
    """One way from a spool to predictions.

    Attributes:
        dsn: of the store that is counted.
        ledger: of the readings that have to be in it.
        predictor: the part that predicts from what is in the store or on the broker; None where a simulator does.
    """

    name: str
    dsn: str
    ledger: Path
    predictor: str | None = None


@dataclass
class Twin:
    """Everything that runs, and what is asked of it in the end.

    Attributes:
        registry: settings that lead to the registry of all planes.
        spools: by simulator, where its readings wait.
    """

    supervisor: Supervisor
    planes: Sequence[Plane]
    registry: Settings
    spools: Mapping[str, Path]

    def promote(self, rng: random.Random) -> str:
        """Make another version of one model champion, and give the new release.

        Raises:
            Exception: whatever a registry says of which a part is away.
        """
        store = RegistryStore.open(self.registry, self.registry.domain)
        target = rng.choice(TARGET_NAMES)
        version = 3 - store.aliases().champions[target]
        promote(store, GATE, {target: version}, reason="chaos", by="chaos", force=True)
        return f"{target}/{version} in release {store.aliases().release}"

    def drain(self) -> None:
        """Let what waits arrive, stop the simulators, and let the predictors come to the end.

        Raises:
            TwinError: it does not come to that.
        """
        self.supervisor.wait_until_all_are_up(240.0)
        for name, path in self.spools.items():
            self._stop_simulator(name, path)
        for plane in self.planes:
            if not _all_predicted(plane) and plane.predictor is not None:
                server = self.supervisor.parts[plane.predictor]
                logger.error("%s: where it stands is at the end of %s", plane.predictor, server.command.log)
                if server.pid is not None:
                    os.kill(server.pid, signal.SIGABRT)

    def count(self) -> dict[str, Count]:
        """What is in the store of each plane."""
        releases = all_releases(self.registry)
        counts = {}
        for plane in self.planes:
            account = read_ledger(plane.ledger)
            counts[plane.name] = count(plane.dsn, account, self._states(plane, account), releases)
        return counts

    def set_aside(self) -> int:
        """Rows that a sink would not take, in all spools."""
        return sum(len(quarantined_in(path)) for path in self.spools.values())

    def _states(self, plane: Plane, account: Account) -> dict[str, FloatArray]:
        if plane.name == "service":
            return {battery_id: decode(state) for battery_id, state in account.states.items()}
        return {str(row["battery_id"]): _first_state(row) for row in described_batteries()}

    def _stop_simulator(self, name: str, path: Path) -> None:
        server = self.supervisor.parts[name]
        for _ in range(3):
            pid = server.pid
            if pid is None:
                server.start()
                continue
            # Not `Server.stop`, which is not as patient.
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + _DRAIN_S
            while server.pid is not None and time.monotonic() < deadline:
                time.sleep(0.1)
            if server.pid is not None:
                raise TwinError(f"{name} does not end, see {server.command.log}", field=name)
            if not (waiting := _waiting(path)):
                return
            logger.warning("%s has ended, and %s wait", name, waiting)
            server.start()
        raise TwinError(f"what waits in the spool of {name} does not arrive, see {server.command.log}", field=name)


def described_batteries() -> list[Row]:
    """The batteries that the simulators live, rows of the table `batteries`."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    simulate = SimulateParams.from_mapping(params["simulate"])
    now = datetime.now(UTC)
    return [
        new_battery(simulate, params["seed"], simulate.batteries + number, now).identity.row()
        for number in range(BATTERIES)
    ]


def all_releases(settings: Settings) -> list[Predictor]:
    """Everybody who may have predicted: each release that the registry has."""
    client = RegistryStore.open(settings, settings.domain).client
    name = twin_name(settings.domain)
    found = []
    for version in sorted(int(one.version) for one in client.search_model_versions(f"name = '{name}'")):
        release = read_release(client, settings.domain, version)
        models = {
            target: fetch_model(client, target, pinned, model_cache(settings))
            for target, pinned in release.models.items()
        }
        found.append(Predictor(LoadedRelease(name, version, release, models)))
    return found


@contextmanager
def running_twin(folder: Path, simulator_folder: Path) -> Iterator[Twin]:
    """Servers, registry, stores and every process of the three planes, with their data in `folder`.

    Args:
        simulator_folder: where the simulator of the plane `service` keeps its spool.

    Raises:
        TwinError: something is not installed, or did not start.
    """
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(16, thread_name_prefix="supervisor"))
        logger.info("servers")
        database = stack.enter_context(postgres(folder / "postgres"))
        objects = stack.enter_context(minio(folder / "minio"))
        tracking = stack.enter_context(mlflow(folder / "mlflow", databases(database).mlflow_dsn, objects))
        broker = stack.enter_context(kafka(folder / "kafka"))
        mqtt = stack.enter_context(mosquitto(folder / "mosquitto"))
        logger.info("registry and stores")
        registry = Settings(var=folder / "registry", mlflow_tracking_uri=tracking.url)
        _register(registry, folder / "trained")
        stores = {name: _store(database, name) for name in ("kafka", "service", "database")}
        here = _Here(folder, simulator_folder, stores, tracking.url, broker, mqtt)
        parts = {
            "PostgreSQL": database.server,
            "MinIO": objects.server,
            "MLflow": tracking.server,
            "Kafka": broker.server,
            "Mosquitto": mqtt.server,
        }
        processes = here.processes()
        logger.info("predictors and simulators")
        for server in processes.values():
            stack.callback(server.kill)
        for started in [pool.submit(server.start) for server in processes.values()]:
            started.result()
        yield Twin(
            Supervisor({**parts, **processes}, pool),
            [
                Plane("kafka", stores["kafka"], folder / "simulator (kafka).ledger", "scorer"),
                Plane("service", stores["service"], folder / "simulator (service).ledger"),
                Plane("database", stores["database"], folder / "simulator (service).ledger", "database predictor"),
            ],
            registry,
            {
                "simulator (kafka)": folder / "simulator (kafka)" / "spool.db",
                "simulator (service)": simulator_folder / "spool.db",
            },
        )


@dataclass(frozen=True)
class _Here:
    """Where everything is, told to each process by its environment."""

    folder: Path
    simulator_folder: Path
    stores: Mapping[str, str]
    tracking_uri: str
    broker: Kafka
    mqtt: Mosquitto

    def processes(self) -> dict[str, Server]:
        """Those of the three planes."""
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
            **NO_TELEMETRY,
            "TWIN_VAR": str(folder),
            "TWIN_MLFLOW_TRACKING_URI": self.tracking_uri,
            "TWIN_MAX_FUTURE_S": "inf",  # the simulators run ahead of the clock
        }
        return Server(
            Command(
                name,
                (sys.executable, "-X", "faulthandler", "-m", *arguments),
                ready=lambda: answers(f"http://{HOST}:{port}/{path}"),
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
    """Two versions of each of four small forests; the first is champion."""
    store = RegistryStore.open(settings, settings.domain)
    models = ModelFiles(folder)
    provenance = Provenance(source="made_up", data_sha256=dict.fromkeys(TARGET_NAMES, "ab" * 32))
    for noise in (0.1, 0.3):
        for target in TARGET_NAMES:
            models.train(target, state_version=STATE_VERSION, noise=noise)
        register_all(store, models.folder, models.metrics, GATE, provenance, by="chaos")
    assert release_version(store.client, settings.domain) is not None


def _store(server: Postgres, plane: str) -> str:
    """DSN of a store of its own for `plane`, which knows the batteries and what they have published."""
    with closing(psycopg2.connect(server.dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {plane}")
    dsn = server.tcp_dsn.removesuffix("/postgres") + f"/{plane}"
    migrate(dsn)
    batteries = described_batteries()
    cycles = [row for battery in batteries for row in _published(str(battery["battery_id"]))]
    with closing(PostgresStore(dsn)) as store:
        store.write(Batch(batteries=batteries, cycles=cycles))
    return dsn


def _published(battery_id: str) -> list[Row]:
    return rows_of(laboratory(battery_id, PUBLISHED_CYCLES, 0.001, 0).dropna(axis=1, how="all"))


def _first_state(battery: Row) -> FloatArray:
    """What a battery of which the store knows only what was published begins with."""
    states = new_states(1)
    tell(states[0], battery)
    cycles = state_update.cycles_matrix(laboratory(str(battery["battery_id"]), PUBLISHED_CYCLES, 0.001, 0))
    state_update.update_from_cycles(states, np.zeros(len(cycles), dtype=np.int64), cycles)
    state: FloatArray = states[0]
    return state


def _waiting(path: Path) -> dict[str, int]:
    """By consumer, how many rows wait in the spool `path`, whose process has ended."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return dict(
            connection.execute(
                "SELECT c.name, count(*) FROM entries e JOIN consumers c "
                "ON c.kind = e.kind AND e.position > c.position GROUP BY c.name"
            )
        )


def _all_predicted(plane: Plane) -> bool:
    """Wait until every reading has its predictions; False if nothing has come for a while before that."""
    taken = len(read_ledger(plane.ledger).taken)
    before: tuple[int, int] | None = None
    since = time.monotonic()
    while time.monotonic() - since < _DRAIN_S:
        with closing(psycopg2.connect(plane.dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FILTER (WHERE prediction_timestamp IS NULL OR voltage IS NULL), "
                "count(prediction_timestamp) FROM ev_telemetry"
            )
            ((missing, predicted),) = cursor.fetchall()
        if (missing, predicted) != before:
            before, since = (missing, predicted), time.monotonic()
        elif not missing and predicted >= taken and time.monotonic() - since > _SETTLED_S:
            return True
        time.sleep(0.2)
    logger.warning("plane %s: %s readings without a prediction, %s with, %s acknowledged", plane.name, *before, taken)
    return False
