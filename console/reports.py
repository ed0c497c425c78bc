"""What the pipeline reported: `validation.json` and `metrics.json`; and which rows it set aside."""

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

#: Of a quarantine so many rows are looked at; it may hold everything that was read.
LOOKED_AT = 1_000_000
_BATCH_ROWS = 65_536
_MOST_REASONS = 100
_BY = ("table", "reason")
_SHOWN = ("source_file", "row", "field", "value", "content")


@dataclass(frozen=True)
class Rejected:
    """Rows of a table that were set aside for the same reason.

    Attributes:
        count: how many among those that were looked at.
        examples: the first of them: where from (`source_file`, `row`), `field` and `value` at fault, `content` as JSON.
    """

    table: str
    reason: str
    count: int
    examples: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Reports:
    """Reads the folders anew each time: the pipeline may run meanwhile.

    Attributes:
        folder: where reports are.
        quarantine: where the stage `validate` leaves the rows that it sets aside.
    """

    folder: Path
    quarantine: Path

    def validation(self) -> dict[str, Any] | None:
        """What was read, kept and set aside; None before the first run, or while the file is being written."""
        return self._read("validation.json")

    def metrics(self) -> dict[str, Any] | None:
        """How good the models are; None before the first run."""
        return self._read("metrics.json")

    def validated_at(self) -> datetime | None:
        """When the data were last validated."""
        file = self.folder / "validation.json"
        return datetime.fromtimestamp(file.stat().st_mtime, UTC) if file.exists() else None

    def rejected(self, *, each: int = 5) -> list[Rejected] | None:
        """What was set aside, by reason, the most frequent first; None where there is no file, or half of one.

        Args:
            each: so many examples of each reason.
        """
        try:
            with pq.ParquetFile(self.quarantine / "quarantine.parquet") as file:
                return _by_reason(file, each)
        except (OSError, pa.ArrowInvalid):
            return None

    @property
    def page(self) -> Path:
        """The validation report for people."""
        return self.folder / "validation.html"

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content


def _by_reason(file: Any, each: int) -> list[Rejected]:
    counts: dict[tuple[str, str], int] = {}
    examples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    looked_at = 0
    for batch in file.iter_batches(_BATCH_ROWS, columns=[*_BY, *_SHOWN]):
        rows = pa.Table.from_batches([batch])
        for group in rows.group_by(list(_BY)).aggregate([([], "count_all")]).to_pylist():
            key = (group["table"], group["reason"])
            if key not in counts and len(counts) == _MOST_REASONS:
                continue
            counts[key] = counts.get(key, 0) + group["count_all"]
            missing = each - len(examples.setdefault(key, []))
            if missing > 0:
                is_its = pc.and_(pc.equal(rows["table"], key[0]), pc.equal(rows["reason"], key[1]))
                examples[key] += rows.filter(is_its).slice(0, missing).select(list(_SHOWN)).to_pylist()
        looked_at += batch.num_rows
        if looked_at >= LOOKED_AT:
            break
    found = [Rejected(*key, count, examples[key]) for key, count in counts.items()]
    return sorted(found, key=lambda one: -one.count)
