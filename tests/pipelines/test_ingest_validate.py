"""Tests of the stages `ingest` and `validate` on small sources: complete, reproducible output and clear errors."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipelines import ingest, validate
from telemetry.command import REFUSED, exit_code
from telemetry.errors import TwinError
from tests.telemetry import source_files as files
from training.params import read_json

PARAMS = {
    "source": {"field_map": None, "batteries": None},
    "battery_defaults": {"nominal_capacity_ah": None, "chemistry": None},
}


def run(name: str, folder: Path, out: Path) -> dict[str, bytes]:
    """Run both stages; returns every written file."""
    params = {**PARAMS, "source": {**PARAMS["source"], "name": name, "path": str(folder)}}
    ingest.write(ingest.ingest(params), name, out / "interim")
    telemetry, source = validate.read(out / "interim")
    result = validate.validate(telemetry)
    validate.write(result, source, out / "validated", out / "quarantine", out / "reports")
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", ["fleet", "matr", "nasa_pcoe", "ev_faults", "eviot", "timescale"])
def test_stages_write_all_files_reproducibly(name: str, tmp_path: Path) -> None:
    files.LAYOUTS[name](tmp_path / "raw")
    first = run(name, tmp_path / "raw", tmp_path / "one")
    assert set(first) == {
        "interim/readings.parquet",
        "interim/cycles.parquet",
        "interim/batteries.parquet",
        "interim/rejected.parquet",
        "interim/source.json",
        "validated/readings.parquet",
        "validated/cycles.parquet",
        "validated/batteries.parquet",
        "quarantine/quarantine.parquet",
        "quarantine/quarantine.csv",
        "reports/validation.html",
        "reports/validation.json",
    }
    assert first == run(name, tmp_path / "raw", tmp_path / "two")
    assert not [path for path, content in first.items() if str(tmp_path).encode() in content], "no path of this machine"
    summary = read_json(tmp_path / "one/reports/validation.json")
    assert summary["rows_read"] == summary["rows_kept"] + summary["rows_quarantined"]
    written = [len(pd.read_parquet(tmp_path / f"one/validated/{table}.parquet")) for table in ("readings", "cycles")]
    assert summary["rows_kept"] == sum(written)
    assert summary["rows_quarantined"] == len(pd.read_csv(tmp_path / "one/quarantine/quarantine.csv"))


def stage(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`python -m pipelines.<name>` in `folder`, as DVC runs it."""
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-m", f"pipelines.{name}"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_user_error_ends_the_stage_with_one_sentence_and_a_report(tmp_path: Path) -> None:
    files.LAYOUTS["eviot"](tmp_path / "raw")
    source = {"name": "eviot", "path": str(tmp_path / "raw"), "field_map": "nope", "batteries": None}
    params = {**PARAMS, "source": source}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    done = stage("ingest", tmp_path)
    assert done.returncode == REFUSED
    assert done.stderr.startswith("there is no field map nope")
    assert done.stderr.count("\n") == 1

    telemetry = ingest.ingest({**params, "source": {**source, "field_map": None}})
    hot = telemetry.readings.assign(temperature=999.0)
    ingest.write(dataclasses.replace(telemetry, readings=hot), "eviot", tmp_path / "data" / "interim")
    done = stage("validate", tmp_path)
    assert done.returncode == REFUSED
    assert done.stderr.splitlines()[-1].startswith(f"none of the {telemetry.rows_read} rows read is valid")
    assert "Traceback" not in done.stderr
    page = (tmp_path / "reports" / "validation.html").read_text()
    assert f"none of the {telemetry.rows_read} rows read is valid" in page
    summary = read_json(tmp_path / "reports" / "validation.json")
    assert (summary["rows_kept"], summary["rows_quarantined"]) == (0, telemetry.rows_read)
    assert len(pd.read_csv(tmp_path / "data/quarantine/quarantine.csv")) == telemetry.rows_read
    assert not (tmp_path / "data" / "validated").exists(), "no training data is written"


def test_an_unexpected_error_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def program_error() -> None:
        raise KeyError("column")

    def user_error() -> None:
        raise TwinError("the file is empty")

    with pytest.raises(KeyError):
        exit_code(program_error)
    assert exit_code(user_error) == REFUSED
    assert capsys.readouterr().err == "the file is empty\n"
    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: 7) == 7


def test_every_stage_converts_errors_into_exit_codes() -> None:
    root = Path(__file__).resolve().parents[2]
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"].values()
    modules = {stage["cmd"].split()[2] for stage in stages}
    assert len(modules) == 8
    without = [
        m for m in modules if "sys.exit(exit_code(main))" not in (root / f"{m.replace('.', '/')}.py").read_text()
    ]
    assert not without
