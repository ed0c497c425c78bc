"""Tests of docker-compose.yml and Dockerfile: ports, profiles, passwords, versions, and the content of the image."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grimp
import pytest
import yaml
from mlflow.server.security_utils import is_allowed_host_header

from deploy.secrets import SECRETS, main, write_secrets
from deploy.servers.install import DEBIAN
from deploy.servers.postgres import PASSWORDS
from deploy.servers.versions import versions
from monitoring.alerting_config import PROMETHEUS_FILE
from retraining import workspace
from telemetry.errors import TwinError
from telemetry.settings import Settings
from tests.needs import need

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
#: The ports of the contract.
CONTRACT_PORTS = {
    "timescaledb": {5432},
    "kafka": {9092},
    "mosquitto": {1883, 8883},
    "prometheus": {9090},
    "alertmanager": {9093},
    "grafana": {3000},
    "minio": {9000, 9001},
    "mlflow": {5000},
    "service": {3100},
    "monitoring": {9091},
    "console": {5002},
}
PUBLISHED = re.compile(r"127\.0\.0\.1:\$\{(?P<variable>TWIN_\w+_PORT):-(?P<default>\d+)\}:(?P<inside>\d+)")
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?P<rest>[^}]*)\}")
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN")
PASSWORD_IN_URL = re.compile(r"://[^/\s:]+:(?!\$\{)[^/\s@]+@")


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]


def literal_passwords(text: str) -> list[str]:
    """Passwords in a compose file that are literal instead of taken from the environment."""
    found = PASSWORD_IN_URL.findall(text)
    for name, service in yaml.safe_load(text)["services"].items():
        for variable, value in service.get("environment", {}).items():
            if SECRET_NAME.search(variable) and not str(value).startswith("${"):
                found.append(f"{name}.{variable}")
    return found


def test_every_port_of_the_contract_is_published_on_loopback(services: dict[str, dict[str, Any]]) -> None:
    published: dict[str, set[int]] = {}
    for name, service in services.items():
        for port in service.get("ports", []):
            match = PUBLISHED.fullmatch(port)
            assert match, f"{name} publishes {port}: bind it to 127.0.0.1 and make it configurable by a variable"
            assert match["default"] == match["inside"]
            published.setdefault(name, set()).add(int(match["default"]))
    assert published == CONTRACT_PORTS


def test_kafka_listens_on_29092_inside_compose(services: dict[str, dict[str, Any]]) -> None:
    assert "INTERNAL://kafka:29092" in services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]


def test_the_compose_file_contains_no_literal_password() -> None:
    assert literal_passwords(COMPOSE.read_text(encoding="utf-8")) == []


def test_a_literal_password_is_found() -> None:
    text = "services: {a: {environment: {DB_PASSWORD: hunter2, URL: 'postgresql://me:hunter2@db/x'}}}"
    assert len(literal_passwords(text)) == 2


def test_every_variable_is_a_port_a_host_name_or_a_generated_secret() -> None:
    used = list(VARIABLE.finditer(COMPOSE.read_text(encoding="utf-8")))
    # A missing secret must stop compose instead of becoming an empty password.
    required = {match["name"] for match in used if match["rest"].startswith(":?")}
    others = {match["name"] for match in used if not match["rest"].startswith(":?")}
    assert required == set(SECRETS)
    assert all(name.endswith(("_PORT", "_ALLOWED_HOSTS")) for name in others)


def test_settings_in_the_compose_file_exist(services: dict[str, dict[str, Any]]) -> None:
    known = {f"TWIN_{name.upper()}" for name in Settings.model_fields}
    for name in ("service", "live", "live-readings", "scorer", "predictor", "monitoring", "retrain", "console"):
        assert {key for key in services[name]["environment"] if key.startswith("TWIN_")} <= known


#: By profile: the commands that simulate and predict from live readings.
PREDICTS = {
    "service": ["simulator.live"],
    "stream": ["simulator.live --no-predictions", "serving.stream"],
    "database": ["simulator.live --no-predictions", "serving.database"],
}


def running(services: dict[str, dict[str, Any]], *profiles: str) -> list[str]:
    """Names of the services that compose starts with `profiles`."""
    return [
        name
        for name, service in services.items()
        if "profiles" not in service or not {*profiles}.isdisjoint(service["profiles"])
    ]


@pytest.mark.parametrize("profile", PREDICTS)
def test_each_profile_has_exactly_one_predictor(services: dict[str, dict[str, Any]], profile: str) -> None:
    modules = ("simulator.live", "serving.stream", "serving.database")
    commands = [" ".join(services[name].get("command", [])) for name in running(services, profile)]
    started = [command.removeprefix("python -m ") for command in commands]
    assert [command for command in started if command.startswith(modules)] == PREDICTS[profile]


def test_without_a_profile_no_simulator_or_predictor_runs(services: dict[str, dict[str, Any]]) -> None:
    """The prediction service itself runs in every profile, and without one."""
    assert not {"live", "live-readings", "scorer", "predictor"} & set(running(services))
    assert {"service", "monitoring", "console", "prometheus"} <= set(running(services))
    # The two simulators share a spool, so no profile may start both.
    assert not set(services["live"]["profiles"]) & set(services["live-readings"]["profiles"])


def test_the_one_shot_training_publishes_what_the_console_reads(services: dict[str, dict[str, Any]]) -> None:
    train, console = services["train"], services["console"]
    assert (train["profiles"], train["restart"]) == (["train"], "no")
    assert "train" not in running(services)
    assert (
        train["environment"]["TWIN_MLFLOW_TRACKING_URI"]
        == services["service"]["environment"]["TWIN_MLFLOW_TRACKING_URI"]
    )
    published = dict(volume.split(":/published/") for volume in train["volumes"] if ":/published/" in volume)
    assert published == {"reports": "reports", "quarantine": "data/quarantine"}
    assert {f"{name}:/app/{path}:ro" for name, path in published.items()} <= set(console["volumes"])


def test_the_training_script_runs_stages_in_its_own_folder(tmp_path: Path) -> None:
    work, published = tmp_path / "work", tmp_path / "published"
    (work / "data" / "quarantine").mkdir(parents=True)
    (work / "data" / "quarantine" / "rows.parquet").touch()
    folders = {
        "TWIN_CODE_FOLDER": str(ROOT),
        "TWIN_TRAINING_FOLDER": str(work),
        "TWIN_PUBLISHED_FOLDER": str(published),
    }
    environment = {**os.environ, **folders, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for _ in range(2):  # again in the folder of the first run
        done = subprocess.run(
            ["sh", str(ROOT / "deploy" / "train.sh"), "--dry", "simulate"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "Running stage 'simulate'" in done.stdout
    assert (published / "data" / "quarantine" / "rows.parquet").exists()


def test_every_running_exporter_is_scraped(services: dict[str, dict[str, Any]]) -> None:
    """The two simulators share the network of the service and are reached under the alias `live`."""
    config = yaml.safe_load(PROMETHEUS_FILE.read_text(encoding="utf-8"))
    groups = [group for job in config["scrape_configs"] for group in job.get("static_configs", [])]
    fixed = {target for group in groups for target in group["targets"]}
    assert {target.split(":")[0] for target in fixed} <= {*running(services), "live"}
    assert "live" in services["service"]["networks"]["default"]["aliases"]
    assert {services[name]["network_mode"] for name in ("live", "live-readings")} == {"service:service"}
    found = {
        (name, group["port"])
        for job in config["scrape_configs"]
        for group in job.get("dns_sd_configs", [])
        for name in group["names"]
    }
    settings = Settings.model_fields
    ports = ("scorer_metrics_port", "database_predictor_metrics_port")
    assert found == {(name, settings[port].default) for name, port in zip(("scorer", "predictor"), ports, strict=True)}


def test_every_service_has_a_healthcheck_or_is_a_one_shot_job(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert "healthcheck" in service or service.get("restart") == "no", name


def test_no_service_may_gain_privileges(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name


def test_mlflow_allows_the_names_by_which_it_is_reached(services: dict[str, dict[str, Any]]) -> None:
    """By MLflow's own rule, as it answers 403 to any other name."""
    setting = services["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert setting.endswith(",${TWIN_MLFLOW_ALLOWED_HOSTS:-localhost}")
    allowed = setting.replace("${TWIN_MLFLOW_ALLOWED_HOSTS:-localhost}", "mlflow.example.org").split(",")
    addresses = [service.get("environment", {}).get("TWIN_MLFLOW_TRACKING_URI") for service in services.values()]
    names = {urlsplit(address).netloc for address in addresses if address}
    assert names
    for name in (*names, "127.0.0.1:5000", "localhost:15000", "mlflow.example.org"):
        assert is_allowed_host_header(allowed, name), name
    assert not is_allowed_host_header(allowed, "other.example.org")


def test_mounted_files_exist(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
                assert volume.endswith(":ro"), volume


def test_the_build_context_excludes_secrets() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    assert "**/.env" in ignored


def test_the_image_contains_the_code_that_compose_runs(services: dict[str, dict[str, Any]]) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    included = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    graph = grimp.build_graph("telemetry", "physics", "features", "simulator", "training", "serving", "monitoring",
                              "console", "retraining", "pipelines")  # fmt: skip
    commands = [service.get("command", []) for service in services.values()]
    modules = {command[2] for command in commands if command[:2] == ["python", "-m"]} - {"mlflow"}
    assert {"simulator.live", "serving.stream", "console", "retraining"} <= modules
    for module in modules:
        entry = f"{module}.__main__" if f"{module}.__main__" in graph.modules else module
        imported = {name.partition(".")[0] for name in graph.find_upstream_modules(entry) | {entry}}
        assert imported <= included, module
    # A retraining copies the stages and their code from the image.
    assert {*workspace._PACKAGES, *workspace._FILES, "params.yaml"} <= included


def test_secrets_are_random_and_readable_by_the_owner_only(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    write_secrets(first)
    write_secrets(second)
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    lines = [line for line in first.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    values = dict(line.split("=", 1) for line in lines)
    assert values.pop("COMPOSE_PROFILES") == "service"
    assert set(values) == set(SECRETS)
    assert len(set(values.values())) == len(SECRETS)
    assert all(re.fullmatch(r"[0-9a-f]{48}", value) for value in values.values())
    assert not set(values.values()) & {line.partition("=")[2] for line in second.read_text().splitlines()}


def test_secrets_are_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / ".env"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(TwinError, match="was not changed"):
        write_secrets(path)
    assert main(["--path", str(path)]) == 1
    assert "was not changed" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "mine"


def test_compose_accepts_the_file(tmp_path: Path) -> None:
    """Checked with `config` of Debian's docker-compose, which needs no container engine for it."""
    need(DEBIAN["docker-compose"])
    secrets = tmp_path / "secrets"
    write_secrets(secrets)

    def check(file: Path, environment: Path) -> subprocess.CompletedProcess[str]:
        options = ("--file", str(file), "--project-directory", str(ROOT), "--env-file", str(environment))
        command = [str(DEBIAN["docker-compose"].program("docker-compose")), *options, "config", "--quiet"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = check(COMPOSE, secrets)
    assert done.returncode == 0, done.stderr
    nothing = tmp_path / "nothing"
    nothing.touch()
    assert "run python -m deploy.secrets" in check(COMPOSE, nothing).stderr
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(COMPOSE.read_text(encoding="utf-8").replace("depends_on:", "depends_upon:"))
    assert check(broken, secrets).returncode != 0


def test_compose_uses_the_tested_versions(services: dict[str, dict[str, Any]]) -> None:
    tested = versions()
    assert services["kafka"]["image"] == f"apache/kafka:{tested.kafka}"
    assert services["timescaledb"]["image"] == f"timescale/timescaledb:{tested.timescaledb}-pg{tested.postgresql}"
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"github.com/minio/minio@{tested.minio}\n" in dockerfile
    assert f"github.com/minio/mc@{tested.minio_client}\n" in dockerfile
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert bases
    assert all(tested.debian in base for base in bases), "all images use one Debian release"
    for name, packages in (("mosquitto", "mosquitto"), ("prometheus", "prometheus prometheus-alertmanager")):
        stage = dockerfile.partition(f" AS {name}\n")[2].partition("FROM ")[0]
        assert f"--no-install-recommends {packages}" in stage
        assert services[name]["build"]["target"] == name


def test_compose_and_the_tests_share_their_configuration_files(services: dict[str, dict[str, Any]]) -> None:
    mounted = {
        ("kafka", "./deploy/kafka:/mnt/shared/config:ro"),
        ("mosquitto", "./deploy/mosquitto:/mosquitto/config:ro"),
        ("timescaledb", "./deploy/postgres/postgresql.conf:/etc/postgresql/postgresql.conf:ro"),
        ("timescaledb", "./deploy/database.sh:/docker-entrypoint-initdb.d/100_database.sh:ro"),
        ("buckets", "./deploy/buckets.sh:/buckets.sh:ro"),
        ("prometheus", "./monitoring/prometheus:/etc/prometheus:ro"),
        ("alertmanager", "./monitoring/alertmanager:/etc/alertmanager:ro"),
    }
    found = {(name, volume) for name, service in services.items() for volume in service.get("volumes", [])}
    assert mounted <= found
    # Only the listeners differ between a container and one machine; everything else is in the shared file.
    assert set(services["kafka"]["environment"]) == {
        "KAFKA_CONTROLLER_QUORUM_VOTERS", "KAFKA_LISTENERS", "KAFKA_ADVERTISED_LISTENERS", "KAFKA_LOG_DIRS",
    }  # fmt: skip


@pytest.mark.parametrize(("script", "service"), [("database.sh", "timescaledb"), ("buckets.sh", "buckets")])
def test_a_script_gets_every_variable_it_reads(services: dict[str, dict[str, Any]], script: str, service: str) -> None:
    text = (ROOT / "deploy" / script).read_text(encoding="utf-8")
    needed = {name for name in re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", text) if name != "PATH"}
    assert needed
    assert needed <= set(services[service]["environment"])
    if script == "database.sh":
        assert needed == {*PASSWORDS, "POSTGRES_USER"}
