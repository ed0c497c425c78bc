"""Source for on-road telemetry of cars in service (BatICM), read from zip archives or extracted CSV files.

Known faults of the files: temperature probes with an offset (their correct minimum and maximum are used instead), an
odometer that reads 0 and an empty charge status (missing values, counted in the notes), insulation in
MOhm in one car and kOhm in another, and a column `BMSCellVoltageM` that is described as the median cell
but follows the first one: it is one more cell (packs measure 89 and 88 cells with 88 and 87 columns `V_n`),
so the median is computed from `V_n`.  Sampling gaps are not filled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from telemetry.contract import BATTERY_FIELDS
from telemetry.errors import TwinError
from telemetry.field_map import FieldMap
from telemetry.sources.base import ParsedFile, Source, Telemetry, collect, complete, require_field_map
from telemetry.sources.raw import RawTable, damaged_zip, distinct_ids, read_csv_stream
from telemetry.sources.translate import translate

#: A pack below this is unsafe to touch (GB/T 18384, ISO 6469-3), so a year of driving with it is implausible.
SAFE_INSULATION_KOHM_PER_V = 0.1
#: Possible voltages of a lithium-ion cell; other values of `V_n` are transmission errors.
PLAUSIBLE_CELL_V = (1.0, 5.0)
_CELLS = tuple(f"V_{n}" for n in range(1, 401))


def read(path: Path, field_map: FieldMap | None) -> Telemetry:
    """Readings of every car; the file name without `_processed` is the battery id."""
    field_map = require_field_map(field_map, "readings")
    wanted = [*(column.source for column in field_map.columns if column.optional), *_CELLS]
    tables = [
        (
            stem,
            read_csv_stream(
                stream,
                name,
                field_map.required_sources,
                also=wanted,
                delimiter=field_map.delimiter,
                encoding=field_map.encoding,
            ),
        )
        for name, stem, stream in _streams(path)
    ]
    ids = distinct_ids([stem.removesuffix("_processed") for stem, _ in tables], [raw.name for _, raw in tables])
    files: list[ParsedFile] = []
    in_series: dict[str, float] = {}
    for battery_id, (_, raw) in zip(ids, tables, strict=True):
        cells = _cell_voltages(raw)
        known = {"battery_id": battery_id, "cell_voltage_median": cells.median(axis=1)}
        files.append(_insulation_in_kilo_ohm(translate(raw, field_map, known), battery_id))
        in_series[battery_id] = _cells_in_series(files[-1].kept, cells)
    capacity = SOURCE.battery_defaults["nominal_capacity_ah"]
    zone = next((c.zone for c in field_map.columns if c.target.name == "time"), None)
    return collect(
        readings=files,
        batteries=complete(
            pd.DataFrame({"battery_id": list(in_series), "cells_in_series": list(in_series.values())}), BATTERY_FIELDS
        ),
        notes=[
            f"the times have no time zone; {zone} is assumed",
            f"the files do not contain the capacity; {capacity:g} Ah is assumed where no batteries table gives it",
            *(
                f"{battery_id}: {count:.0f} cells in series, from pack voltage divided by mean cell voltage"
                for battery_id, count in in_series.items()
                if count == count
            ),
        ],
    )


def _streams(path: Path) -> Iterator[tuple[str, str, IO[bytes]]]:
    """(name for messages, stem, bytes) of every CSV in `path`, zipped or not, ordered by name."""
    for file in _files(path):
        if file.suffix.lower() == ".csv":
            with file.open("rb") as stream:
                yield file.name, file.stem, stream
            continue
        try:
            with zipfile.ZipFile(file) as archive:
                members = sorted(m for m in archive.namelist() if m.lower().endswith(".csv"))
                if not members:
                    raise TwinError(f"{file.name} holds no CSV; remove it", field="source.path", value=file.name)
                for member in members:
                    with archive.open(member) as stream:
                        yield f"{file.name}/{member}", Path(member).stem, stream
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise damaged_zip(file.name) from error


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in (".zip", ".csv")) if path.is_dir() else []
    if not files:
        raise TwinError(
            f"{path} holds no zip or CSV file; set source.path to the folder of the cars",
            field="source.path",
            value=str(path),
        )
    return files


def _cell_voltages(raw: RawTable) -> pd.DataFrame:
    """float64[rows, cells] of the columns `V_n`; implausible values are missing."""
    columns = [c for c in _CELLS if c in raw.cells]
    voltages = pd.DataFrame({c: pd.to_numeric(raw.cells[c], errors="coerce") for c in columns}, index=raw.cells.index)
    low, high = PLAUSIBLE_CELL_V
    return voltages.where((voltages > low) & (voltages < high))


def _cells_in_series(readings: pd.DataFrame, cells: pd.DataFrame) -> float:
    """NaN where the file has no cell voltages."""
    mean_cell = readings["source_row"].map(cells.mean(axis=1))
    return float(np.round((readings["voltage"] / mean_cell).median()))


def _insulation_in_kilo_ohm(parsed: ParsedFile, battery_id: str) -> ParsedFile:
    """`parsed` with insulation converted from MOhm to kOhm where its median would be unsafe in kOhm."""
    insulation = parsed.kept["insulation_resistance"]
    if not insulation.median() < SAFE_INSULATION_KOHM_PER_V * parsed.kept["voltage"].median():
        return parsed
    note = (
        f"{battery_id}: insulation resistance taken as MOhm, as {insulation.median():g} kOhm would be unsafe to touch"
    )
    kept = parsed.kept.assign(insulation_resistance=1e3 * insulation)
    return ParsedFile(kept, parsed.rejected, [*parsed.notes, note])


SOURCE = Source(
    name="ev_faults",
    description="on-road telemetry of cars in service, one zip or CSV file per car",
    read=read,
    field_map="ev_faults",
    # Charge divided by the change of SoC: 120.1 Ah (23 charges of car 3, standard deviation 2.0), 117.6 Ah
    # over its drives and 115.9 Ah over those of car 2.  The SoC refers to the present capacity, so 120 Ah is the
    # present capacity of such a pack and a lower bound of its nominal capacity.
    battery_defaults={"nominal_capacity_ah": 120.0},
)
