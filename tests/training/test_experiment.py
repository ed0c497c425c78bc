"""`make repro SOURCE=...` becomes parameters of an experiment, or one clear sentence."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from telemetry.batch import Batch
from telemetry.errors import TwinError
from telemetry.sources import read_source
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from training.experiment import commands, source_overrides
from training.params import parse_section
from training.snapshot import take_snapshot
from training.tuning import TuneParams


def test_a_source_has_a_domain_and_definitions_of_its_own(tmp_path: Path) -> None:
    changed = source_overrides("matr", str(tmp_path), None)
    assert f"source.path={tmp_path.resolve()}" in changed
    assert "domain=matr" in changed
    assert "targets.eol_fraction=0.85" in changed
    assert "source.field_map=null" in changed


def test_what_the_last_experiment_changed_is_set_back(tmp_path: Path) -> None:
    assert "targets.eol_fraction=0.8" in source_overrides("ev_faults", str(tmp_path), "cars")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [("nope", ".", "nope"), ("matr", None, "DATA=path"), ("matr", "/does/not/exist", "does not exist")],
)
def test_what_cannot_be_run_is_said(name: str, data: str | None, said: str) -> None:
    with pytest.raises(TwinError, match=said):
        source_overrides(name, data, None)


def test_a_domain_that_cannot_name_models_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(TwinError, match="domain 'a b/c' cannot name"):
        source_overrides("matr", str(tmp_path), "a b/c")


def test_a_misspelt_parameter_is_named() -> None:
    with pytest.raises(TwinError, match=r"tune\.trails is not a parameter"):
        parse_section(TuneParams, {"trails": 3}, "tune")


def test_another_source_does_not_simulate_a_fleet(tmp_path: Path) -> None:
    command = commands(["--source", "nasa_pcoe", "--data", str(tmp_path)])
    assert command[:2] == ["exp", "run"]
    assert command[command.index("--name") + 1] == "nasa-pcoe"
    assert command[-1] == "register"
    assert commands([]) == ["repro"]


def test_a_running_system_is_copied_first(postgres_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("snapshot: {days: 3, every_s: 0}")
    monkeypatch.delenv("TWIN_TELEMETRY_DSN", raising=False)
    with pytest.raises(TwinError, match="TWIN_TELEMETRY_DSN"):
        source_overrides("timescale", None, None)
    monkeypatch.setenv("TWIN_TELEMETRY_DSN", postgres_dsn)
    migrate(postgres_dsn)
    store = PostgresStore(postgres_dsn)
    time = datetime(2026, 1, 1, tzinfo=UTC)
    store.write(
        Batch(readings=[{"battery_id": "E", "time": time, "voltage": 3.0, "current": 1.0, "temperature": 20.0}])
    )
    store.close()
    changed = source_overrides("timescale", None, "battery")
    assert "domain=battery" in changed
    (path,) = [Path(one.removeprefix("source.path=")) for one in changed if one.startswith("source.path=")]
    assert path.is_relative_to(tmp_path.resolve())
    assert len(read_source("timescale", path).readings) == 1
    assert f"source.path={path}" in source_overrides("timescale", str(path), None), "and again on the same files"
    assert not any(postgres_dsn in one for one in changed)
    with pytest.raises(TwinError, match="files already"):
        take_snapshot("fleet")
