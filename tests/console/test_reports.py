"""What the pipeline set aside, as the data page shows it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from console import reports as reports_module
from console.reports import Reports
from telemetry.sources.base import REJECTED_COLUMNS


def test_the_first_rows_of_each_reason_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports_module, "_BATCH_ROWS", 7)
    rows = [
        ("readings", "a.csv", k, "voltage", str(9000 + k), "voltage: not from 0 to 2000 V", '{"voltage": 9000}')
        for k in range(40)
    ]
    rows[33] = ("cycles", "b.csv", 2, "soh", "", "soh: missing, but required", "{}")
    frame = pd.DataFrame(rows, columns=list(REJECTED_COLUMNS))
    frame.to_parquet(tmp_path / "quarantine.parquet", compression="zstd", index=False)
    reports = Reports(tmp_path, tmp_path)
    often, rare = reports.rejected(each=3) or []
    assert (often.table, often.count, [row["row"] for row in often.examples]) == ("readings", 39, [0, 1, 2])
    assert often.examples[0]["value"] == "9000"
    assert (rare.table, rare.reason, rare.count, len(rare.examples)) == ("cycles", "soh: missing, but required", 1, 1)
    monkeypatch.setattr(reports_module, "LOOKED_AT", 14)
    (only,) = reports.rejected() or []
    assert only.count == 14


def test_without_a_whole_file_nothing_is_known(tmp_path: Path) -> None:
    assert Reports(tmp_path, tmp_path).rejected() is None
    (tmp_path / "quarantine.parquet").write_bytes(b"PAR1 half of it")
    assert Reports(tmp_path, tmp_path).rejected() is None
    frame = pd.DataFrame([], columns=list(REJECTED_COLUMNS), dtype="str")
    frame.to_parquet(tmp_path / "quarantine.parquet", index=False)
    assert Reports(tmp_path, tmp_path).rejected() == []
