"""The deps in dvc.yaml list what the stages import, and the check of `make lint` notices one that is missing."""

from __future__ import annotations

import ast
import copy
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from simulator.fleet_files import TRUTH
from tests.pipelines import stage_deps

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*stage_deps.PACKAGES, exclude_type_checking_imports=True, cache_dir=None)


@pytest.fixture
def pipeline() -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8")))


def test_every_imported_file_is_among_the_deps(graph: grimp.ImportGraph, pipeline: dict[str, Any]) -> None:
    assert stage_deps.missing_deps(pipeline, graph, ROOT) == {}


@pytest.mark.parametrize(
    ("stage", "dep", "file"),
    [
        ("train", "training/forests.py", "training/forests.py"),
        ("train", "features/targets.py", "features/targets.py"),  # imported by what the stage imports
        ("ingest", "telemetry/sources", "telemetry/sources/csv.py"),  # in a folder
    ],
)
def test_a_missing_dep_is_noticed(
    graph: grimp.ImportGraph, pipeline: dict[str, Any], stage: str, dep: str, file: str
) -> None:
    """Negative control."""
    pipeline["stages"][stage]["deps"].remove(dep)
    missing = stage_deps.missing_deps(pipeline, graph, ROOT)
    assert set(missing) == {stage}
    assert file in missing[stage]


def test_deps_and_modules_without_influence_exist(graph: grimp.ImportGraph, pipeline: dict[str, Any]) -> None:
    assert set(stage_deps.WITHOUT_INFLUENCE) <= graph.modules
    code = [
        dep
        for stage in pipeline["stages"].values()
        for dep in stage["deps"]
        if dep.split("/")[0] in stage_deps.PACKAGES
    ]
    assert [dep for dep in code if not (ROOT / dep).exists()] == []


def test_no_stage_depends_on_the_truth(pipeline: dict[str, Any]) -> None:
    """Evaluation may compare predictions with it; nothing that makes features or models may read it."""
    stages = pipeline["stages"]
    assert "data/truth" in stages["simulate"]["outs"]
    reading = {name for name, stage in stages.items() for dep in stage["deps"] if f"{dep}/".startswith("data/truth/")}
    assert reading <= {"evaluate"}
    assert not [name for name, stage in stages.items() if "data" in stage["deps"]]


def test_only_the_stage_simulate_names_the_truth() -> None:
    def names_it(file: Path) -> bool:
        tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        texts = [one.value for one in tree if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        return any(text == TRUTH or f"{TRUTH}/" in text or f"/{TRUTH}" in text for text in texts)

    packages = ("telemetry", "features", "training", "pipelines")
    files = [file for package in packages for file in (ROOT / package).rglob("*.py")]
    assert [str(file.relative_to(ROOT)) for file in files if names_it(file)] == ["pipelines/simulate.py"]
    assert not [file for file in files if "simulator.fleet_files" in file.read_text(encoding="utf-8")]
