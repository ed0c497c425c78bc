"""Reads the batteries CSV (nominal data of each battery) and merges it into the telemetry of any source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from telemetry.chemistries import CHEMISTRY_NAMES
from telemetry.contract import BATTERY_FIELDS, BATTERY_ID, Field
from telemetry.errors import TwinError
from telemetry.sources.base import Telemetry, complete
from telemetry.sources.raw import read_csv

_NAMES = tuple(f.name for f in BATTERY_FIELDS)


def read_batteries(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """A CSV with contract columns, and notes on ignored columns; every cell but the id may be empty.

    Raises:
        TwinError: names the invalid file, row, column and value.
    """
    if not path.is_file():
        raise TwinError(
            f"the batteries table {path} does not exist; correct source.batteries",
            field="source.batteries",
            value=str(path),
        )
    raw = read_csv(path, ["battery_id"], also=_NAMES)
    for row, reason in raw.malformed.items():
        raise TwinError(f"{path.name}, row {row}: {reason}; correct the row", field="source.batteries")
    columns = {f.name: _values(raw.cells[f.name], f, path.name) for f in BATTERY_FIELDS if f.name in raw.cells}
    table = complete(pd.DataFrame(columns), BATTERY_FIELDS)
    twice = table.loc[table["battery_id"].duplicated(), "battery_id"]
    if len(twice):
        raise TwinError(
            f"{path.name} describes {twice.iloc[0]} twice; keep one row", field="battery_id", value=twice.iloc[0]
        )
    ignored = [c for c in raw.header if c not in _NAMES]
    return table, [f"{path.name}: column {column} is not one of the contract and was ignored" for column in ignored]


def merge_batteries(telemetry: Telemetry, table: pd.DataFrame, notes: list[str]) -> Telemetry:
    """`telemetry` with the nominal data of `table`, which takes precedence over that of the source."""
    known = telemetry.batteries.set_index("battery_id")
    described = table.set_index("battery_id")
    unknown = sorted(set(described.index) - set(known.index))
    merged = described.loc[described.index.isin(known.index)].reindex(known.index).combine_first(known)
    unknown_notes = [f"the batteries table describes {i}, of which there is no telemetry" for i in unknown]
    return replace(
        telemetry,
        batteries=complete(merged.reset_index(), BATTERY_FIELDS),
        notes=[*telemetry.notes, *notes, *unknown_notes],
    )


def fill_defaults(telemetry: Telemetry, defaults: Mapping[str, float | str]) -> Telemetry:
    """`telemetry` with `defaults` in place of missing nominal data.

    Raises:
        TwinError: a default is not a field of a battery or has an impossible value.
    """
    batteries = telemetry.batteries.copy()
    fields = {f.name: f for f in BATTERY_FIELDS if f.name != "battery_id"}
    for name, value in defaults.items():
        if name not in fields:
            raise TwinError(
                f"battery_defaults.{name} is not a field of a battery; known are {', '.join(fields)}",
                field=f"battery_defaults.{name}",
            )
        text = pd.Series([str(value)], index=[1], dtype="str")
        batteries[name] = batteries[name].fillna(_values(text, fields[name], "battery_defaults").iloc[0])
    return replace(telemetry, batteries=complete(batteries, BATTERY_FIELDS))


def _values(text: pd.Series, field: Field, name: str) -> pd.Series:
    """The cells of one column in the contract's type; an invalid one is an error, not a rejected row."""
    text = text.str.strip()
    present = text != ""
    values = _parsed(text.where(present), field)
    bad = present & values.isna()
    if field.minimum is not None:
        bad |= values < field.minimum
    if field.maximum is not None:
        bad |= values > field.maximum
    if field.required:
        bad |= ~present
    if bad.any():
        row, found = next((row, cell) for row, cell, is_bad in zip(text.index, text, bad, strict=True) if is_bad)
        raise TwinError(
            f"{name}, row {row}: {field.name} is {found!r}; {_allowed(field)}", field=field.name, value=found
        )
    return values


def _parsed(text: pd.Series, field: Field) -> pd.Series:
    if field.kind == "time":
        return pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True).astype("datetime64[us, UTC]")
    if field.kind == "float":
        return pd.to_numeric(text, errors="coerce").astype("float64")
    if field.name == "battery_id":
        return text.where(text.str.match(BATTERY_ID))
    if field.name == "chemistry":
        upper = text.str.upper()
        return upper.where(upper.isin(CHEMISTRY_NAMES))
    return text


def _allowed(field: Field) -> str:
    if field.kind == "float":
        return f"it must be a number from {field.minimum:g} to {field.maximum:g}" + (
            f" {field.unit}" if field.unit else ""
        )
    if field.kind == "time":
        return "it must be a date or time such as 2021-05-01"
    if field.name == "chemistry":
        return f"it must be one of {', '.join(CHEMISTRY_NAMES)}"
    return "it must be 1 to 50 characters of A-Z a-z 0-9 _ . -"
