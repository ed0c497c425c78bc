"""Source for laboratory cells published as one row of charging-curve statistics per cycle.

Layout of Wang et al. 2024 (PINN4SOH): MATR (Severson et al. 2019) and, with other nominal capacities, HUST,
XJTU and TJU.  One CSV file per cell, rows in cycle order.
"""

from __future__ import annotations

from pathlib import Path

from telemetry.field_map import FieldMap
from telemetry.sources.base import ParsedFile, Source, Telemetry, collect, require_field_map
from telemetry.sources.raw import csv_files, distinct_ids, read_csv
from telemetry.sources.translate import translate


def read(path: Path, field_map: FieldMap | None) -> Telemetry:
    """Cycles of every cell; `cycle_index` is the row number, since the first row of a file is cycle 1."""
    field_map = require_field_map(field_map, "cycles")
    files = csv_files(path)
    parsed: list[ParsedFile] = []
    optional = [column.source for column in field_map.columns if column.optional]
    for file, battery_id in zip(files, distinct_ids([f.stem for f in files], [f.name for f in files]), strict=True):
        raw = read_csv(
            file, field_map.required_sources, also=optional, delimiter=field_map.delimiter, encoding=field_map.encoding
        )
        ordinal = raw.cells.index.to_series().astype("float64")
        parsed.append(translate(raw, field_map, {"battery_id": battery_id, "cycle_index": ordinal}))
    return collect(
        cycles=parsed,
        notes=["the row number is taken as the cycle number, although the publisher left out a few cycles"],
    )


SOURCE = Source(
    name="matr",
    description="laboratory cells, one CSV file per cell with a row of charging statistics per cycle",
    read=read,
    field_map="matr",
    # A123 APR18650M1A, as Severson et al. 2019 cycled it.
    battery_defaults={"nominal_capacity_ah": 1.1, "chemistry": "LFP", "cells_in_series": 1.0},
    # The published files stop above 80 % of nominal capacity.
    target_defaults={"eol_fraction": 0.85},
)
