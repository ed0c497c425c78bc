"""The assembled application, in this process: NiceGUI allows only one."""

from __future__ import annotations

from pathlib import Path

from nicegui import ui
from pydantic import SecretStr

from console.server import Console
from telemetry.settings import Settings
from tests.console.conftest import served


def test_error_page_shows_no_details_of_the_exception(tmp_path: Path) -> None:
    settings = Settings(var=tmp_path, telemetry_dsn=SecretStr(f"postgresql://me@/telemetry?host={tmp_path}"))
    console = Console.open(settings, reports=tmp_path, params=tmp_path / "params.yaml", quarantine=tmp_path)

    @ui.page("/broken")
    def broken() -> None:
        raise ValueError("hunter2")

    with served(console.app) as client:
        response = client.get("/broken", headers={"accept": "text/html"})
        assert client.get("/").status_code == 200
    assert response.status_code == 500
    assert "Internal error" in response.text
    assert "ValueError" not in response.text
    assert "hunter2" not in response.text
