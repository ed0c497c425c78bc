"""Source for the 18650 ageing data of the NASA Ames Prognostics Center of Excellence (Saha and Goebel).

`metadata.csv` lists every test of every cell with the capacity measured at each discharge;
`discharge/<cell>.csv` contains the telemetry of the discharges of some cells.  Discharge rows of the
metadata become cycles, telemetry rows become readings.  Charge and impedance rows of the metadata are neither:
they are counted in a note and not among the rows read.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from telemetry.contract import CYCLE_FIELDS
from telemetry.errors import TwinError
from telemetry.field_map import FieldMap
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
from telemetry.sources.raw import RawTable, csv_files, distinct_ids, read_csv
from telemetry.sources.translate import content, translate

NOMINAL_CAPACITY_AH = 2.0
#: Below this a discharge was aborted: the publisher's notes call such runs unexplained, and a cell
#: that lost nine tenths of its capacity would not deliver most of it again in the next cycle.
LEAST_CAPACITY_AH = 0.1 * NOMINAL_CAPACITY_AH

_METADATA = ("type", "start_time", "ambient_temperature", "battery_id", "Capacity")
_TEST = "cycle_idx"


def read(path: Path, field_map: FieldMap | None) -> Telemetry:
    """Readings of the discharges and one cycle for each measured capacity.

    `cycle_index` and `charge_cycles` number the discharge tests of a cell from 1; a test whose capacity
    is rejected keeps its number.  Start times have no zone and are taken as UTC: only differences matter.
    """
    field_map = require_field_map(field_map, "readings")
    metadata = read_csv(path / "metadata.csv", _METADATA)
    tests = _discharge_tests(metadata)
    readings = _readings(path / "discharge", field_map, tests)
    other = metadata.cells["type"].value_counts()
    ignored = ", ".join(f"{n} {kind}" for kind, n in sorted(other.items()) if kind != "discharge")
    return collect(
        readings=readings,
        cycles=[_cycles(tests, metadata)],
        notes=[
            f"metadata.csv: {ignored or 'no other'} tests are neither readings nor cycles, so not counted",
            "start times have no time zone and are taken as UTC",
            "the discharge cut-off voltage differs between cells, so capacities are comparable only within a cell",
        ],
    )


def _discharge_tests(metadata: RawTable) -> pd.DataFrame:
    """The discharge rows of the metadata with `ordinal` (from 1 in each cell) and `start` (NaT where invalid)."""
    tests = metadata.cells[metadata.cells["type"].str.strip() == "discharge"].copy()
    if tests.empty:
        raise TwinError("metadata.csv lists no discharge; is it the metadata of the NASA cells?", field="type")
    tests["battery_id"] = tests["battery_id"].str.strip()
    tests["ordinal"] = tests.groupby("battery_id").cumcount() + 1
    parts = tests["start_time"].str.strip(" []").str.split(expand=True).reindex(columns=range(6))
    numbers = parts.apply(pd.to_numeric, errors="coerce")
    numbers.columns = pd.Index(["year", "month", "day", "hour", "minute", "second"])
    whole = numbers.assign(second=0.0)
    start = pd.to_datetime(whole, errors="coerce", utc=True) + pd.to_timedelta(numbers["second"], unit="s")
    tests["start"] = start.astype("datetime64[us, UTC]")
    return tests


def _cycles(tests: pd.DataFrame, metadata: RawTable) -> ParsedFile:
    capacity = pd.to_numeric(tests["Capacity"], errors="coerce")
    reasons = pd.Series("", index=tests.index, dtype="str")
    reasons[capacity < LEAST_CAPACITY_AH] = (
        f"capacity below {LEAST_CAPACITY_AH:g} Ah, a tenth of nominal: the discharge was aborted"
    )
    reasons[capacity == 0.0] = "capacity is 0"
    reasons[capacity.isna()] = "capacity is not a number"
    bad = reasons != ""
    rejected = rejections(
        [
            (
                "cycles",
                metadata.name,
                row,
                "capacity_ah",
                tests["Capacity"][row][:100],
                reasons[row],
                content(metadata, row),
            )
            for row in tests.index[bad]
        ]
        + [
            ("cycles", metadata.name, row, "", "", why, content(metadata, row))
            for row, why in metadata.malformed.items()
        ]
    )
    good = tests[~bad]
    kept = pd.DataFrame(
        {
            "battery_id": good["battery_id"],
            "cycle_index": good["ordinal"].astype("float64"),
            "kind": "discharge",
            "start_time": good["start"],
            "capacity_ah": capacity[~bad],
            "capacity_method": "measured",
            PROVENANCE[0]: metadata.name,
            PROVENANCE[1]: good.index,
        }
    )
    return ParsedFile(complete(kept, CYCLE_FIELDS, PROVENANCE), rejected)


def _readings(folder: Path, field_map: FieldMap, tests: pd.DataFrame) -> list[ParsedFile]:
    files = csv_files(folder)
    parsed = []
    time_source = field_map.source_of("time")
    for file, battery_id in zip(files, distinct_ids([f.stem for f in files], [f.name for f in files]), strict=True):
        raw = read_csv(
            file, [*field_map.required_sources, _TEST], delimiter=field_map.delimiter, encoding=field_map.encoding
        )
        of_cell = tests[tests["battery_id"] == battery_id].set_index("ordinal")
        if of_cell.empty:
            raise TwinError(
                f"{file.name}: metadata.csv lists no discharge of {battery_id}; add it or remove the file",
                field="battery_id",
            )
        absolute, ambient = _from_test(raw, of_cell, str(time_source))
        dated = replace(raw, cells=raw.cells.assign(**{str(time_source): absolute}))
        parsed.append(translate(dated, field_map, {"battery_id": battery_id, "ambient_temperature": ambient}))
    return parsed


def _from_test(raw: RawTable, of_cell: pd.DataFrame, time_source: str) -> tuple[pd.Series, pd.Series]:
    """Unix seconds as text, and the ambient temperature, of each row, from the test that it belongs to.

    Where the time cannot be computed, the text names test and seconds; the row is rejected with it as its value.
    """
    ordinal = pd.to_numeric(raw.cells[_TEST], errors="coerce")
    elapsed = pd.to_numeric(raw.cells[time_source], errors="coerce")
    start = ordinal.map(of_cell["start"].dt.as_unit("us").astype("int64").where(of_cell["start"].notna()) / 1e6)
    seconds = start + elapsed
    text = seconds.map("{:.6f}".format).where(
        seconds.notna(), "test " + raw.cells[_TEST] + " + " + raw.cells[time_source] + " s"
    )
    ambient = ordinal.map(pd.to_numeric(of_cell["ambient_temperature"], errors="coerce"))
    return text, ambient.astype("float64")


SOURCE = Source(
    name="nasa_pcoe",
    description="18650 cells of NASA Ames: discharge telemetry and measured capacities",
    read=read,
    field_map="nasa_pcoe",
    # The publisher states the rated capacity, not the chemistry.
    battery_defaults={"nominal_capacity_ah": NOMINAL_CAPACITY_AH, "cells_in_series": 1.0},
    # The publisher's end of life: 30 % fade in rated capacity.
    target_defaults={"eol_fraction": 0.7},
)
