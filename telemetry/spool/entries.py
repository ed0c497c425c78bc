"""Encodes rows as spool entries (JSON without missing values) and decodes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

from telemetry.batch import Batch, Row, RowKind
from telemetry.contract import BATTERY_FIELDS, CYCLE_FIELDS, READING_FIELDS, Field
from telemetry.stores.postgres import PREDICTION_FIELDS
from telemetry.wire import json_values

#: In the order in which the rows of one batch are stored: batteries before their readings.
KINDS: Mapping[RowKind, tuple[str, tuple[Field, ...]]] = {
    "battery": ("batteries", BATTERY_FIELDS),
    "reading": ("readings", READING_FIELDS),
    "late": ("late", READING_FIELDS),
    "cycle": ("cycles", CYCLE_FIELDS),
    "prediction": ("predictions", PREDICTION_FIELDS),
}
_TIMES: Mapping[RowKind, tuple[str, ...]] = {
    kind: tuple(field.name for field in fields if field.kind == "time") for kind, (_, fields) in KINDS.items()
}


@dataclass(frozen=True)
class Entry:
    """One row in the spool; `offset` increases in the order of arrival."""

    offset: int
    kind: RowKind
    row: Row


def encode_rows(batch: Batch) -> Iterable[tuple[RowKind, bytes]]:
    """The rows of `batch` as stored in the spool."""
    for kind, (part, fields) in KINDS.items():
        for row in getattr(batch, part):
            yield kind, orjson.dumps(json_values(row, fields))


def decode_entry(offset: int, kind: RowKind, body: bytes) -> Entry:
    """The entry of a stored row; missing values stay absent."""
    row: dict[str, object] = orjson.loads(body)
    for name in _TIMES[kind]:
        if name in row:
            row[name] = datetime.fromisoformat(str(row[name]))
    return Entry(offset, kind, row)


def batch_of(entries: Sequence[Entry]) -> Batch:
    """The rows of `entries`, each table in order."""
    rows: dict[str, list[Row]] = {part: [] for part, _ in KINDS.values()}
    for one in entries:
        rows[KINDS[one.kind][0]].append(one.row)
    return Batch(**rows)
