"""Source for the simulated fleet: two Parquet files in contract columns that the stage `simulate` writes."""

from __future__ import annotations

from pathlib import Path

from telemetry.contract import BATTERY_FIELDS, READING_FIELDS, READING_REQUIRED
from telemetry.errors import TwinError
from telemetry.field_map import FieldMap
from telemetry.sources.base import PROVENANCE, ParsedFile, Source, Telemetry, collect, complete, rejections
from telemetry.sources.parquet import contract_table

READINGS = "readings.parquet"
BATTERIES = "batteries.parquet"
_REMEDY = "run the stage simulate (`dvc repro simulate`)"


def read(path: Path, field_map: FieldMap | None) -> Telemetry:
    """Readings and batteries of the fleet.

    Raises:
        TwinError: a folder or file is absent or damaged, or a column has the wrong type.
    """
    if field_map is not None:
        raise TwinError(
            "the source fleet has contract columns already; leave source.field_map empty", field="source.field_map"
        )
    readings = contract_table(path / READINGS, READING_FIELDS, READING_REQUIRED, _REMEDY)
    batteries = contract_table(path / BATTERIES, BATTERY_FIELDS, ("battery_id",), _REMEDY)
    for name, table in ((READINGS, readings), (BATTERIES, batteries)):
        if table.empty:
            raise TwinError(
                f"{name} has no rows; simulate at least one battery", field="source.path", value=str(path / name)
            )
    readings[PROVENANCE[0]] = READINGS
    readings[PROVENANCE[1]] = range(1, len(readings) + 1)
    kept = complete(readings, READING_FIELDS, PROVENANCE)
    return collect(readings=[ParsedFile(kept, rejections())], batteries=batteries)


SOURCE = Source(
    name="fleet",
    description="the simulated fleet that the stage `simulate` writes",
    read=read,
)
