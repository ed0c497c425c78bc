"""`make repro SOURCE=...`: parameter overrides of the DVC experiment, and error messages."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from telemetry.batch import Batch
from telemetry.errors import TwinError
from telemetry.sources import read_source
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from training.experiment import dvc_arguments, source_overrides
from training.snapshot import take_snapshot
from training.tuning import TuneParams


def test_source_sets_its_model_namespace_and_label_definitions(tmp_path: Path) -> None:
    overrides = source_overrides("matr", str(tmp_path), None)
    assert f"source.path={tmp_path.resolve()}" in overrides
    assert "domain=matr" in overrides
    assert "targets.eol_fraction=0.85" in overrides
    assert "source.field_map=null" in overrides


def test_overrides_of_the_last_experiment_are_reset(tmp_path: Path) -> None:
    assert "targets.eol_fraction=0.8" in source_overrides("ev_faults", str(tmp_path), "cars")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [("nope", ".", "nope"), ("matr", None, "DATA=path"), ("matr", "/does/not/exist", "does not exist")],
)
def test_invalid_source_is_reported(name: str, data: str | None, message: str) -> None:
    with pytest.raises(TwinError, match=message):
        source_overrides(name, data, None)


def test_invalid_model_namespace_is_rejected_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(TwinError, match="domain 'a b/c' is not a valid model namespace"):
        source_overrides("matr", str(tmp_path), "a b/c")


def test_unknown_parameter_is_named() -> None:
    with pytest.raises(TwinError, match=r"tune\.trails is not a parameter"):
        TuneParams.of({"tune": {"trails": 3}})


def test_experiment_on_another_source_runs_no_fleet_simulation(tmp_path: Path) -> None:
    command = dvc_arguments(["--source", "nasa_pcoe", "--data", str(tmp_path)])
    assert command[:2] == ["exp", "run"]
    assert command[command.index("--name") + 1] == "nasa-pcoe"
    assert command[-1] == "register"
    assert dvc_arguments([]) == ["repro"]


def test_database_source_is_copied_to_files_first(
    postgres_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    overrides = source_overrides("timescale", None, "battery")
    assert "domain=battery" in overrides
    (path,) = [Path(one.removeprefix("source.path=")) for one in overrides if one.startswith("source.path=")]
    assert path.is_relative_to(tmp_path.resolve())
    assert len(read_source("timescale", path).readings) == 1
    assert f"source.path={path}" in source_overrides("timescale", str(path), None), (
        "an earlier snapshot is used as it is"
    )
    assert not any(postgres_dsn in one for one in overrides)
    with pytest.raises(TwinError, match="files already"):
        take_snapshot("fleet")
