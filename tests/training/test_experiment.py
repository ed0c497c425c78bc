"""`make repro SOURCE=... DATA=... SET=...`: parameters of the DVC experiment, and error messages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from features.labels import definitions
from telemetry.batch import Batch
from telemetry.errors import TwinError
from telemetry.parameters import load_params
from telemetry.sources import read_source, source
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from training.experiment import Run, given_params, main, planned_run, set_params, source_params
from training.snapshot import take_snapshot
from training.tuning import TuneParams

ROOT = Path(__file__).resolve().parents[2]

FLEET = {
    "source": {"name": "fleet", "path": "data/raw/fleet", "field_map": None, "batteries": None},
    "domain": "battery",
}


def params_of_source(
    name: str, data: str | None, domain: str | None = None, present: dict[str, Any] | None = None
) -> dict[str, Any]:
    return source_params(name, data, domain, present={**FLEET, **(present or {})})


def test_source_sets_its_model_namespace_and_nothing_but_its_data(tmp_path: Path) -> None:
    assert params_of_source("matr", str(tmp_path)) == {
        "source.name": "matr",
        "source.path": str(tmp_path.resolve()),
        "source.field_map": None,
        "source.batteries": None,
        "domain": "matr",
    }


def test_field_map_of_another_source_is_dropped_that_of_the_user_is_kept(tmp_path: Path) -> None:
    own, path = {"field_map": "mine.yaml", "batteries": "packs.csv"}, str(tmp_path.resolve())
    kept = {"source.field_map": "mine.yaml", "source.batteries": "packs.csv", "domain": "cars"}
    for present, expected in (
        ({"name": "fleet"}, kept),
        ({"name": "csv", "path": path}, kept),
        ({"name": "csv", "path": "/elsewhere"}, {"source.field_map": None, "source.batteries": None, "domain": "csv"}),
    ):
        params = params_of_source("csv", path, present={"source": {**present, **own}, "domain": "cars"})
        assert params == {"source.name": "csv", "source.path": path, **expected}


@pytest.mark.parametrize(("name", "expected"), [("fleet", 0.8), ("csv", 0.8), ("matr", 0.85), ("nasa_pcoe", 0.7)])
def test_end_of_life_is_what_the_user_set_else_that_of_the_source(name: str, expected: float) -> None:
    of_source = source(name).target_defaults
    targets = {"eol_fraction": None, "min_rows": 9}
    assert definitions({"targets": targets}, of_source) == {"eol_fraction": expected, "min_rows": 9}
    assert definitions({"targets": {**targets, "eol_fraction": 0.75}}, of_source)["eol_fraction"] == 0.75
    assert load_params(ROOT / "params.yaml")["targets"]["eol_fraction"] is None


def test_parameters_of_the_user_are_written_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "params.yaml").read_text().replace("  eol_fraction: #", "  eol_fraction: 0.7 #")
    (tmp_path / "params.yaml").write_text(text)
    run = planned_run(["--source", "csv", "--data", str(tmp_path), "--set", "tune.trials=3 gate.min_skill.default=0"])
    assert run.arguments[:3] == ("exp", "run", "--force")
    changed = set_params(run.params)
    assert "tune.trials: 6 -> 3" in changed
    assert not [one for one in changed if "eol_fraction" in one]
    written = load_params()
    assert written["targets"]["eol_fraction"] == 0.7
    assert written["gate"]["min_skill"]["default"] == 0
    lines, before = (tmp_path / "params.yaml").read_text().splitlines(), text.splitlines()
    differing = [new for old, new in zip(before, lines, strict=True) if old != new]
    assert len(differing) == len(changed) == 5, "one line for each, and the comments stay"


def test_parameters_alone_make_an_experiment_on_the_present_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert planned_run([]) == Run(("repro",))
    run = planned_run(["--set", "targets.eol_fraction=0.7"])
    assert run == Run(("exp", "run", "--force", "register"), {"targets.eol_fraction": 0.7})
    with pytest.raises(TwinError, match="domain 'a b' is not a valid model namespace"):
        planned_run(["--set", "domain='a b'"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tune.trails=3", "tune.trails is not a parameter of params.yaml; valid here are n_estimators, .*trials"),
        ("tune=3", "tune is a section of params.yaml; set one of"),
        ("seed.x=3", "seed.x is not a parameter"),
        ("seed", "SET seed has no `=`"),
        ("seed='3", "cannot be read"),
        ("seed=[3", "is not YAML"),
    ],
)
def test_invalid_parameter_is_reported(text: str, message: str) -> None:
    with pytest.raises(TwinError, match=message):
        given_params(text, load_params(ROOT / "params.yaml"))


def test_values_are_yaml_and_quoted_as_in_a_shell() -> None:
    text = "seed=8 tune.max_depth='[10, null]' source.path='/a b/c' drift.false_alarms=0.01 source.field_map=null"
    assert given_params(text, load_params(ROOT / "params.yaml")) == {
        "seed": 8,
        "tune.max_depth": [10, None],
        "source.path": "/a b/c",
        "drift.false_alarms": 0.01,
        "source.field_map": None,
    }


#: Characters of folders that people use; `$` of make is written twice on its command line.
FOLDERS = [
    "HUST data",
    "a,b",
    "a (copy)",
    "Zellen für März",
    "it's",
    'say "hi"',
    "a=b{c}[d]",
    "100%",
    "#1;&|",
    "a$b",
    "x${y}",
]


@pytest.mark.parametrize("folder", FOLDERS)
def test_make_passes_any_path_and_value(folder: str, tmp_path: Path) -> None:
    """With a stand-in for `python` that prints its arguments, one a line."""
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (tmp_path / "requirements.lock").touch()
    (tmp_path / ".venv" / ".ready").touch()
    shutil.copy(ROOT / "Makefile", tmp_path)
    (bin_folder / "python").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (bin_folder / "python").chmod(0o755)
    given = {"SOURCE": "csv", "DATA": folder, "SET": f"source.batteries='{folder}' seed=3"}
    by_line = (["make", "repro", *(f"{name}={value}" for name, value in given.items())], {})
    for command, variables in (by_line, (["make", "repro"], given)):
        # Not those of the `make test` that runs this: a nested make prints the folders that it enters.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        environment = {**inherited, **variables}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == [
            "-m", "training.experiment", "--source", "csv", f"--data={folder}", f"--set={given['SET']}",
        ]  # fmt: skip


@pytest.mark.parametrize("folder", ['it\'s "HUST" a,b (März) a=b{c}[d] 100% #1;&|$e', "x${y}"])
def test_dvc_runs_an_experiment_on_any_path(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a repository with one stage, which reads the path as the stages do."""
    data = tmp_path / folder
    data.mkdir()
    (data / "rows.csv").write_text("1")
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "test@example.org")
    (project / "params.yaml").write_text(yaml.safe_dump(FLEET, sort_keys=False))
    stage = {"cmd": "cat params.yaml > read", "deps": ["${source.path}"], "params": ["source"], "outs": ["read"]}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"register": stage}}))
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["git", "add", "."], ["git", "commit", "-qm", "x"]):
        subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setattr(sys, "argv", ["experiment", "--source", "csv", f"--data={data}"])
    assert main() == 0
    assert yaml.safe_load((project / "read").read_text())["source"]["path"] == str(data.resolve())
    status = subprocess.run(["dvc", "status", "--json"], check=True, capture_output=True, text=True)
    assert json.loads(status.stdout) == {}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [("nope", ".", "nope"), ("matr", None, "DATA=path"), ("matr", "/does/not/exist", "does not exist")],
)
def test_invalid_source_is_reported(name: str, data: str | None, message: str) -> None:
    with pytest.raises(TwinError, match=message):
        params_of_source(name, data)


def test_invalid_model_namespace_is_rejected_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(TwinError, match="domain 'a b/c' is not a valid model namespace"):
        params_of_source("matr", str(tmp_path), "a b/c")


def test_unknown_parameter_is_named() -> None:
    with pytest.raises(TwinError, match=r"tune\.trails is not a parameter"):
        TuneParams.of({"tune": {"trails": 3}})


def test_experiment_on_another_source_runs_no_fleet_simulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command = planned_run(["--source", "nasa_pcoe", "--data", str(tmp_path)]).arguments
    assert command[:2] == ("exp", "run")
    assert command[command.index("--name") + 1] == "nasa-pcoe"
    assert command[-1] == "register"


@pytest.mark.parametrize("arguments", [["--default"], ["--source", "fleet"]])
def test_the_default_source_is_not_run_on_parameters_of_another(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**FLEET, "source": {"name": "matr"}}))
    with pytest.raises(TwinError, match=r"an experiment set params\.yaml to the source matr"):
        planned_run(arguments)


def test_database_source_is_copied_to_files_first(
    postgres_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("snapshot: {days: 3, every_s: 0}")
    monkeypatch.delenv("TWIN_TELEMETRY_DSN", raising=False)
    with pytest.raises(TwinError, match="TWIN_TELEMETRY_DSN"):
        params_of_source("timescale", None)
    monkeypatch.setenv("TWIN_TELEMETRY_DSN", postgres_dsn)
    migrate(postgres_dsn)
    store = PostgresStore(postgres_dsn)
    time = datetime(2026, 1, 1, tzinfo=UTC)
    store.write(
        Batch(readings=[{"battery_id": "E", "time": time, "voltage": 3.0, "current": 1.0, "temperature": 20.0}])
    )
    store.close()
    params = params_of_source("timescale", None, "battery")
    assert params["domain"] == "battery"
    path = Path(params["source.path"])
    assert path.is_relative_to(tmp_path.resolve())
    assert len(read_source("timescale", path).readings) == 1
    again = params_of_source("timescale", str(path))
    assert again["source.path"] == str(path), "an earlier snapshot is used as it is"
    assert not any(postgres_dsn in str(one) for one in params.values())
    with pytest.raises(TwinError, match="files already"):
        take_snapshot("fleet")
