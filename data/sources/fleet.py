"""The simulated fleet: two parquet files that the `simulate` stage wrote, already in contract columns."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from data.contract import BATTERY_FIELDS, READING_FIELDS, READING_REQUIRED, Field
from data.errors import TwinError
from data.field_map import FieldMap
from data.sources.base import PROVENANCE, Piece, Source, Telemetry, collect, complete, rejections

READINGS = "readings.parquet"
BATTERIES = "batteries.parquet"


def read(path: Path, field_map: FieldMap | None) -> Telemetry:
    """Readings and batteries of the fleet.

    Raises:
        TwinError: for a folder or file that is absent or damaged, or a column of the wrong type.
    """
    if field_map is not None:
        raise TwinError(
            "the source fleet is in contract columns already; leave source.field_map empty", field="source.field_map"
        )
    readings = _table(path / READINGS, READING_FIELDS, READING_REQUIRED)
    batteries = _table(path / BATTERIES, BATTERY_FIELDS, ("battery_id",))
    readings[PROVENANCE[0]] = READINGS
    readings[PROVENANCE[1]] = range(1, len(readings) + 1)
    kept = complete(readings, READING_FIELDS, PROVENANCE)
    return collect(readings=[Piece(kept, rejections())], batteries=batteries)


def _table(path: Path, fields: tuple[Field, ...], required: tuple[str, ...]) -> pd.DataFrame:
    if not path.is_file():
        raise TwinError(
            f"{path} does not exist; run the stage simulate first (`dvc repro simulate`)",
            field="source.path",
            value=str(path),
        )
    try:
        table = pd.read_parquet(path)
    except (pa.ArrowException, OSError) as error:
        raise TwinError(
            f"{path.name} is not a readable parquet file; run the stage simulate again",
            field="source.path",
            value=str(path),
        ) from error
    absent = [name for name in required if name not in table]
    if absent:
        raise TwinError(
            f"{path.name} lacks the column {absent[0]}; run the stage simulate again", field=absent[0], value=str(path)
        )
    if table.empty:
        raise TwinError(f"{path.name} has no rows; simulate at least one battery", field="source.path", value=str(path))
    for field in fields:
        try:
            complete(table[[field.name]] if field.name in table else table[[]], (field,))
        except (ValueError, TypeError) as error:
            raise TwinError(
                f"{path.name}: column {field.name} is not of kind {field.kind}; run the stage simulate again",
                field=field.name,
            ) from error
    return table


SOURCE = Source(
    name="fleet",
    description="the simulated fleet that the stage `simulate` wrote",
    read=read,
)
