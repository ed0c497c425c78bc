"""Reader of the pipeline's validation report and of its quarantined rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

#: Limit on the quarantined rows that are read: the quarantine may hold the whole input.
MAX_ROWS_READ = 1_000_000
_BATCH_ROWS = 65_536
_MAX_REASONS = 100
_BY = ("table", "reason")
_SHOWN = ("source_file", "row", "field", "value", "content")


@dataclass(frozen=True)
class QuarantinedRows:
    """Quarantined rows of one table with the same reason.

    Attributes:
        count: number of such rows among the first `MAX_ROWS_READ`.
        examples: the first of them: origin (`source_file`, `row`), invalid `field` and `value`, `content` as JSON.
    """

    table: str
    reason: str
    count: int
    examples: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class PipelineReports:
    """Reports of the last pipeline run; the files are read at each call, because the pipeline may rewrite them.

    Attributes:
        folder: folder of the reports.
        quarantine: folder to which the stage `validate` writes quarantined rows.
    """

    folder: Path
    quarantine: Path

    def validation(self) -> dict[str, Any] | None:
        """Content of `validation.json`; None before the first run, or while the file is being written."""
        try:
            content: dict[str, Any] = json.loads((self.folder / "validation.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content

    def validated_at(self) -> datetime | None:
        """Time of the last validation; None before the first."""
        file = self.folder / "validation.json"
        return datetime.fromtimestamp(file.stat().st_mtime, UTC) if file.exists() else None

    def quarantined_rows(self, *, each: int = 5) -> list[QuarantinedRows] | None:
        """Quarantined rows grouped by table and reason, most frequent first; None if the file is missing or incomplete.

        Args:
            each: number of examples per reason.
        """
        try:
            with pq.ParquetFile(self.quarantine / "quarantine.parquet") as file:
                return _by_reason(file, each)
        except (OSError, pa.ArrowInvalid):
            return None

    @property
    def page(self) -> Path:
        """Path of the validation report as HTML."""
        return self.folder / "validation.html"


def _by_reason(file: Any, each: int) -> list[QuarantinedRows]:
    counts: dict[tuple[str, str], int] = {}
    examples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    rows_read = 0
    for batch in file.iter_batches(_BATCH_ROWS, columns=[*_BY, *_SHOWN]):
        rows = pa.Table.from_batches([batch])
        for group in rows.group_by(list(_BY)).aggregate([([], "count_all")]).to_pylist():
            key = (group["table"], group["reason"])
            if key not in counts and len(counts) == _MAX_REASONS:
                continue
            counts[key] = counts.get(key, 0) + group["count_all"]
            missing = each - len(examples.setdefault(key, []))
            if missing > 0:
                matches = pc.and_(pc.equal(rows["table"], key[0]), pc.equal(rows["reason"], key[1]))
                examples[key] += rows.filter(matches).slice(0, missing).select(list(_SHOWN)).to_pylist()
        rows_read += batch.num_rows
        if rows_read >= MAX_ROWS_READ:
            break
    found = [QuarantinedRows(*key, count, examples[key]) for key, count in counts.items()]
    return sorted(found, key=lambda group: -group.count)
