"""Tests of `deploy.servers`: each server starts, keeps acknowledged data when killed, and exits with its parent."""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import paho.mqtt.client as mqtt
import psycopg2
import pytest
from kafka import KafkaConsumer, KafkaProducer
from paho.mqtt.enums import CallbackAPIVersion

from deploy.servers.config_files import append_properties, replace_lines
from deploy.servers.install import DEBIAN, KAFKA, MINIO, DebianPackage, require
from deploy.servers.kafka import Kafka
from deploy.servers.mosquitto import Mosquitto
from deploy.servers.postgres import Postgres, postgres
from deploy.servers.process import HOST, Command, Server
from deploy.servers.prometheus import alertmanager, prometheus
from telemetry.errors import TwinError
from telemetry.settings import Settings
from tests.needs import need

ROOT = Path(__file__).resolve().parents[2]


def sleeper(folder: Path, *, ready: bool = True) -> Command:
    return Command(
        "sleeper",
        (sys.executable, "-c", "print('asleep', flush=True); import time; time.sleep(60)"),
        ready=lambda: ready,
        log=folder / "server.log",
        folder=folder,
        start_timeout_s=0.5,
    )


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_server_can_be_started_killed_and_restarted(tmp_path: Path) -> None:
    with Server(sleeper(tmp_path)) as server:
        first = server.pid
        assert first is not None
        server.start()
        assert server.pid == first
        server.kill()
        assert server.pid is None
        assert not is_running(first)
        server.start()
        assert server.pid not in (None, first)
        second = server.pid
    assert second is not None
    assert not is_running(second)


def test_a_server_that_does_not_start_is_reported_and_killed(tmp_path: Path) -> None:
    server = Server(sleeper(tmp_path, ready=False))
    with pytest.raises(TwinError, match=r"(?s)sleeper was not ready within 0.5 s.*asleep"):
        server.start()
    assert server.pid is None
    failing = Command(
        "failing", (sys.executable, "-c", "raise SystemExit(3)"), lambda: False, tmp_path / "log", tmp_path
    )
    with pytest.raises(TwinError, match="failing ended with exit code 3"):
        Server(failing).start()


def test_a_server_is_killed_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys
from pathlib import Path
from deploy.servers.process import Command, Server
folder = Path({str(tmp_path)!r})
command = (sys.executable, "-c", "print('asleep', flush=True); import time; time.sleep(60)")
log = folder / "log"
server = Server(Command("sleeper", command, lambda: "asleep" in log.read_text(), log, folder))
server.start()
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL
    pid = int(parent.stdout)
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def test_replacing_a_line_that_a_config_file_lacks_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("listener 1883\nkept\n")
    assert replace_lines(file, {"listener 1883": "listener 7"}) == "listener 7\nkept\n"
    with pytest.raises(TwinError, match="has no line 'listener 8883'"):
        replace_lines(file, {"listener 8883": "listener 7"})
    assert append_properties(file, {"a": "b"}) == "listener 1883\nkept\na=b\n"


def test_a_missing_program_is_named_with_its_package() -> None:
    with pytest.raises(TwinError, match=r"nowhere-to-be-found is not installed \(Debian package nothing\)"):
        require(DebianPackage("nothing", ("nowhere-to-be-found",)))


def test_kafka_keeps_acknowledged_messages_when_killed(kafka_server: Kafka) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka_server.bootstrap, acks="all")
    producer.send("servers-test", b"message", key=b"EV-1").get(30)
    producer.close()
    kafka_server.server.kill()
    kafka_server.server.start()
    consumer = KafkaConsumer(
        "servers-test",
        bootstrap_servers=kafka_server.bootstrap,
        auto_offset_reset="earliest",
        consumer_timeout_ms=30_000,
    )
    message = next(consumer)
    consumer.close()
    assert (message.key, message.value) == (b"EV-1", b"message")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("authenticated", [True, False])
def test_mosquitto_requires_a_password(mosquitto: Mosquitto, tls: bool, authenticated: bool) -> None:
    codes: list[bool] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_connect = lambda *arguments: codes.append(arguments[3].is_failure)
    if authenticated:
        client.username_pw_set(mosquitto.username, mosquitto.password)
    if tls:
        client.tls_set(ca_certs=str(mosquitto.ca_file), cert_reqs=ssl.CERT_REQUIRED)
    client.connect(mosquitto.host, mosquitto.tls_port if tls else mosquitto.port)
    deadline = time.monotonic() + 10
    while not codes and time.monotonic() < deadline:
        client.loop(0.1)
    client.disconnect()
    assert codes == [not authenticated]


def test_postgres_requires_a_password_on_tcp(postgres15: Postgres) -> None:
    with pytest.raises(psycopg2.OperationalError, match=r"no password supplied|password authentication failed"):
        psycopg2.connect(host=HOST, port=postgres15.port, user="postgres", dbname="postgres", password="")
    for dsn in (postgres15.dsn, postgres15.tcp_dsn):
        psycopg2.connect(dsn).close()


def test_postgres_keeps_committed_data_when_killed(server_folders: Path) -> None:
    need(DEBIAN["postgresql-15"])
    folder = server_folders / "postgres killed"
    with postgres(folder) as running:
        connection = psycopg2.connect(running.tcp_dsn)
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE committed (x int)")
        running.server.kill()
        connection.close()
        running.server.start()
        psycopg2.connect(running.tcp_dsn).close()
    with postgres(folder) as running:
        connection = psycopg2.connect(running.tcp_dsn)
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('committed')")
            assert cursor.fetchone() == ("committed",)
        connection.close()


def test_prometheus_runs_with_the_given_configuration(tmp_path: Path) -> None:
    need(DEBIAN["prometheus"])
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text("scrape_configs: [{job_name: nothing, static_configs: [{targets: ['127.0.0.1:9']}]}]")
    with prometheus(tmp_path / "prometheus", configuration) as running:
        found = httpx.get(f"{running.url}/api/v1/status/config", trust_env=False).json()
    assert "job_name: nothing" in found["data"]["yaml"]


def test_alertmanager_accepts_alerts(tmp_path: Path) -> None:
    need(DEBIAN["prometheus-alertmanager"])
    configuration = tmp_path / "alertmanager.yml"
    configuration.write_text("{route: {receiver: none}, receivers: [{name: none}]}")
    with alertmanager(tmp_path / "alertmanager", configuration) as running:
        alert = [{"labels": {"alertname": "hot"}}]
        httpx.post(f"{running.url}/api/v2/alerts", json=alert, trust_env=False).raise_for_status()
        (found,) = httpx.get(f"{running.url}/api/v2/alerts", trust_env=False).json()
    assert found["labels"] == {"alertname": "hot"}


def test_servers_listen_on_loopback_only(postgres15: Postgres, mosquitto: Mosquitto, kafka_server: Kafka) -> None:
    pids = {postgres15.server.pid, mosquitto.server.pid, kafka_server.server.pid}
    listening = {address for pid in pids if pid is not None for address in listening_addresses(pid)}
    assert listening
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}


def listening_addresses(pid: int) -> set[str]:
    """Addresses of the listening TCP sockets of process `pid`, from /proc."""
    sockets = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(_address(fields[1].partition(":")[0]))
    return found


def _address(hexadecimal: str) -> str:
    words = [hexadecimal[i : i + 8] for i in range(0, len(hexadecimal), 8)]
    raw = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    if len(raw) == 4:
        return ".".join(map(str, raw))
    if raw[:12] == bytes(10) + b"\xff\xff":
        return "::ffff:" + ".".join(map(str, raw[12:]))
    return raw.hex()


@pytest.mark.slow
def test_make_servers_prints_settings_and_stops_all_servers_on_ctrl_c() -> None:
    need(DEBIAN["mosquitto"], DEBIAN["openssl"], DEBIAN["postgresql-15"], KAFKA, MINIO)
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.servers"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if "Ctrl-C" in line:
            break
    started = children_of(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, lines
    process.stdout.close()
    exported = {line.removeprefix("export ").partition("=")[0] for line in lines if line.startswith("export ")}
    settings = {name for name in exported if name.startswith("TWIN_")}
    assert settings <= {f"TWIN_{name.upper()}" for name in Settings.model_fields}
    assert {"TWIN_TELEMETRY_DSN", "TWIN_KAFKA_BOOTSTRAP_SERVERS", "TWIN_MLFLOW_TRACKING_URI"} <= settings
    assert {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= exported
    assert len(started) == 5
    assert not [pid for pid in started if is_running(pid)]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
