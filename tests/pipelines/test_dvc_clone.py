"""The whole pipeline, by DVC, in a clone of this repository: small, but every stage is the real one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.params import read_json

ROOT = Path(__file__).resolve().parents[2]


def run(clone: Path, *command: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(clone),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    environment.pop("TWIN_VAR", None)
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with the work tree's files and a pipeline of seven batteries and one trial."""
    folder = tmp_path_factory.mktemp("clone") / "twin"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["simulate"] |= {"batteries": 7, "cycles_between_logs": 90.0}
    params["targets"] |= {"temperature_every_s": 900, "min_rows": 20, "min_events": 2}
    params["tune"] |= {"trials": 1, "max_rows": 500, "n_estimators": [10], "max_depth": [8], "max_features": [0.2]}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "dvc.lock").unlink(missing_ok=True)
    run(folder, "dvc", "repro", "--quiet")
    return folder


@pytest.mark.timeout(600)
def test_every_stage_ran_and_is_up_to_date(clone: Path) -> None:
    metrics = read_json(clone / "reports" / "metrics.json")
    assert metrics["source"] == "fleet"
    assert set(metrics["targets"]) | set(metrics["not_available"]) == {"soh", "temperature", "rul", "failure"}
    assert {"mae", "rmse", "r2", "skill", "baselines", "by_life_quarter"} <= set(metrics["targets"]["temperature"])
    assert metrics["targets"]["temperature"]["skill"] > 0.0
    stale = [line for line in run(clone, "dvc", "status").splitlines() if line.endswith(":") and "register" not in line]
    assert not [line for line in stale if not line.startswith("\t")], stale


@pytest.mark.timeout(600)
def test_the_same_again_and_an_empty_registry_is_filled(clone: Path) -> None:
    lock = (clone / "dvc.lock").read_text()
    shutil.rmtree(clone / "var")
    said = run(clone, "dvc", "repro")
    assert "Running stage 'train" not in said
    assert "battery-twin@champion is version 1" in said
    said = run(clone, sys.executable, "-m", "training.registry", "list", "--json")
    assert json.loads(said)["release"] == 1
    assert (clone / "dvc.lock").read_text() == lock


@pytest.mark.timeout(600)
def test_rebuilt_without_a_cache_it_is_the_same(clone: Path) -> None:
    before = (clone / "dvc.lock").read_text()
    for folder in ("data/features", "models", ".dvc/cache", "var"):
        shutil.rmtree(clone / folder)
    run(clone, "dvc", "repro", "--quiet", "--force", "features", "tune@temperature", "train@temperature", "-s")
    assert (clone / "dvc.lock").read_text() == before
