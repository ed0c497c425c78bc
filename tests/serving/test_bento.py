"""`bentoml build` packs the service, and what it packed serves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.settings import NO_TELEMETRY

ROOT = Path(__file__).resolve().parents[2]


def run(home: Path, *arguments: str, cwd: Path = ROOT) -> str:
    environment = os.environ | NO_TELEMETRY | {"BENTOML_HOME": str(home), "TWIN_VAR": str(home / "var")}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a built bento."""
    home = tmp_path_factory.mktemp("bentoml")
    tag = run(home, "-m", "bentoml", "build", "--output", "tag").strip().removeprefix("__tag__:")
    name, version = tag.split(":")
    return home / "bentos" / name / version


def test_holds_the_service_and_nothing_of_this_machine(bento: Path) -> None:
    packed = {path.relative_to(bento / "src").parts[0] for path in (bento / "src").rglob("*.py")}
    assert packed == {"telemetry", "features", "serving", "training"}
    assert not list(bento.rglob("*.db"))
    assert str(ROOT) not in (bento / "bento.yaml").read_text()


def test_its_code_is_complete(bento: Path, tmp_path: Path) -> None:
    check = "import serving.service, serving.app; print(serving.app.__file__)"
    assert str(bento) in run(tmp_path, "-c", check, cwd=bento / "src")
