"""`bentoml build` packs the complete service code, and `bentoml serve` of the bento predicts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.servers.process import unused_port
from telemetry.settings import USAGE_STATISTICS_OFF, Settings

ROOT = Path(__file__).resolve().parents[2]


def run(home: Path, *arguments: str, cwd: Path = ROOT) -> str:
    environment = os.environ | USAGE_STATISTICS_OFF | {"BENTOML_HOME": str(home), "TWIN_VAR": str(home / "var")}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a built bento."""
    if shutil.which("uv") is None and importlib.util.find_spec("pip") is None:
        pytest.skip("bentoml build needs uv or pip")
    home = tmp_path_factory.mktemp("bentoml")
    tag = run(home, "-m", "bentoml", "build", "--output", "tag").strip().removeprefix("__tag__:")
    name, version = tag.split(":")
    return home / "bentos" / name / version


def test_bento_has_the_service_packages_and_no_local_data(bento: Path) -> None:
    packed = {path.relative_to(bento / "src").parts[0] for path in (bento / "src").rglob("*.py")}
    assert packed == {"telemetry", "physics", "features", "serving", "training"}
    assert not list(bento.rglob("*.db"))
    assert str(ROOT) not in (bento / "bento.yaml").read_text()


def test_packed_code_can_be_imported(bento: Path, tmp_path: Path) -> None:
    check = "import serving.service, serving.app; print(serving.app.__file__)"
    assert str(bento) in run(tmp_path, "-c", check, cwd=bento / "src")


def test_a_served_bento_predicts_with_the_registry_of_the_settings(
    bento: Path, registry: Settings, battery: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """The command of docs/live.md, in another folder: only the setting leads to the registry."""
    port = unused_port()
    environment = os.environ | USAGE_STATISTICS_OFF
    environment |= {"BENTOML_HOME": str(bento.parents[2]), "TWIN_MLFLOW_TRACKING_URI": registry.tracking_uri}
    command = [sys.executable, "-m", "bentoml", "serve", "ev_battery_twin:latest", "--port", str(port)]
    log = tmp_path / "bento.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            deadline = time.monotonic() + 120
            while not _is_ready(client):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            response = client.post("/predict", json={"batteries": [battery(cycles=range(20))]})
        assert response.status_code == 200, response.text
        (predicted,) = response.json()["predictions"]
        for name in ("soh", "temperature", "rul", "failure_probability"):
            assert predicted[name]["value"] is not None, name
    finally:
        process.terminate()
        process.wait(timeout=30)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
