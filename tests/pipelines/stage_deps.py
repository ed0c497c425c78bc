"""Check that `deps` in dvc.yaml list every file that a stage imports, so that a change of one runs the stage again.

python -m tests.pipelines.stage_deps          # part of `make lint`
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grimp
import yaml

PACKAGES = (
    "telemetry", "physics", "features", "simulator", "training", "serving", "monitoring", "console", "retraining",
    "pipelines", "deploy",
)  # fmt: skip
#: Modules without an influence on what a stage writes.  What only they import is not required either.
WITHOUT_INFLUENCE: Mapping[str, str] = {
    "simulator.cycle_summaries": "of fleets in parts (`python -m simulator.fleet`), which no stage writes",
    "simulator.fleet_files": "the same",
    "simulator.reading_windows": "the same",
    "telemetry.command": "exit code of the process",
    "telemetry.errors": "form of error messages",
    "telemetry.settings": "addresses and folders",
    "telemetry.stores.snapshot": "copies a database into files, which the stages only read",
    "training.mlflow_client": "connection to MLflow",
    "training.release": "names and hashes of registered models",
    "training.tracking": "logs to MLflow",
}


def missing_deps(pipeline: Mapping[str, Any], graph: grimp.ImportGraph, root: Path) -> dict[str, list[str]]:
    """Imported files that no dependency covers, by stage; a stage that always runs needs none.

    Args:
        pipeline: content of dvc.yaml.
        graph: the imports between the modules of the project.
        root: folder of dvc.yaml.
    """
    found = {}
    for name, stage in pipeline["stages"].items():
        if stage.get("always_changed"):
            continue
        files = {file_of(module, root) for module in imported(stage_module(stage["cmd"]), graph)}
        uncovered = (file for file in files if not is_covered(file, stage["deps"]))
        if missing := sorted(file for file in uncovered if has_statements(root / file)):
            found[name] = missing
    return found


def stage_module(command: str) -> str:
    """The module that `python -m module ...` runs."""
    words = command.split()
    return words[words.index("-m") + 1]


def imported(module: str, graph: grimp.ImportGraph) -> set[str]:
    """`module` and what it imports, directly or not, with the packages whose `__init__` that runs."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in WITHOUT_INFLUENCE:
            continue
        found.add(name)
        parent = name.rpartition(".")[0]
        waiting += [*graph.find_modules_directly_imported_by(name), *([parent] if parent else [])]
    return found


def file_of(module: str, root: Path) -> str:
    """The file of `module`, relative to `root`."""
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if (root / path).is_dir() else f"{path}.py"


def is_covered(file: str, deps: Iterable[str]) -> bool:
    """Whether `file` is in `deps`, or in a folder of them."""
    return any(file == dep or file.startswith(f"{dep}/") for dep in deps)


def has_statements(file: Path) -> bool:
    """Whether `file` holds more than a docstring."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return any(not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)) for one in body)


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    pipeline = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    missing = missing_deps(pipeline, graph, root)
    for stage, files in missing.items():
        print(f"dvc.yaml: stage {stage} imports what its deps do not list: {', '.join(files)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
