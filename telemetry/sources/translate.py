"""Converts a text table to contract columns by a field map; rows that cannot be parsed are rejected with a reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from telemetry.contract import BATTERY_ID
from telemetry.errors import TwinError
from telemetry.field_map import TABLES, ColumnMap, FieldMap, code
from telemetry.sources.base import PROVENANCE, ParsedFile, complete, rejections
from telemetry.sources.local_time import to_utc
from telemetry.sources.raw import RawTable

#: Texts that mean 'missing', compared without case.
_EMPTY = frozenset({"", "nan", "null", "none", "na", "n/a", "-", "[]"})
_NO_NUMBER = "not a number"
#: A number with a decimal comma or thousands separators.
_NUMBER_LIKE = r"[+-]?[\d.,]*\d[\d.,]*(?:[eE][+-]?\d+)?"
_DECIMAL_COMMA = r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?"
_SWAPPED = str.maketrans(",.", ".,")
#: Of a rejection because a clock change skips or repeats the local time, which is a time nevertheless.
CLOCK_CHANGE = r"whose clock skips it|a time that the clock of \S+ repeats"
_HAS_ZONE = r"(?:Z|z|[+-]\d{2}:?\d{2})$"


def translate(
    raw: RawTable,
    field_map: FieldMap,
    constants: Mapping[str, object] | None = None,
    *,
    requires_zone: bool = True,
    order: pd.Series | None = None,
    not_after: datetime | None = None,
) -> ParsedFile:
    """Convert the text cells of `raw` by the field map.

    An empty cell becomes a missing value; one that cannot be parsed (text in a number, an impossible date, an unknown
    code) rejects its row.  Ranges are checked by `validate`.

    Args:
        constants: values from the source, e.g. the battery id from the file name; the field map takes precedence.
            A value may be one for all rows or a Series with the index of raw.cells.
        requires_zone: whether times without a zone, if no time has one, are an error of the field map; else their rows
            are rejected.
        order, not_after: of the rows, as in `telemetry.sources.local_time.to_utc`.
    """
    cells = raw.cells
    rows = _Rows(_batteries(cells, field_map), order, not_after, requires_zone)
    columns: dict[str, pd.Series] = {}
    malformed = pd.Series(raw.malformed, dtype="str")
    problems: list[pd.DataFrame] = [_problem(raw, malformed.mask(malformed.notna(), ""), "", malformed)]
    notes: list[str] = []
    for column in field_map.columns:
        if column.source not in cells:
            continue
        stripped = cells[column.source].str.strip()
        text = _with_decimal_point(stripped) if field_map.decimal == "," and _is_numeric(column) else stripped
        missing = text.str.lower().isin(_EMPTY)
        if column.missing:
            missing_code = _codes(text).isin(column.missing) & ~missing
            if missing_code.any():
                notes.append(
                    f"{raw.name}: {column.source} is {text[missing_code].iloc[0]} in {int(missing_code.sum())} rows,"
                    " which means missing; the rows are kept"
                )
            missing |= missing_code
        elif missing.any() and not column.target.required:
            notes.append(f"{raw.name}: {column.source} is empty in {int(missing.sum())} rows; the rows are kept")
        values, reason = _parse(text.mask(missing), column, raw.name, rows, notes)
        invalid = values.isna() & ~missing & ~_means_missing(text, column)
        problems.append(
            _problem(raw, stripped[invalid], column.target.name, _reasons(text[invalid], reason, field_map))
        )
        columns[column.target.name] = values
    for name, value in {**(constants or {}), **field_map.constants}.items():
        if name not in columns:
            columns[name] = pd.Series(value, index=cells.index) if not isinstance(value, pd.Series) else value
    rejected = _merge_problems(pd.concat(problems, ignore_index=True), field_map.table)
    rejected["content"] = pd.Series(contents(raw, rejected["row"]), dtype="str")
    kept = pd.DataFrame(columns, index=cells.index)
    kept = kept[~kept.index.isin(rejected["row"])]
    kept = kept.assign(source_file=raw.name, source_row=kept.index)
    return ParsedFile(complete(kept, TABLES[field_map.table], PROVENANCE), rejected, notes)


@dataclass(frozen=True)
class _Rows:
    """What is known of the rows of a table besides their cells, see `translate` and `to_utc`."""

    batteries: pd.Series
    order: pd.Series | None
    not_after: datetime | None
    requires_zone: bool


def _batteries(cells: pd.DataFrame, field_map: FieldMap) -> pd.Series:
    """What names the battery of each row in the source; one text if that is not a column."""
    column = field_map.source_of("battery_id")
    return cells[column] if column in cells else pd.Series("", index=cells.index)


def content(raw: RawTable, row: int) -> str:
    """`contents` of one row."""
    return contents(raw, pd.Series([row]))[0]


def contents(raw: RawTable, rows: pd.Series) -> list[str]:
    """JSON of the unchanged cells of each of `rows`: by column, or a list for malformed rows."""
    well_formed = rows[~rows.isin(raw.malformed_cells)]
    by_column = raw.cells.loc[well_formed].to_dict("records")
    cells = {**dict(zip(well_formed, by_column, strict=True)), **raw.malformed_cells}
    return [json.dumps(cells[row], ensure_ascii=False, default=str) for row in rows]


def _is_numeric(column: ColumnMap) -> bool:
    if column.target.kind == "time":
        return column.time_format in ("unix_s", "unix_ms")
    return column.target.kind != "text"


def _with_decimal_point(text: pd.Series) -> pd.Series:
    """Numbers with a decimal comma converted to a decimal point; one with a point, as in 1.234, becomes invalid."""
    numbers = text.str.fullmatch(_NUMBER_LIKE)
    return text.mask(numbers, text.str.translate(_SWAPPED))


def _reasons(text: pd.Series, reason: str | pd.Series, field_map: FieldMap) -> pd.Series:
    """`reason` for each invalid cell, with a hint where a decimal comma is the cause."""
    if isinstance(reason, pd.Series):
        return reason[text.index]
    reasons = pd.Series(reason, index=text.index, dtype="str")
    if reason != _NO_NUMBER or field_map.decimal == ",":
        return reasons
    return reasons.mask(text.str.fullmatch(_DECIMAL_COMMA), f'{reason}; set `decimal: ","` in the field map')


def _parse(
    text: pd.Series, column: ColumnMap, name: str, rows: _Rows, notes: list[str]
) -> tuple[pd.Series, str | pd.Series]:
    """Values of the contract's type, missing where the text is invalid, and the reason for these, also by row."""
    kind = column.target.kind
    if column.values is not None:
        known: dict[str, object] = dict(column.values)
        return _typed(_codes(text).map(known), kind), f"not one of the codes {', '.join(known)}"
    if kind == "time":
        return _times(text, column, name, rows, notes)
    if kind == "float":
        numbers = pd.to_numeric(text, errors="coerce").astype("float64")
        numbers = numbers.where(np.isfinite(numbers))
        return column.factor * numbers + column.offset, _NO_NUMBER
    if kind == "bool":
        flags = text.str.lower().map(
            {"1": 1.0, "1.0": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0, "no": 0.0}
        )
        return flags.astype("float64"), "neither true nor false"
    if column.target.name == "battery_id":
        return text.where(text.str.match(BATTERY_ID)), "not 1 to 50 characters of A-Z a-z 0-9 _ . -"
    return text, "not a string"


def _typed(values: pd.Series, kind: str) -> pd.Series:
    return values.astype("str" if kind == "text" else "float64")


def _means_missing(text: pd.Series, column: ColumnMap) -> pd.Series:
    """Rows whose code is mapped to 'missing'."""
    codes = [source_code for source_code, value in (column.values or {}).items() if value is None]
    return _codes(text).isin(codes) if codes else pd.Series(False, index=text.index)


def _codes(text: pd.Series) -> pd.Series:
    return text.map({value: code(value) for value in text.dropna().unique()})


def _times(
    text: pd.Series, column: ColumnMap, name: str, rows: _Rows, notes: list[str]
) -> tuple[pd.Series, str | pd.Series]:
    layout = column.time_format
    if layout in ("unix_s", "unix_ms"):
        numbers = pd.to_numeric(text, errors="coerce").astype("float64") * (1e6 if layout == "unix_s" else 1e3)
        # Microseconds as integers are exact; times outside the years 1970 to 2200 are invalid.
        numbers = numbers.where((numbers >= 0.0) & (numbers < 7.3e15)).round()
        return pd.to_datetime(numbers, unit="us", utc=True).astype("datetime64[us, UTC]"), "not a Unix time"
    iso = layout == "iso"
    zoned = text.str.contains(_HAS_ZONE, regex=True, na=False) if iso else pd.Series("%z" in layout, index=text.index)
    reason = "not a time" if iso else f"not a time of the form {layout}"
    pandas_format = "ISO8601" if iso else layout
    if column.zone is None:
        reason += " with a time zone"
        unzoned = text.mask(zoned).dropna()
        is_time = pd.to_datetime(unzoned, format=pandas_format, errors="coerce", utc=True).notna()
        if rows.requires_zone and not zoned.any() and is_time.any():
            raise TwinError(
                f"{name}: times in {column.source} have no time zone (e.g. {unzoned[is_time].iloc[0]});"
                f" add `zone: UTC`, or their zone, to {column.source} in the field map",
                field=column.source,
            )
    aware = pd.to_datetime(text.where(zoned), format=pandas_format, errors="coerce", utc=True)
    result = aware.astype("datetime64[us, UTC]")
    if column.zone is None:
        return result, reason
    naive = pd.to_datetime(text.mask(zoned), format=pandas_format, errors="coerce")
    local = to_utc(naive, column.zone, rows.batteries, rows.order, rows.not_after)
    reasons = pd.Series(reason, index=text.index, dtype="str")
    reasons = reasons.mask(local.skipped, f"not a time in {column.zone}, whose clock skips it")
    reasons = reasons.mask(
        local.repeated,
        f"a time that the clock of {column.zone} repeats, and the order of the rows does not show which of the two it"
        " is; a column in UTC has no such hour",
    )
    if local.repeated.any():
        unknown = int((local.repeated & local.utc.isna()).sum())
        notes.append(
            f"{name}: {int(local.repeated.sum())} times of {column.source} are in the hour that the clock of"
            f" {column.zone} repeats; the order of the rows showed which of the two for all but {unknown}"
        )
    return result.fillna(local.utc), reasons


def _problem(raw: RawTable, values: pd.Series, field: str, reasons: pd.Series) -> pd.DataFrame:
    """Rejections of the rows of `values`, with the reasons at the same index."""
    return pd.DataFrame(
        {
            "source_file": raw.name,
            "row": values.index.astype("int64"),
            "field": field,
            "value": values.to_numpy(),
            "reason": reasons.to_numpy(),
        }
    )


def _merge_problems(problems: pd.DataFrame, table: str) -> pd.DataFrame:
    """One rejection for each row: the first field at fault and every reason."""
    if problems.empty:
        return rejections()
    problems["value"] = problems["value"].astype("str").str.slice(0, 100)
    named = np.where(problems["field"] == "", problems["reason"], problems["field"] + ": " + problems["reason"])
    grouped = problems.assign(reason=named, table=table).groupby("row", sort=True)
    merged = grouped.agg(
        table=("table", "first"),
        source_file=("source_file", "first"),
        field=("field", "first"),
        value=("value", "first"),
        reason=("reason", "; ".join),
    )
    return pd.concat([rejections(), merged.reset_index()], ignore_index=True)[list(rejections().columns)]
