"""End-to-end tests of the DVC pipeline in a clone of this repository, with all stages on a small fleet.

On the embedded stack, and with registry and cache on servers: MLflow on PostgreSQL and MinIO, a DVC remote on MinIO.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pandas as pd
import pytest
import yaml

from deploy.servers.minio import REGION, Minio
from deploy.servers.process import HOST, Command, Server, responds, unused_port
from features.targets import TARGET_NAMES, TARGETS
from telemetry.batch import Batch, rows_of
from telemetry.contract import CYCLE_FIELDS, names
from telemetry.settings import USAGE_STATISTICS_OFF, Settings
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.machine_code import copy_machine_code
from tests.pipelines import fifth_target
from training.mlflow_client import connect
from training.params import read_json
from training.registry.registry_store import RegistryStore

ROOT = Path(__file__).resolve().parents[2]


def environment_of(clone: Path) -> dict[str, str]:
    environment = {
        **os.environ,
        **USAGE_STATISTICS_OFF,
        "PYTHONPATH": str(clone),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for name in ("TWIN_VAR", "TWIN_MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    return environment


def run(clone: Path, *command: str, **settings: str) -> str:
    environment = environment_of(clone) | settings
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def new_clone(folder: Path) -> Path:
    """A clone with the work tree's files and machine code, and parameters for nine batteries and one tuning trial."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    copy_machine_code(folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["simulate"] |= {"batteries": 9, "days_between_logs": 150.0}
    params["targets"] |= {"temperature_every_s": 300, "min_rows": 20, "min_events": 2}
    params["tune"] |= {"trials": 1, "max_rows": 500, "n_estimators": [10], "max_depth": [8], "max_features": [0.2]}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "dvc.lock").unlink(missing_ok=True)
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the pipeline has run, on the embedded stack."""
    folder = new_clone(tmp_path_factory.mktemp("clone") / "twin")
    run(folder, "dvc", "repro", "--quiet")
    return folder


@pytest.fixture(scope="module")
def server_clone(tmp_path_factory: pytest.TempPathFactory, mlflow_server: str) -> Path:
    """A clone in which the pipeline has run, with its runs and models on the MLflow server."""
    folder = new_clone(tmp_path_factory.mktemp("server-clone") / "twin")
    run(folder, "dvc", "repro", "--quiet", TWIN_MLFLOW_TRACKING_URI=mlflow_server)
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stack", ["clone", pytest.param("server_clone", marks=pytest.mark.slow)])
def test_every_stage_ran_and_is_up_to_date(request: pytest.FixtureRequest, stack: str) -> None:
    clone: Path = request.getfixturevalue(stack)
    metrics = read_json(clone / "reports" / "metrics.json")
    assert metrics["source"] == "fleet"
    assert set(metrics["targets"]) | set(metrics["not_available"]) == set(TARGET_NAMES)
    assert {"mae", "rmse", "r2", "skill", "baselines", "by_life_quarter"} <= set(metrics["targets"]["temperature"])
    assert metrics["targets"]["temperature"]["skill"] > 0.0
    shown = read_json(clone / "reports" / "summary.json")["out_of_fold"]["temperature"]
    assert shown == {key: metrics["targets"]["temperature"][key] for key in ("mae", "skill")}
    stale = [line for line in run(clone, "dvc", "status").splitlines() if line.endswith(":") and "register" not in line]
    assert not [line for line in stale if not line.startswith("\t")], stale


@pytest.mark.timeout(600)
def test_a_second_run_trains_nothing_and_fills_an_empty_registry(clone: Path) -> None:
    lock = (clone / "dvc.lock").read_text()
    shutil.rmtree(clone / "var")
    output = run(clone, "dvc", "repro")
    assert "Running stage 'train" not in output
    assert "battery-twin@champion is version 1" in output
    output = run(clone, sys.executable, "-m", "training.registry", "list", "--json")
    assert json.loads(output)["release"] == 1
    assert (clone / "dvc.lock").read_text() == lock


def test_the_pipeline_names_every_target() -> None:
    (names,) = (entry["target_names"] for entry in yaml.safe_load((ROOT / "dvc.yaml").read_text())["vars"])
    assert tuple(names) == TARGET_NAMES


def insert(file: Path, text: str, before: str) -> None:
    source = file.read_text(encoding="utf-8")
    assert source.count(before) == 1
    file.write_text(source.replace(before, text + before), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fifth_target_is_one_entry(clone: Path, tmp_path: Path, postgres_dsn: str) -> None:
    """From its entry, its label function and its name in dvc.yaml it is trained, served, evaluated and shown."""
    extended = tmp_path / "twin"
    shutil.copytree(clone, extended, symlinks=True, ignore=shutil.ignore_patterns("var"))
    insert(extended / "features/targets.py", fifth_target.ENTRY, before="    )\n}\n\nTARGET_NAMES")
    labels = extended / "features/labels.py"
    labels.write_text(labels.read_text() + fifth_target.LABEL)
    insert(extended / "dvc.yaml", f", {fifth_target.TARGET}", before="]\n\nstages:")
    params = yaml.safe_load((extended / "params.yaml").read_text())
    params["gate"]["min_skill"][fifth_target.TARGET] = -10.0  # seven batteries are too few for a good model
    (extended / "params.yaml").write_text(yaml.safe_dump(params))

    others = {target: (extended / "models" / target / "model.onnx").read_bytes() for target in TARGET_NAMES}
    run(extended, "dvc", "repro")
    for target, model in others.items():
        assert (extended / "models" / target / "model.onnx").read_bytes() == model, "the others stay as they were"
    metrics = read_json(extended / "reports/metrics.json")
    assert metrics["targets"][fifth_target.TARGET]["n_rows"] >= 20
    assert set(metrics["gate"][fifth_target.TARGET]["baselines"]) == {"mean", "cycle_count"}
    run(extended, sys.executable, "-m", "tests.pipelines.fifth_target", postgres_dsn)


@pytest.mark.timeout(600)
def test_runs_show_forests_beside_baselines_and_the_reused_trials(clone: Path) -> None:
    """After the test above: nothing was trained here, the runs are made from the committed results."""
    client = connect(Settings(var=clone / "var"))
    experiment = client.get_experiment_by_name("battery")
    runs = client.search_runs([experiment.experiment_id])
    names = {run.info.run_name for run in runs}
    assert {"temperature forest", "temperature persistence", "temperature tuning", "temperature trial 0"} <= names
    version = client.get_model_version("battery-temperature", "1")
    (forest,) = [run for run in runs if run.info.run_name == "temperature forest"]
    assert version.run_id == forest.info.run_id
    assert version.tags["gate"] in {"passed", "failed"}
    assert {"mae", "gate.mae", "skill", "fold.mae"} <= forest.data.metrics.keys()


@pytest.mark.timeout(600)
def test_experiment_registers_challengers_and_prints_the_command_that_promotes(clone: Path, tmp_path: Path) -> None:
    output = run(clone, sys.executable, "-m", "pipelines.register", DVC_EXP_NAME="try-it", TWIN_VAR=str(tmp_path))
    assert "@champion is not set" in output
    command = next(line.strip() for line in output.splitlines() if "training.registry promote" in line)
    assert command.endswith('--reason "experiment try-it passed the gate"')
    store = RegistryStore.open(Settings(var=tmp_path), "battery")
    assert store.aliases().champions == {}
    assert {one.experiment for target in TARGETS for one in store.registered(target)} == {"try-it"}
    run(clone, sys.executable, *shlex.split(command)[1:], TWIN_VAR=str(tmp_path))
    # Which targets pass the gate depends on the small fleet.
    passed = {target for target in TARGETS for one in store.registered(target) if one.gate == "passed"}
    assert passed
    assert set(store.aliases().champions) == passed


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_dvc_experiment_moves_no_champion(clone: Path, tmp_path: Path) -> None:
    copy = tmp_path / "twin"
    shutil.copytree(clone, copy)
    store = RegistryStore.open(Settings(var=copy / "var"), "battery")
    before = store.aliases()
    output = run(
        copy, "dvc", "exp", "run", "--name", "more-rows", "-S", "tune.max_rows=900", "-S", "seed=11", "register"
    )
    assert "battery-twin@champion is version 1" in output
    after = store.aliases()
    assert (after.champions, after.release) == (before.champions, before.release)
    assert after.challengers != before.challengers
    assert store.registered("temperature")[-1].experiment == "more-rows"
    experiment = store.client.get_experiment_by_name("battery")
    (trained,) = store.client.search_runs(
        [experiment.experiment_id],
        "tags.experiment = 'more-rows' AND tags.kind = 'forest' AND tags.target = 'temperature'",
    )
    assert trained.data.tags["mlflow.source.name"] == "python -m pipelines.train temperature"
    folds = store.client.get_metric_history(trained.info.run_id, "fold.mae")
    assert sorted(point.step for point in folds) == [0, 1, 2, 3, 4]
    logged = [point.timestamp for point in sorted(folds, key=lambda point: point.step)]
    assert len(set(logged)) == len(logged), "each fold is logged when it is done"
    times = [trained.info.start_time, *logged, trained.info.end_time]
    assert times == sorted(times), "the run lasts as long as the training"
    assert folds[-1].timestamp > folds[0].timestamp, "each fold is logged when it ends"


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_servers_give_the_same_results_as_the_embedded_stack(clone: Path, server_clone: Path) -> None:
    for name in ("dvc.lock", "reports/metrics.json"):
        assert (server_clone / name).read_text() == (clone / name).read_text(), name
    assert not (server_clone / "var" / "mlflow.db").exists()


def remote(clone: Path, minio: Minio) -> dict[str, str]:
    """Configure the DVC remote as in docs/real-servers.md and return the environment variables for it.

    The remote goes to the local DVC configuration, which is not committed; the password is in no file.
    """
    bucket = minio.buckets["dvc"]
    run(clone, "dvc", "remote", "add", "--local", "--default", "minio", f"s3://{bucket.name}")
    return {
        "AWS_ENDPOINT_URL": minio.endpoint,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": bucket.access_key,
        "AWS_SECRET_ACCESS_KEY": bucket.secret_key,
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_new_clone_with_a_pulled_cache_registers_and_serves_the_champion(
    clone: Path, mlflow_server: str, minio: Minio, tmp_path: Path
) -> None:
    run(clone, "dvc", "push", "--quiet", **remote(clone, minio))
    run(clone, "git", "add", "--all")
    run(clone, "git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "commit", "--quiet", "-m", "trained")
    pulled = tmp_path / "pulled"
    run(clone, "git", "clone", "--quiet", str(clone), str(pulled))
    assert not (pulled / ".dvc" / "config.local").exists()
    run(pulled, "dvc", "pull", "--quiet", **remote(pulled, minio))
    output = run(pulled, "dvc", "repro", TWIN_MLFLOW_TRACKING_URI=mlflow_server)
    assert "Running stage" in output
    assert not [line for line in output.splitlines() if "Running stage" in line and "register" not in line]
    assert (pulled / "dvc.lock").read_text() == (clone / "dvc.lock").read_text()

    port = unused_port()
    url = f"http://{HOST}:{port}"
    service = Command(
        "prediction service",
        (sys.executable, "-m", "serving"),
        ready=lambda: responds(f"{url}/readyz"),
        log=tmp_path / "service.log",
        folder=pulled,
        environment=environment_of(pulled)
        | {
            "TWIN_MLFLOW_TRACKING_URI": mlflow_server,
            "TWIN_SERVICE_PORT": str(port),
            "TWIN_VAR": str(tmp_path / "served"),
        },
        start_timeout_s=120.0,
    )
    with Server(service):
        reading = {"time": "2026-01-01T00:00:00Z", "voltage": 361.2, "current": 42.0, "temperature": 27.5}
        battery = {"battery_id": "EV-7", "battery": {"nominal_capacity_ah": 150}, "readings": [reading]}
        response = httpx.post(f"{url}/predict", json={"batteries": [battery]}, trust_env=False, timeout=30.0)
    assert response.status_code == httpx.codes.OK, response.text
    assert response.json()["predictions"][0]["release"] == "battery-twin/1"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rebuild_without_cache_gives_the_same_lock_file(clone: Path) -> None:
    before = (clone / "dvc.lock").read_text()
    for folder in ("data/features", "models", ".dvc/cache", "var"):
        shutil.rmtree(clone / folder)
    run(clone, "dvc", "repro", "--quiet", "--force", "features", "tune@temperature", "train@temperature", "-s")
    assert (clone / "dvc.lock").read_text() == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_on_the_telemetry_store(
    clone: Path, postgres_server: str, new_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = new_database(postgres_server)
    migrate(dsn)
    readings, batteries = (
        pd.read_parquet(clone / f"data/validated/{name}.parquet") for name in ("readings", "batteries")
    )
    sessions = pd.read_parquet(clone / "data/features/cycles.parquet")
    newest = readings.groupby("battery_id")["time"].transform("max")
    store = PostgresStore(dsn)
    # The store holds all sessions, but only the last 60 days of readings.
    store.write(Batch(readings=rows_of(readings[readings["time"] > newest - pd.Timedelta(days=60)])))
    store.write(Batch(batteries=rows_of(batteries), cycles=rows_of(sessions.reindex(columns=names(CYCLE_FIELDS)))))
    store.close()
    monkeypatch.setenv("TWIN_TELEMETRY_DSN", dsn)
    before = read_json(clone / "reports" / "metrics.json")
    run(clone, sys.executable, "-m", "training.experiment", "--source", "timescale", "--domain", "stored")
    metrics = read_json(clone / "reports" / "metrics.json")
    assert (metrics["source"], metrics["domain"]) == ("timescale", "stored")
    assert "temperature" in metrics["targets"]
    assert metrics["targets"]["soh"]["n_rows"] == before["targets"]["soh"]["n_rows"], "each session is used once"
    assert metrics["targets"]["soh"]["mae"] == pytest.approx(before["targets"]["soh"]["mae"], rel=0.3)
    assert any("sessions closed from readings were ignored" in note for note in metrics["notes"])
    assert "postgresql://" not in (clone / "params.yaml").read_text() + (clone / "dvc.lock").read_text()
    listed = json.loads(run(clone, sys.executable, "-m", "training.registry", "list", "--domain", "stored", "--json"))
    assert listed["domain"] == "stored"
