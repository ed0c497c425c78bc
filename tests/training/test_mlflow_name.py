"""MLflow behind a name: names that it was started with are accepted, others are reported in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from deploy.servers.process import Command, Server, responds, unused_port
from monitoring.registry_poll import RegistryPoller, RegistryUnavailableError
from serving.release_loader import ReleaseLoader
from serving.service_metrics import ReleaseMetrics
from telemetry.errors import TwinError
from telemetry.settings import Settings
from training.mlflow_client import connect
from training.registry.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Iterator[int]:
    """Port of an MLflow as in `make run` that is reached as 127.0.0.2, too, but not as 127.0.0.3."""
    folder = tmp_path_factory.mktemp("named")
    (folder / "mlflow.db").write_bytes(empty_registry.read_bytes())
    port = unused_port()
    command = Command(
        "MLflow",
        (sys.executable, "-m", "deploy.mlflow_ui"),
        ready=lambda: responds(f"http://127.0.0.1:{port}/health"),
        log=folder / "server.log",
        folder=ROOT,
        environment={
            "TWIN_VAR": str(folder),
            "TWIN_HOST": "0.0.0.0",
            "TWIN_MLFLOW_PORT": str(port),
            "TWIN_MLFLOW_ALLOWED_HOSTS": f"127.0.0.2:{port}",
        },
        start_timeout_s=120.0,
    )
    with Server(command):
        yield port


def test_allowed_names_are_accepted(port: int, tmp_path: Path) -> None:
    for host in ("127.0.0.1", "127.0.0.2"):
        client = connect(Settings(var=tmp_path, mlflow_tracking_uri=f"http://{host}:{port}"))
        assert client.search_experiments() is not None


def test_refused_name_is_one_sentence_everywhere(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"http://reader:secret@127.0.0.3:{port}/"
    settings = Settings(var=tmp_path, mlflow_tracking_uri=address)
    sentence = f"MLflow refuses requests to 127.0.0.3:{port} (Invalid Host header): start `mlflow server` with"
    with pytest.raises(TwinError) as error:
        connect(settings)
    assert error.value.sentence.startswith(f"{sentence} --allowed-hosts 127.0.0.3:{port},")

    monkeypatch.setenv("TWIN_MLFLOW_TRACKING_URI", address)
    assert main(["list"]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert "Traceback" not in printed
    assert "secret" not in printed

    with pytest.raises(RegistryUnavailableError, match="Invalid Host header"):
        RegistryPoller(settings).poll()
    loader = ReleaseLoader(settings, ReleaseMetrics(CollectorRegistry()))
    loader.refresh()
    assert sentence in loader.problem
