"""Source for the telemetry store, read from a snapshot: cycles for health and life, readings for temperature.

A live query would not be reproducible, so `make repro SOURCE=timescale` first takes a snapshot
(`telemetry.stores.snapshot`), which this module reads.  The database is set by TWIN_TELEMETRY_DSN only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from telemetry.contract import (
    BATTERY_EVENT_FIELDS,
    BATTERY_FIELDS,
    CYCLE_FIELDS,
    CYCLE_REQUIRED,
    READING_FIELDS,
    READING_REQUIRED,
    Field,
)
from telemetry.errors import TwinError
from telemetry.field_map import FieldMap, TableName
from telemetry.settings import Settings
from telemetry.sources.base import (
    PROVENANCE,
    ParsedFile,
    Source,
    Telemetry,
    collect,
    complete,
    rejections,
    require_field_map,
)
from telemetry.sources.battery_events import apply_events
from telemetry.sources.parquet import contract_table
from telemetry.sources.raw import RawTable
from telemetry.sources.translate import translate
from telemetry.stores import snapshot

#: Folder of the snapshots; a run on one of them is reproducible as long as it exists.
FOLDER = Path("data/raw/timescale")
_REMEDY = "take a new snapshot (`python -m training.snapshot`)"


def read(path: Path, field_map: FieldMap | None) -> Telemetry:
    """The tables of a snapshot; with a field map, the external table in place of the contract's.

    Raises:
        TwinError: the folder is not a snapshot or was changed since it was taken.
    """
    manifest = _manifest(path)
    tables: dict[TableName, list[ParsedFile]] = {
        "readings": [_contract_rows(path / snapshot.READINGS, READING_FIELDS, READING_REQUIRED)],
        "cycles": [_contract_rows(path / snapshot.CYCLES, CYCLE_FIELDS, CYCLE_REQUIRED)],
    }
    if manifest[snapshot.EXTERNAL_KEY] is not None:
        table: TableName = manifest[snapshot.EXTERNAL_KEY]["table"]
        tables[table] = [_external_rows(path / snapshot.EXTERNAL, require_field_map(field_map, table))]
    elif field_map is not None:
        raise TwinError(
            "the snapshot was taken without a field map; leave source.field_map empty, or take it with one",
            field="source.field_map",
        )
    batteries = contract_table(path / snapshot.BATTERIES, BATTERY_FIELDS, ("battery_id",), _REMEDY)
    return _with_events(
        collect(readings=tables["readings"], cycles=tables["cycles"], batteries=batteries, notes=_notes(manifest)), path
    )


def _with_events(telemetry: Telemetry, path: Path) -> Telemetry:
    """`telemetry` with the events of its batteries; a snapshot of an earlier version has none."""
    if not (path / snapshot.EVENTS).is_file():
        return telemetry
    events = contract_table(path / snapshot.EVENTS, BATTERY_EVENT_FIELDS, ("battery_id", "time", "event"), _REMEDY)
    made = apply_events(telemetry.readings, telemetry.cycles, telemetry.batteries, events)
    added = len(made.cycles) - len(telemetry.cycles)
    return replace(
        telemetry,
        readings=made.readings,
        cycles=made.cycles,
        batteries=made.batteries.sort_values("battery_id", ignore_index=True),
        rows_read=telemetry.rows_read + added,
        notes=[*telemetry.notes, *made.notes],
    )


def take_snapshot(settings: Settings, params: snapshot.SnapshotParams, field_map: FieldMap | None = None) -> Path:
    """Take a snapshot of the store of `settings` and return its folder.

    Raises:
        TwinError: no store is configured, or it cannot be read.
    """
    if settings.telemetry_dsn is None:
        raise TwinError(
            "the source timescale reads the telemetry store; set TWIN_TELEMETRY_DSN, or use an earlier snapshot with "
            "DATA=path",
            field="telemetry_dsn",
        )
    return snapshot.take_snapshot(
        settings.telemetry_dsn.get_secret_value(), FOLDER, params, until=settings.time_limit(), field_map=field_map
    )


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((path / snapshot.MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TwinError(
            f"{path} is not a snapshot of the telemetry store (its {snapshot.MANIFEST} cannot be read); {_REMEDY}",
            field="source.path",
            value=str(path),
        ) from error
    for name, digest in manifest["sha256"].items():
        if not (path / name).is_file() or snapshot.file_sha256(path / name) != digest:
            raise TwinError(
                f"{name} has changed since the snapshot was taken; {_REMEDY}", field="source.path", value=name
            )
    return manifest


def _contract_rows(path: Path, fields: tuple[Field, ...], required: Sequence[str]) -> ParsedFile:
    table = contract_table(path, fields, tuple(required), _REMEDY)
    table[PROVENANCE[0]] = path.name
    table[PROVENANCE[1]] = range(1, len(table) + 1)
    return ParsedFile(complete(table, fields, PROVENANCE), rejections())


def _external_rows(path: Path, field_map: FieldMap) -> ParsedFile:
    cells = pq.read_table(path).to_pandas().astype("str").fillna("")
    cells.index = pd.RangeIndex(1, len(cells) + 1)
    known = {"cycle_index": cells.index.to_series().astype("float64")} if field_map.table == "cycles" else {}
    return translate(RawTable(path.name, cells, {}, tuple(cells.columns)), field_map, known)


def _notes(manifest: dict[str, Any]) -> list[str]:
    readings = manifest["readings"]
    if not readings["rows"]:
        return []
    return [
        f"readings from {readings['from']} to {readings['until']}: the last {readings['days']} days of each battery,"
        f" at most one reading per {readings['every_s']} s"
    ]


SOURCE = Source(
    name="timescale",
    description="the telemetry store: its cycles, and the readings of the last days",
    read=read,
    take_snapshot=take_snapshot,
)
