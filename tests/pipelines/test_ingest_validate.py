"""The two stages on a small source: what they write is complete and the same every time."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipelines import ingest, validate
from pipelines.params import read_json
from tests.data import source_files as files

PARAMS = {
    "source": {"field_map": None, "batteries": None},
    "battery_defaults": {"nominal_capacity_ah": None, "chemistry": None},
}


def run(name: str, folder: Path, out: Path) -> dict[str, bytes]:
    """Both stages; every file they wrote."""
    params = {**PARAMS, "source": {**PARAMS["source"], "name": name, "path": str(folder)}}
    ingest.write(ingest.ingest(params), name, out / "interim")
    telemetry, source = validate.read(out / "interim")
    result = validate.validate(telemetry)
    validate.write(result, source, out / "validated", out / "quarantine", out / "reports")
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", ["fleet", "matr", "nasa_pcoe", "ev_faults", "eviot", "timescale"])
def test_stages_write_everything_and_the_same_bytes(name: str, tmp_path: Path) -> None:
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
    told = read_json(tmp_path / "one/reports/validation.json")
    assert told["rows_read"] == told["rows_kept"] + told["rows_quarantined"]
    written = [len(pd.read_parquet(tmp_path / f"one/validated/{table}.parquet")) for table in ("readings", "cycles")]
    assert told["rows_kept"] == sum(written)
    assert told["rows_quarantined"] == len(pd.read_csv(tmp_path / "one/quarantine/quarantine.csv"))
