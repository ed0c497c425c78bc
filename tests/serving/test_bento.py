"""`bentoml build` packs the complete service code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.settings import USAGE_STATISTICS_OFF

ROOT = Path(__file__).resolve().parents[2]


def run(home: Path, *arguments: str, cwd: Path = ROOT) -> str:
    environment = os.environ | USAGE_STATISTICS_OFF | {"BENTOML_HOME": str(home), "TWIN_VAR": str(home / "var")}
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


def test_bento_has_the_service_packages_and_no_local_data(bento: Path) -> None:
    packed = {path.relative_to(bento / "src").parts[0] for path in (bento / "src").rglob("*.py")}
    assert packed == {"telemetry", "features", "serving", "training"}
    assert not list(bento.rglob("*.db"))
    assert str(ROOT) not in (bento / "bento.yaml").read_text()


def test_packed_code_can_be_imported(bento: Path, tmp_path: Path) -> None:
    check = "import serving.service, serving.app; print(serving.app.__file__)"
    assert str(bento) in run(tmp_path, "-c", check, cwd=bento / "src")
