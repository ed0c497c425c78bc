"""Source for simulated fleets: the two Parquet files of the stage `simulate`, or the parts of `simulator.fleet`."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from telemetry.contract import BATTERY_FIELDS, CYCLE_FIELDS, CYCLE_REQUIRED, READING_FIELDS, READING_REQUIRED, Field
from telemetry.errors import TwinError
from telemetry.field_map import FieldMap
from telemetry.fleet_layout import BATTERIES, CYCLES, LAYOUT, MANIFEST, READINGS, part_file
from telemetry.sources.base import PROVENANCE, ParsedFile, Source, Telemetry, collect, complete, rejections
from telemetry.sources.parquet import contract_table

_REMEDY = "run the stage simulate (`dvc repro simulate`)"
_CONTINUE = (
    "run the `python -m simulator.fleet` command that wrote this fleet once more; it adds the parts that are absent"
)
_FIELDS: dict[str, tuple[tuple[Field, ...], tuple[str, ...]]] = {
    READINGS: (READING_FIELDS, READING_REQUIRED),
    CYCLES: (CYCLE_FIELDS, CYCLE_REQUIRED),
    BATTERIES: (BATTERY_FIELDS, ("battery_id",)),
}


def read(path: Path, field_map: FieldMap | None) -> Telemetry:
    """Readings, cycles and batteries of the fleet, in the layout of one file for each table or of parts.

    Cycles are those of whole lives or absent, so that no session is counted from both cycles and readings (see
    `features.table`).

    Raises:
        TwinError: a folder or file is absent or damaged, or a column has the wrong type.
    """
    if field_map is not None:
        raise TwinError(
            "the source fleet has contract columns already; leave source.field_map empty", field="source.field_map"
        )
    if (path / MANIFEST).exists():
        return _read_parts(path)
    if (path / READINGS).is_dir():
        raise TwinError(
            f"{path / MANIFEST} does not exist, so that the parts in {READINGS}/ may be incomplete; {_CONTINUE}",
            field="source.path",
            value=str(path),
        )
    readings, batteries = (_rows(path, table, f"{table}.parquet", _REMEDY) for table in (READINGS, BATTERIES))
    _require_rows(path, {f"{READINGS}.parquet": len(readings), f"{BATTERIES}.parquet": len(batteries)})
    return collect(readings=[_parsed(readings, READINGS)], batteries=batteries.drop(columns=list(PROVENANCE)))


def _read_parts(path: Path) -> Telemetry:
    parts = _number_of_parts(path / MANIFEST)
    files = {table: [part_file(table, part) for part in range(parts)] for table in _FIELDS}
    missing = [name for names in files.values() for name in names if not (path / name).is_file()]
    if missing:
        raise TwinError(
            f"{path} is incomplete: {missing[0]} and {len(missing) - 1} other files of {len(_FIELDS) * parts} are "
            f"missing; {_CONTINUE}",
            field="source.path",
            value=str(path / missing[0]),
        )
    remedy = f"delete this file and {_CONTINUE}"
    frames = {table: [_rows(path, table, name, remedy) for name in names] for table, names in files.items()}
    _require_rows(path, {table: sum(map(len, frames[table])) for table in (READINGS, BATTERIES)})
    batteries = [frame.drop(columns=list(PROVENANCE)) for frame in frames[BATTERIES]]
    return collect(
        readings=[_parsed(frame, READINGS) for frame in frames[READINGS]],
        cycles=[_parsed(frame, CYCLES) for frame in frames[CYCLES]],
        batteries=pd.concat(batteries, ignore_index=True),
    )


def _number_of_parts(manifest: Path) -> int:
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        layout, parts = content["layout"], int(content["parts"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TwinError(
            f"{manifest} is no manifest of a simulated fleet; delete the folder and simulate the fleet again",
            field="source.path",
            value=str(manifest),
        ) from error
    if layout != LAYOUT:
        raise TwinError(
            f"{manifest} has the layout {layout}, but this version reads {LAYOUT}; simulate the fleet again",
            field="layout",
            value=layout,
        )
    return parts


def _rows(path: Path, table: str, name: str, remedy: str) -> pd.DataFrame:
    """A file of a table, with the provenance of its rows."""
    rows = contract_table(path / name, *_FIELDS[table], remedy, name)
    rows[PROVENANCE[0]] = name
    rows[PROVENANCE[1]] = range(1, len(rows) + 1)
    return rows


def _parsed(rows: pd.DataFrame, table: str) -> ParsedFile:
    return ParsedFile(complete(rows, _FIELDS[table][0], PROVENANCE), rejections())


def _require_rows(path: Path, rows: dict[str, int]) -> None:
    for name, count in rows.items():
        if not count:
            raise TwinError(
                f"{name} has no rows; simulate at least one battery, for a longer time",
                field="source.path",
                value=str(path / name),
            )


SOURCE = Source(
    name="fleet",
    description="the simulated fleet that the stage `simulate` writes, or one of `python -m simulator.fleet`",
    read=read,
)
