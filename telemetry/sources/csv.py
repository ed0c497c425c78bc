"""Source for any CSV file or folder of CSV files of readings or cycles, read through a field map."""

from __future__ import annotations

from pathlib import Path

from telemetry.errors import TwinError
from telemetry.field_map import FieldMap
from telemetry.sources.base import ParsedFile, Source, Telemetry, collect
from telemetry.sources.raw import claim_id, csv_files, read_csv
from telemetry.sources.translate import translate


def read(path: Path, field_map: FieldMap | None) -> Telemetry:
    """Readings or cycles, according to the field map's table.

    The battery id comes from a column, from a constant or, without either, from the file name.  Files with the newest
    reading first are reversed, with a note.
    """
    if field_map is None:
        raise TwinError(
            "the source csv needs a field map for its columns; set source.field_map to a YAML field map"
            " (telemetry/field_map.py shows one) or to a shipped one, such as eviot",
            field="source.field_map",
        )
    optional = [column.source for column in field_map.columns if column.optional]
    files: list[ParsedFile] = []
    named_by_file: dict[str, str] = {}
    for file in csv_files(path):
        raw = read_csv(
            file, field_map.required_sources, also=optional, delimiter=field_map.delimiter, encoding=field_map.encoding
        )
        known: dict[str, object] = {}
        if field_map.source_of("battery_id") not in raw.cells and "battery_id" not in field_map.constants:
            known["battery_id"] = claim_id(named_by_file, file.stem, file.name)
        if field_map.table == "cycles":
            known["cycle_index"] = raw.cells.index.to_series().astype("float64")
        files.append(translate(raw, field_map, known))
    if field_map.table == "cycles":
        return collect(cycles=files)
    return collect(readings=[_oldest_first(file) for file in files])


def _oldest_first(parsed: ParsedFile) -> ParsedFile:
    """The file in reversed order if times mostly decrease within its batteries."""
    steps = parsed.kept.groupby("battery_id", sort=False)["time"].diff().dt.total_seconds()
    if (steps < 0).sum() <= (steps > 0).sum():
        return parsed
    ascending = parsed.kept.iloc[::-1].reset_index(drop=True)
    name = ascending["source_file"].iloc[0]
    return ParsedFile(
        ascending,
        parsed.rejected,
        [*parsed.notes, f"{name}: the newest reading comes first, so its rows were reversed"],
    )


SOURCE = Source(
    name="csv",
    description="readings or cycles in CSV files with any columns, by a field map",
    read=read,
)

EVIOT = Source(
    name="eviot",
    description="the Kaggle file EV_Predictive_Maintenance_Dataset_15min.csv, which the user has to download",
    read=read,
    field_map="eviot",
)
