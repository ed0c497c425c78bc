"""Anybody's readings or cycles: a CSV file or a folder of them, and a field map that says what is what."""

from __future__ import annotations

from pathlib import Path

from telemetry.errors import TwinError
from telemetry.field_map import FieldMap
from telemetry.sources.base import Piece, Source, Telemetry, collect
from telemetry.sources.raw import battery_id_from, csv_files, read_csv
from telemetry.sources.translate import translate


def read(path: Path, field_map: FieldMap | None) -> Telemetry:
    """Readings or cycles, as the field map's table says.

    A battery is named by a column, by a constant or, without either, by its file.  Files that give
    the newest reading first are turned round, and a note says so.
    """
    if field_map is None:
        raise TwinError(
            "the source csv needs to know what the columns mean; set source.field_map to a YAML field map"
            " (telemetry/field_map.py shows one) or to one that ships, such as eviot",
            field="source.field_map",
        )
    optional = [column.source for column in field_map.columns if column.optional]
    pieces: list[Piece] = []
    for file in csv_files(path):
        raw = read_csv(
            file, field_map.required_sources, also=optional, delimiter=field_map.delimiter, encoding=field_map.encoding
        )
        known: dict[str, object] = {"battery_id": battery_id_from(file.stem)}
        if field_map.table == "cycles":
            known["cycle_index"] = raw.cells.index.to_series().astype("float64")
        pieces.append(translate(raw, field_map, known))
    if field_map.table == "cycles":
        return collect(cycles=pieces)
    return collect(readings=[_oldest_first(piece) for piece in pieces])


def _oldest_first(piece: Piece) -> Piece:
    """The piece turned round if most of its batteries' times run backwards."""
    steps = piece.kept.groupby("battery_id", sort=False)["time"].diff().dt.total_seconds()
    if (steps < 0).sum() <= (steps > 0).sum():
        return piece
    turned = piece.kept.iloc[::-1].reset_index(drop=True)
    name = turned["source_file"].iloc[0]
    return Piece(
        turned, piece.rejected, [*piece.notes, f"{name}: the newest reading comes first, so its rows were turned round"]
    )


SOURCE = Source(
    name="csv",
    description="anybody's readings or cycles, by a field map",
    read=read,
)

EVIOT = Source(
    name="eviot",
    description="the Kaggle file EV_Predictive_Maintenance_Dataset_15min.csv, which the user brings",
    read=read,
    field_map="eviot",
)
