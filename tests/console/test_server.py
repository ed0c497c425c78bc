"""The console put together, in this process: NiceGUI allows one."""

from __future__ import annotations

from pathlib import Path

from nicegui import ui
from pydantic import SecretStr

from console.server import Console
from telemetry.settings import Settings
from tests.console.conftest import served


def test_a_page_that_fails_does_not_say_what_went_wrong_inside(tmp_path: Path) -> None:
    settings = Settings(var=tmp_path, telemetry_dsn=SecretStr(f"postgresql://me@/telemetry?host={tmp_path}"))
    console = Console.open(settings, reports=tmp_path, params=tmp_path / "params.yaml", quarantine=tmp_path)

    @ui.page("/broken")
    def broken() -> None:
        raise ValueError("hunter2")

    with served(console.app) as client:
        answer = client.get("/broken", headers={"accept": "text/html"})
        assert client.get("/").status_code == 200
    assert answer.status_code == 500
    assert "could not be drawn" in answer.text
    assert "ValueError" not in answer.text
    assert "hunter2" not in answer.text
