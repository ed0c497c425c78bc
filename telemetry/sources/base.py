"""Source interface: the `Source` entry, the tables that a source returns and helpers to build them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from telemetry.contract import BATTERY_FIELDS, CYCLE_FIELDS, READING_FIELDS, Field
from telemetry.errors import TwinError
from telemetry.field_map import FieldMap, TableName
from telemetry.settings import Settings
from telemetry.stores.snapshot import SnapshotParams

#: Origin of a row; kept beside the contract's columns until validation.
PROVENANCE: tuple[str, ...] = ("source_file", "source_row")
REJECTED_COLUMNS: tuple[str, ...] = ("table", "source_file", "row", "field", "value", "reason", "content")

_DTYPES: dict[str, Any] = {"float": "float64", "bool": "float64", "text": "str", "time": "datetime64[us, UTC]"}


@dataclass(frozen=True)
class Telemetry:
    """All rows of a source in contract columns, and rows that could not be parsed.

    Attributes:
        readings: READING_FIELDS and PROVENANCE, in the order of the files; may be empty.
        cycles: CYCLE_FIELDS and PROVENANCE; may be empty.
        batteries: BATTERY_FIELDS, one row for each battery.
        rejected: REJECTED_COLUMNS, one row for each row that could not be parsed, also of the batteries
            table; `row` counts data rows from 1, `content` is JSON of its unchanged cells.
        rows_read: len(readings) + len(cycles) + len(rejected).
        notes: notes for the report: assumptions, repairs, data that was left out.
    """

    readings: pd.DataFrame
    cycles: pd.DataFrame
    batteries: pd.DataFrame
    rejected: pd.DataFrame
    rows_read: int
    notes: list[str] = field(default_factory=list)


#: Reads a source's files with the given field map.
Reader = Callable[[Path, FieldMap | None], Telemetry]
#: Copies the data of a running system into files for reproducible runs, and returns their folder.
SnapshotTaker = Callable[[Settings, SnapshotParams, FieldMap | None], Path]


@dataclass(frozen=True)
class Source:
    """An entry of `telemetry.sources.SOURCES`.

    Attributes:
        name: as in params.yaml.
        description: a short description for users.
        read: the reader; it gets `field_map` where the user gives none.
        field_map: name of the shipped field map, None where the layout is the contract's own or the user must map.
        battery_defaults: nominal data of batteries without it, e.g. {"nominal_capacity_ah": 1.1}.
        target_defaults: parameters under `targets` for this data, e.g. {"eol_fraction": 0.85}.
        take_snapshot: creates the files where the user names none, for a source that is a running system.
    """

    name: str
    description: str
    read: Reader
    field_map: str | None = None
    battery_defaults: Mapping[str, float | str] = field(default_factory=dict)
    target_defaults: Mapping[str, float] = field(default_factory=dict)
    take_snapshot: SnapshotTaker | None = None


@dataclass(frozen=True)
class ParsedFile:
    """Rows of one file in contract columns, rejected rows and notes."""

    kept: pd.DataFrame
    rejected: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def require_field_map(field_map: FieldMap | None, table: TableName) -> FieldMap:
    """`field_map`, checked to be one for `table`.

    Raises:
        TwinError: there is none, or it is for another table.
    """
    if field_map is None or field_map.table != table:
        given = f"field map {field_map.name} is for {field_map.table}" if field_map else "there is no field map"
        raise TwinError(
            f"{given}, but this source holds {table}; set source.field_map to one with `table: {table}`",
            field="source.field_map",
        )
    return field_map


def empty_table(fields: Sequence[Field], extra: Sequence[str] = ()) -> pd.DataFrame:
    """A table without rows, with the columns and types of `fields`."""
    columns = {f.name: pd.Series(dtype=_DTYPES[f.kind]) for f in fields}
    return pd.DataFrame(columns | {name: pd.Series(dtype="int64" if name == "source_row" else "str") for name in extra})


def complete(frame: pd.DataFrame, fields: Sequence[Field], extra: Sequence[str] = ()) -> pd.DataFrame:
    """`frame` with exactly the columns of `fields` and `extra`, in that order and in their types; absent is missing."""
    columns = {}
    for f in fields:
        values = frame[f.name] if f.name in frame else pd.Series(None, index=frame.index, dtype=_DTYPES[f.kind])
        columns[f.name] = values.astype(_DTYPES[f.kind])
    for name in extra:
        columns[name] = frame[name].astype("int64" if name == "source_row" else "str")
    return pd.DataFrame(columns, index=frame.index).reset_index(drop=True)


def rejections(rows: Sequence[tuple[str, str, int, str, str, str, str]] = ()) -> pd.DataFrame:
    """A table of rejected rows from tuples in the order of REJECTED_COLUMNS."""
    frame = pd.DataFrame(list(rows), columns=list(REJECTED_COLUMNS))
    return frame.astype({name: "int64" if name == "row" else "str" for name in REJECTED_COLUMNS})


def collect(
    *,
    readings: Sequence[ParsedFile] = (),
    cycles: Sequence[ParsedFile] = (),
    batteries: pd.DataFrame | None = None,
    notes: Sequence[str] = (),
) -> Telemetry:
    """Concatenate the files of a source; batteries without a row in `batteries` get one."""
    reading_rows = _concatenated([p.kept for p in readings], READING_FIELDS)
    cycle_rows = _concatenated([p.kept for p in cycles], CYCLE_FIELDS)
    rejected = pd.concat([rejections(), *(p.rejected for p in [*readings, *cycles])], ignore_index=True)
    described = batteries if batteries is not None else empty_table(BATTERY_FIELDS)
    ids = sorted(set(reading_rows["battery_id"].dropna()) | set(cycle_rows["battery_id"].dropna()))
    undescribed = pd.DataFrame({"battery_id": [i for i in ids if i not in set(described["battery_id"])]}, dtype="str")
    parts = [complete(part, BATTERY_FIELDS) for part in (described, undescribed)]
    merged = pd.concat([p for p in parts if len(p)] or parts[:1], ignore_index=True)
    return Telemetry(
        readings=reading_rows,
        cycles=cycle_rows,
        batteries=merged.sort_values("battery_id", ignore_index=True),
        rejected=rejected,
        rows_read=len(reading_rows) + len(cycle_rows) + len(rejected),
        notes=[*notes, *(note for p in [*readings, *cycles] for note in p.notes)],
    )


def _concatenated(frames: Sequence[pd.DataFrame], fields: Sequence[Field]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else empty_table(fields, PROVENANCE)
