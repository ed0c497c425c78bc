"""Rows as the spool keeps them: JSON without what is missing, in the order in which they came."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

from telemetry.batch import Batch, Kind, Row
from telemetry.contract import BATTERY_FIELDS, CYCLE_FIELDS, READING_FIELDS, Field
from telemetry.stores.postgres import PREDICTION_FIELDS
from telemetry.wire import json_values

#: In the order in which the rows of one batch are kept: what a battery is comes before what it says.
KINDS: Mapping[Kind, tuple[str, tuple[Field, ...]]] = {
    "battery": ("batteries", BATTERY_FIELDS),
    "reading": ("readings", READING_FIELDS),
    "late": ("late", READING_FIELDS),
    "cycle": ("cycles", CYCLE_FIELDS),
    "prediction": ("predictions", PREDICTION_FIELDS),
}
_TIMES: Mapping[Kind, tuple[str, ...]] = {
    kind: tuple(field.name for field in fields if field.kind == "time") for kind, (_, fields) in KINDS.items()
}


@dataclass(frozen=True)
class Entry:
    """One row in the spool; `position` grows by the order of arrival."""

    position: int
    kind: Kind
    row: Row


def bodies(batch: Batch) -> Iterable[tuple[Kind, bytes]]:
    """The rows of `batch` as they are kept."""
    for kind, (part, fields) in KINDS.items():
        for row in getattr(batch, part):
            yield kind, orjson.dumps(json_values(row, fields))


def entry(position: int, kind: Kind, body: bytes) -> Entry:
    """What was kept, as it was given; a missing value stays left out."""
    row: dict[str, object] = orjson.loads(body)
    for name in _TIMES[kind]:
        if name in row:
            row[name] = datetime.fromisoformat(str(row[name]))
    return Entry(position, kind, row)


def batch_of(entries: Sequence[Entry]) -> Batch:
    """The rows of `entries`, each table in order."""
    rows: dict[str, list[Row]] = {part: [] for part, _ in KINDS.values()}
    for one in entries:
        rows[KINDS[one.kind][0]].append(one.row)
    return Batch(**rows)
