"""Quarantined rows as the data page shows them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from console import reports as reports_module
from console.reports import PipelineReports
from telemetry.sources.base import REJECTED_COLUMNS


def test_first_rows_of_each_reason_are_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports_module, "_BATCH_ROWS", 7)
    rows = [
        ("readings", "a.csv", k, "voltage", str(9000 + k), "voltage: not from 0 to 2000 V", '{"voltage": 9000}')
        for k in range(40)
    ]
    rows[33] = ("cycles", "b.csv", 2, "soh", "", "soh: missing, but required", "{}")
    frame = pd.DataFrame(rows, columns=list(REJECTED_COLUMNS))
    frame.to_parquet(tmp_path / "quarantine.parquet", compression="zstd", index=False)
    reports = PipelineReports(tmp_path, tmp_path)
    frequent, rare = reports.quarantined_rows(each=3) or []
    assert (frequent.table, frequent.count, [row["row"] for row in frequent.examples]) == ("readings", 39, [0, 1, 2])
    assert frequent.examples[0]["value"] == "9000"
    assert (rare.table, rare.reason, rare.count, len(rare.examples)) == ("cycles", "soh: missing, but required", 1, 1)
    monkeypatch.setattr(reports_module, "MAX_ROWS_READ", 14)
    (only,) = reports.quarantined_rows() or []
    assert only.count == 14


def test_missing_or_truncated_file_gives_none(tmp_path: Path) -> None:
    assert PipelineReports(tmp_path, tmp_path).quarantined_rows() is None
    (tmp_path / "quarantine.parquet").write_bytes(b"PAR1 half of it")
    assert PipelineReports(tmp_path, tmp_path).quarantined_rows() is None
    frame = pd.DataFrame([], columns=list(REJECTED_COLUMNS), dtype="str")
    frame.to_parquet(tmp_path / "quarantine.parquet", index=False)
    assert PipelineReports(tmp_path, tmp_path).quarantined_rows() == []
