"""The telemetry store: a snapshot of what was lived, `battery_cycles` for health and life, readings for temperature.

A live query is no file that a run could be repeated on, so `make repro SOURCE=timescale` first takes a snapshot
(`telemetry.stores.snapshot`), and this reads it.  The database is named by TWIN_TELEMETRY_DSN alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from telemetry.contract import BATTERY_FIELDS, CYCLE_FIELDS, CYCLE_REQUIRED, READING_FIELDS, READING_REQUIRED, Field
from telemetry.errors import TwinError
from telemetry.field_map import FieldMap, TableName
from telemetry.settings import Settings
from telemetry.sources.base import PROVENANCE, Piece, Source, Telemetry, collect, complete, mapped, rejections
from telemetry.sources.raw import RawTable
from telemetry.sources.tables import contract_table
from telemetry.sources.translate import translate
from telemetry.stores import snapshot

#: Where snapshots are kept; each run on one of them can be repeated as long as it is there.
FOLDER = Path("data/raw/timescale")
_REMEDY = "take a new snapshot (`python -m training.snapshot`)"


def read(path: Path, field_map: FieldMap | None) -> Telemetry:
    """What a snapshot holds; with a field map, the site's own table in place of ours.

    Raises:
        TwinError: for a folder that is no snapshot or was changed since it was taken.
    """
    manifest = _manifest(path)
    pieces: dict[TableName, list[Piece]] = {
        "readings": [_ours(path / snapshot.READINGS, READING_FIELDS, READING_REQUIRED)],
        "cycles": [_ours(path / snapshot.CYCLES, CYCLE_FIELDS, CYCLE_REQUIRED)],
    }
    if manifest["theirs"] is not None:
        table: TableName = manifest["theirs"]["table"]
        pieces[table] = [_theirs(path / snapshot.THEIRS, mapped(field_map, table))]
    elif field_map is not None:
        raise TwinError(
            "the snapshot was taken without a field map; leave source.field_map empty, or take it with one",
            field="source.field_map",
        )
    return collect(
        readings=pieces["readings"],
        cycles=pieces["cycles"],
        batteries=contract_table(path / snapshot.BATTERIES, BATTERY_FIELDS, ("battery_id",), _REMEDY),
        notes=_notes(manifest),
    )


def take(settings: Settings, params: snapshot.SnapshotParams, field_map: FieldMap | None = None) -> Path:
    """Take a snapshot of the store that `settings` name; its folder.

    Raises:
        TwinError: no store is named, or it cannot be read.
    """
    if settings.telemetry_dsn is None:
        raise TwinError(
            "the source timescale reads the telemetry store; name it in TWIN_TELEMETRY_DSN, or an earlier snapshot "
            "with DATA=path",
            field="telemetry_dsn",
        )
    return snapshot.take_snapshot(settings.telemetry_dsn.get_secret_value(), FOLDER, params, field_map=field_map)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((path / snapshot.MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TwinError(
            f"{path} is no snapshot of the telemetry store (its {snapshot.MANIFEST} cannot be read); {_REMEDY}",
            field="source.path",
            value=str(path),
        ) from error
    for name, digest in manifest["sha256"].items():
        if not (path / name).is_file() or snapshot.file_sha256(path / name) != digest:
            raise TwinError(
                f"{name} is not as it was when the snapshot was taken; {_REMEDY}", field="source.path", value=name
            )
    return manifest


def _ours(path: Path, fields: tuple[Field, ...], required: Sequence[str]) -> Piece:
    table = contract_table(path, fields, tuple(required), _REMEDY)
    table[PROVENANCE[0]] = path.name
    table[PROVENANCE[1]] = range(1, len(table) + 1)
    return Piece(complete(table, fields, PROVENANCE), rejections())


def _theirs(path: Path, field_map: FieldMap) -> Piece:
    cells = pq.read_table(path).to_pandas().astype("str").fillna("")
    cells.index = pd.RangeIndex(1, len(cells) + 1)
    known = {"cycle_index": cells.index.to_series().astype("float64")} if field_map.table == "cycles" else {}
    return translate(RawTable(path.name, cells, {}, tuple(cells.columns)), field_map, known)


def _notes(manifest: dict[str, Any]) -> list[str]:
    readings = manifest["readings"]
    if not readings["rows"]:
        return []
    return [
        f"readings from {readings['from']} to {readings['until']}: each battery's last {readings['days']} days, one in "
        f"{readings['every_s']} s at most"
    ]


SOURCE = Source(
    name="timescale",
    description="the telemetry store: its cycles, and the readings of the last days",
    read=read,
    take=take,
)
